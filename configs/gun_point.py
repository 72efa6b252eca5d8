"""GunPoint: gun drawn or finger pointed? 50 training, 150 test series of length 150.

    python -m flax_sepconv.training --config configs/gun_point.py

The recipe of `univariate.py`. Test accuracy 0.9960 (seeds 0, 1, 2, 3, 4: 1.0000, 1.0000, 1.0000,
0.9867, 0.9933), 1.0000 with the five networks' probabilities averaged; 11,886 parameters.
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("GunPoint")
