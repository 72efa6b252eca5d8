"""Any data set of one channel; its name stands behind a colon.

    python -m flax_sepconv.training --config configs/univariate.py:OSULeaf

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config(name: str = "OSULeaf") -> ml_collections.ConfigDict:
    return univariate(name)
