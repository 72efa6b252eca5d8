"""ACSF1."""

import ml_collections

from flax_sepconv.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.data.name = "ACSF1"
    config.model.kernel_size = 31
    config.model.stem_multiplier = 16
    config.model.pool = 4
    config.train.batch_size = 16
    config.train.epochs = 80
    config.train.learning_rate = 3e-3
    return config
