"""The experiment's settings: what a config file may say, with defaults, types and ranges.

A config file starts from `default_config`, changes fields and returns the result from
``get_config()``; `from_config_dict` turns that into the frozen `Config` the rest of the code reads.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections


class UserError(Exception):
    """Something only the caller can mend; its text is one line that says what."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data set, and how it is prepared."""

    name: str = "JapaneseVowels"  # folder and file stem: NAME/NAME_TRAIN.ts, NAME/NAME_TEST.ts
    path: str = ""  # folder that holds NAME/; empty = the sets inside the aeon package
    standardize: str = "channel"  # "channel" (training mean, std), "series" (its own), "none"
    validation_fraction: float = 0.0  # part of the training set kept out to choose `best`


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training series; every zero switches one off."""

    crop: float = 0.0  # at most this part of a series is cut from its two ends
    stretch: float = 0.0  # the rest is resampled to its length times exp(U(-stretch, stretch))
    scale: float = 0.0  # standard deviation of a log-normal factor, one per channel
    shift: float = 0.0  # standard deviation of an offset, one per channel
    noise: float = 0.0  # standard deviation of white noise


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The residual network."""

    width: int = 64  # channels of every block
    blocks: int = 3  # residual blocks, two separable convolutions each
    kernel_size: int = 5
    padding: str = "same"  # or "causal": no step sees a later one, and runs can be streamed
    stem_multiplier: int = 4  # depth_multiplier of the first layer
    pool: int = 1  # max-pooling window and stride before every block but the first
    dropout: float = 0.2
    depthwise_max_norm: float = 1.0  # bound of each channel's norm over the taps
    pointwise_max_norm: float = 2.0  # bound of each filter's norm over all its inputs
    l2: float = 1e-5  # on both kernels of every separable convolution


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Optimisation, reporting, and which weights are evaluated at the end."""

    seed: int = 0
    epochs: int = 100
    batch_size: int = 32
    eval_batch_size: int = 128
    learning_rate: float = 1e-3  # at its peak; a cosine takes it down to zero
    warmup: float = 0.05  # part of the run during which the rate rises linearly
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    label_smoothing: float = 0.0
    ema_decay: float = 0.99  # of the averaged weights, which are the ones evaluated; 0 = none
    evaluate: str = "last"  # which of the averaged weights: "last" or "best"
    report_every: int = 1  # epochs between two lines of metrics
    checkpoint_every: int = 10  # epochs between two checkpoints


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()


_Rule = tuple[str, Callable[[Any], bool]]
_POSITIVE: _Rule = ("must be > 0", lambda v: v > 0)
_NOT_NEGATIVE: _Rule = ("must be >= 0", lambda v: v >= 0)
_FRACTION: _Rule = ("must be in [0, 1)", lambda v: 0 <= v < 1)


def _one_of(*names: str) -> _Rule:
    return f"must be one of {', '.join(names)}", lambda v: v in names


_RULES: dict[str, _Rule] = {
    "data.name": ("must be a plain name", lambda v: bool(v) and "/" not in v and v != ".."),
    "data.standardize": _one_of("channel", "series", "none"),
    "data.validation_fraction": _FRACTION,
    "augment.crop": _FRACTION,
    **{f"augment.{name}": _NOT_NEGATIVE for name in ("stretch", "scale", "shift", "noise")},
    **{f"model.{name}": _POSITIVE for name in ("width", "blocks", "stem_multiplier", "pool")},
    "model.kernel_size": ("must be odd and > 0", lambda v: v > 0 and v % 2 == 1),
    "model.padding": _one_of("same", "causal"),
    "model.dropout": _FRACTION,
    "model.depthwise_max_norm": _POSITIVE,
    "model.pointwise_max_norm": _POSITIVE,
    "model.l2": _NOT_NEGATIVE,
    "train.seed": ("must be in [0, 2**31)", lambda v: 0 <= v < 2**31),
    **{
        f"train.{name}": _POSITIVE
        for name in (
            "epochs", "batch_size", "eval_batch_size", "learning_rate", "clip_norm",
            "report_every", "checkpoint_every",
        )
    },
    "train.warmup": _FRACTION,
    "train.weight_decay": _NOT_NEGATIVE,
    "train.label_smoothing": _FRACTION,
    "train.ema_decay": _FRACTION,
    "train.evaluate": _one_of("last", "best"),
}  # fmt: skip


def default_config() -> ml_collections.ConfigDict:
    """Return the defaults as a locked `ConfigDict`: a config file changes fields, adds none."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config())).lock()


def _checked(path: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"config.{path} must be of type {kind.__name__}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"config.{path} must be finite, got {value!r}")
    rule, holds = _RULES.get(path, ("", lambda _: True))
    if not holds(value):
        raise UserError(f"config.{path} {rule}, got {value!r}")
    return value


def _build(defaults: Any, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{path} must be a mapping of settings, got {values!r}")
    fields = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    for name in values:
        if name not in fields:
            raise UserError(f"{path}.{name} is not a setting; there are: {', '.join(fields)}")
    made = {}
    for name, default in fields.items():
        where = f"{path}.{name}"
        if name not in values:
            made[name] = default
        elif dataclasses.is_dataclass(default):
            made[name] = _build(default, values[name], where)
        else:
            made[name] = _checked(where.removeprefix("config."), values[name], default)
    return type(defaults)(**made)


def from_config_dict(values: Any) -> Config:
    """Check a config file's result and return it as a frozen `Config`.

    Args:
      values: a `ConfigDict` or nested dicts; fields left out keep their defaults.

    Raises:
      UserError: unknown field, wrong type, or a value outside its range; the field is named.

    >>> from_config_dict({"train": {"epochs": 3}}).train.epochs
    3
    >>> from_config_dict({"train": {"epoch": 3}})
    Traceback (most recent call last):
    ...
    flax_sepconv.training.config.UserError: config.train.epoch is not a setting; there are: ...
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    config: Config = _build(Config(), values, "config")
    return config
