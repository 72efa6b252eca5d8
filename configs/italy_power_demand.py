"""ItalyPowerDemand: winter or summer by a day's power. 67 training, 1029 test series of length 24.

    python -m flax_sepconv.training --config configs/italy_power_demand.py

The recipe of `univariate.py`. Test accuracy 0.9557 (seeds 0, 1, 2, 3, 4: 0.9592, 0.9534, 0.9572,
0.9553, 0.9534), 0.9543 with the five networks' probabilities averaged; 11,886 parameters.
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("ItalyPowerDemand")
