"""ItalyPowerDemand: winter or summer by a day's power. 67 training, 1029 test series of length 24.

    python -m flax_sepconv.training --config configs/italy_power_demand.py

Expected: 20 s on two shared cores; test accuracy 0.958 (seeds 0, 1, 2: 0.957, 0.957, 0.959).
The recipe was not tuned on this set.
The three seeds ran before initial weights were projected; seed 0 run again since: 0.960. What
differs there is rounding, and what it does to the score of so small a set.
"""

import ml_collections

from flax_sepconv.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.data.name = "ItalyPowerDemand"
    config.augment.crop = 0.1
    config.augment.scale = 0.1
    config.augment.noise = 0.05
    config.model.kernel_size = 5
    config.model.stem_multiplier = 16
    config.model.pool = 1
    config.train.batch_size = 16
    config.train.epochs = 200
    config.train.learning_rate = 3e-3
    return config
