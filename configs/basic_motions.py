"""BasicMotions: four activities by six channels. 40 training, 40 test series of length 100.

    python -m flax_sepconv.training --config configs/basic_motions.py

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import multivariate


def get_config() -> ml_collections.ConfigDict:
    return multivariate("BasicMotions")
