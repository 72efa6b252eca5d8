"""ArrowHead: three kinds of projectile points. 36 training, 175 test series of length 251.

    python -m flax_sepconv.training --config configs/arrow_head.py

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("ArrowHead")
