"""OSULeaf: six species by the outline of a leaf. 200 training, 242 test series of length 427.

    python -m flax_sepconv.training --config configs/osu_leaf.py

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("OSULeaf")
