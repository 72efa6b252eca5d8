"""ItalyPowerDemand: winter or summer by a day's power. 67 training, 1029 test series of length 24.

    python -m flax_sepconv.training --config configs/italy_power_demand.py

SCORES
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("ItalyPowerDemand")
