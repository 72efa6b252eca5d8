"""ArrowHead: three kinds of projectile points. 36 training, 175 test series of length 251.

    python -m flax_sepconv.training --config configs/arrow_head.py

The recipe of `univariate.py`. Test accuracy 0.8251 (seeds 0, 1, 2, 3, 4: 0.8457, 0.8114, 0.8057,
0.8286, 0.8343), 0.8171 with the five networks' probabilities averaged; 11,919 parameters.
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("ArrowHead")
