"""BasicMotions: four activities by six channels. 40 training, 40 test series of length 100.

    python -m flax_sepconv.training --config configs/basic_motions.py

The recipe of `multivariate.py`. Test accuracy 0.9900 (seeds 0, 1, 2, 3, 4: 1.0000, 1.0000, 1.0000,
0.9750, 0.9750), 1.0000 with the five networks' probabilities averaged; 106,572 parameters.
"""

import ml_collections

from flax_sepconv.training.recipes import multivariate


def get_config() -> ml_collections.ConfigDict:
    return multivariate("BasicMotions")
