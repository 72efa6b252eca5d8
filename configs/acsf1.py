"""ACSF1: ten kinds of appliances by their current. 100 training, 100 test series of length 1460.

    python -m flax_sepconv.training --config configs/acsf1.py

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("ACSF1")
