"""GunPoint: gun drawn or finger pointed? 50 training, 150 test series of length 150.

    python -m flax_sepconv.training --config configs/gun_point.py

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("GunPoint")
