"""JapaneseVowels: which of nine speakers said /ae/? 270 training, 370 test utterances.

    python -m flax_sepconv.training --config configs/japanese_vowels.py

The recipe of `multivariate.py`. Test accuracy 0.9903 (seeds 0, 1, 2, 3, 4: 0.9865, 0.9919, 0.9919,
0.9919, 0.9892), 0.9892 with the five networks' probabilities averaged; 111,001 parameters.
"""

import ml_collections

from flax_sepconv.training.recipes import multivariate


def get_config() -> ml_collections.ConfigDict:
    return multivariate("JapaneseVowels")
