"""OSULeaf: six species by the outline of a leaf. 200 training, 242 test series of length 427.

    python -m flax_sepconv.training --config configs/osu_leaf.py

The recipe of `univariate.py`. Test accuracy 0.9876 (seeds 0, 1, 2, 3, 4: 0.9835, 0.9876, 0.9876,
0.9876, 0.9917), 0.9876 with the five networks' probabilities averaged; 12,018 parameters.
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("OSULeaf")
