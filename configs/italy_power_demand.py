"""ItalyPowerDemand: winter or summer by a day's power. 67 training, 1029 test series of length 24.

    python -m flax_sepconv.training --config configs/italy_power_demand.py

The recipe of `univariate.py`. Test accuracy 0.9677 (seeds 0, 1, 2, 3, 4: 0.9670, 0.9718, 0.9699,
0.9660, 0.9640), 0.9699 with the five networks' probabilities averaged; 11,094 parameters.
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config() -> ml_collections.ConfigDict:
    return univariate("ItalyPowerDemand")
