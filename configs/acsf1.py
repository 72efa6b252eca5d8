"""ACSF1: ten kinds of appliances by their current. 100 training, 100 test series of length 1460.

    python -m flax_sepconv.training --config configs/acsf1.py

The recipe of `univariate.py`. Test accuracy 0.9260 (seeds 0, 1, 2, 3, 4: 0.9300, 0.9400, 0.9300,
0.9100, 0.9200), 0.9200 with the five networks' probabilities averaged; 12,150 parameters.
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("ACSF1")
