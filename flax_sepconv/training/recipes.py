"""The settings that the config files of the data sets share: one recipe for each kind of series.

A config file calls one of them and may change what it returns. `configs/univariate.py` and
`configs/multivariate.py` take the name of any set behind a colon.
"""

import ml_collections

from flax_sepconv.training.config import default_config


def univariate(name: str) -> ml_collections.ConfigDict:
    """Return the settings for a data set of one channel, whose name it is.

    >>> univariate("GunPoint").model.differences
    True
    """
    config = default_config()
    config.data.name = name
    config.augment.scale = 0.1
    config.model.width = 32
    config.model.kernel_size = 9
    config.model.dilation = 2
    config.model.stem_kernel_size = 41
    config.model.stem_branches = 3
    config.model.stem_multiplier = 8
    config.model.fixed_filters = 6
    config.model.differences = True
    config.model.detail_gain = 16.0
    config.model.summary = "mean"
    config.model.dropout = 0.0
    config.train.batch_size = 8
    config.train.epochs = 150
    config.train.min_steps = 2000
    config.train.learning_rate = 3e-3
    return config


def multivariate(name: str) -> ml_collections.ConfigDict:
    """Return the settings for a data set of several channels, whose name it is.

    >>> multivariate("BasicMotions").augment.crop
    0.2
    """
    config = default_config()
    config.data.name = name
    config.augment.crop = 0.2
    config.augment.shift = 0.3  # a speaker's offset on another day
    config.model.width = 128
    config.model.blocks = 3
    config.model.kernel_size = 3
    config.model.stem_multiplier = 4
    config.train.epochs = 80
    config.train.min_steps = 640
    config.train.learning_rate = 3e-3
    config.train.warmup = 0.0625
    return config
