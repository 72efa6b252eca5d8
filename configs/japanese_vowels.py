"""JapaneseVowels: which of nine speakers said /ae/? 270 training, 370 test utterances.

    python -m flax_sepconv.training --config configs/japanese_vowels.py

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import multivariate


def get_config() -> ml_collections.ConfigDict:
    return multivariate("JapaneseVowels")
