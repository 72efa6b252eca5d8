"""Any data set of several channels; its name stands behind a colon.

    python -m flax_sepconv.training --config configs/multivariate.py:BasicMotions

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import multivariate


def get_config(name: str = "BasicMotions") -> ml_collections.ConfigDict:
    return multivariate(name)
