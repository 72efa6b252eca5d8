"""The experiment's settings: what a config file may say, with defaults, meanings and rules.

A config file starts from `default_config`, changes fields and returns the result from
``get_config()``; `from_config_dict` turns that into the frozen `Config` the rest of the code reads.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from flax_sepconv.training.settings import (
    FRACTION,
    MINUS_ONE_OR_POSITIVE,
    NAME,
    NOT_NEGATIVE,
    ODD,
    ODD_OR_ZERO,
    POSITIVE,
    SEED,
    UP_TO_TEN,
    UserError,
    one_of,
    setting,
)

TaskName = Literal["classification", "regression", "multilabel"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data set, and how it is prepared."""

    name: str = setting(
        "JapaneseVowels", "the data set, as its files or their folder are called", NAME
    )
    path: str = setting(
        "",
        "folder of data sets, folder of one, or its file; empty: the sets inside the package aeon",
    )
    format: Literal["auto", "ts", "csv", "npz", "tsv"] = setting(
        "auto",
        "how it is stored; auto: the first of these whose files are there",
        one_of("auto", "ts", "csv", "npz", "tsv"),
    )
    task: Literal["classification", "regression", "multilabel"] = setting(
        "classification",
        "what is learned of each series: its class, a value, or which labels it has",
        one_of("classification", "regression", "multilabel"),
    )
    label_column: str = setting("label", "column of a CSV table with the labels or values")
    split_column: str = setting(
        "split", "column with train, validation or test; it need not be there"
    )
    series_column: str = setting("series", "column of a long table that names the series")
    time_column: str = setting(
        "time", "column of a long table that orders the steps of a series; empty: they are in order"
    )
    channel_columns: str = setting(
        "", "columns of a long table that are channels, with commas; empty: all others"
    )
    test_fraction: float = setting(
        0.2, "part of the series drawn for the test, of data that have no split", FRACTION
    )
    split_seed: int = setting(0, "seed of that draw", SEED)
    standardize: str = setting(
        "channel",
        "subtract the mean and divide by the deviation: of each channel in the training series "
        "(channel), of each series by itself (series), or not at all (none)",
        one_of("channel", "series", "none"),
    )
    validation_fraction: float = setting(
        0.0, "part of the training series kept out to choose the best weights by", FRACTION
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training series; every zero switches one off."""

    crop: float = setting(0.0, "largest part of a series that is cut from its two ends", FRACTION)
    stretch: float = setting(
        0.0,
        "the rest is resampled to its length times exp(u), u uniform in [-stretch, stretch]",
        NOT_NEGATIVE,
    )
    scale: float = setting(
        0.0, "standard deviation of the logarithm of a factor, one per channel", NOT_NEGATIVE
    )
    shift: float = setting(0.0, "standard deviation of an offset, one per channel", NOT_NEGATIVE)
    noise: float = setting(0.0, "standard deviation of white noise", NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The residual network."""

    width: int = setting(64, "channels of every block", POSITIVE)
    blocks: int = setting(3, "residual blocks, two separable convolutions each", POSITIVE)
    kernel_size: int = setting(5, "taps of every depthwise kernel", ODD)
    dilation: int = setting(
        1, "dilation rate of a block over that of the one before; the first has 1", POSITIVE
    )
    padding: Literal["same", "causal"] = setting(
        "same",
        "with causal, no step sees a later one, and the run can be streamed",
        one_of("same", "causal"),
    )
    stem_multiplier: int = setting(4, "depth multiplier of the first layer", POSITIVE)
    stem_kernel_size: int = setting(
        0,
        "taps of the depthwise kernels of the first layer; 0: as many as kernel_size",
        ODD_OR_ZERO,
    )
    stem_branches: int = setting(
        1,
        "depthwise kernels of the first layer side by side, each about half as long as the one "
        "before",
        POSITIVE,
    )
    fixed_filters: int = setting(
        0,
        "the first layer also sees where steps and peaks are, by filters that are not trained, of "
        "2, 4, 8, ... taps: so many lengths",
        UP_TO_TEN,
    )
    differences: bool = setting(
        False,
        "the difference of each step from the one before is an input too; all inputs are then "
        "normalised as those of a block are",
    )
    detail_gain: float = setting(
        0.0,
        "the logarithmic scale of differences and of what fixed filters answer: each d becomes "
        "arcsinh(detail_gain * d), so that small ones count beside large ones; 0: they stay so",
        NOT_NEGATIVE,
    )
    pool: int = setting(
        1, "window and stride of the max-pooling before every block but the first", POSITIVE
    )
    summary: Literal["mean_max", "mean"] = setting(
        "mean_max",
        "what the classifier sees of each channel: its mean and maximum, or its mean alone",
        one_of("mean_max", "mean"),
    )
    dropout: float = setting(0.2, "part of the activations that is dropped", FRACTION)
    depthwise_max_norm: float = setting(
        1.0, "bound of each channel's norm over the taps of a depthwise kernel", POSITIVE
    )
    pointwise_max_norm: float = setting(
        2.0, "bound of each filter's norm over all its inputs", POSITIVE
    )
    l2: float = setting(
        1e-5, "L2 penalty on both kernels of every separable convolution", NOT_NEGATIVE
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "what the blocks compute in; weights, statistics, the loss and the optimiser are float32",
        one_of("float32", "bfloat16"),
    )
    remat: bool = setting(
        False, "keep no activations inside a block: less memory, and each is computed twice"
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Optimisation, reporting, and which weights are evaluated at the end."""

    seed: int = setting(0, "seed of weights, batches, augmentation and dropout", SEED)
    epochs: int = setting(100, "passes over the training series", POSITIVE)
    min_steps: int = setting(
        0,
        "training steps at the least: where there are few series, there are as many more epochs as "
        "it takes",
        NOT_NEGATIVE,
    )
    batch_size: int = setting(32, "series in a training step", POSITIVE)
    accumulation: int = setting(
        1,
        "micro batches that a step computes one after another, each normalised by its own "
        "statistics; the gradients are averaged",
        POSITIVE,
    )
    eval_batch_size: int = setting(128, "series evaluated at once", POSITIVE)
    learning_rate: float = setting(
        1e-3, "learning rate at its peak; a cosine takes it down to zero", POSITIVE
    )
    warmup: float = setting(0.05, "part of the run in which the rate rises linearly", FRACTION)
    weight_decay: float = setting(1e-2, "weight decay of AdamW", NOT_NEGATIVE)
    clip_norm: float = setting(5.0, "bound of the norm of all gradients", POSITIVE)
    label_smoothing: float = setting(0.0, "part of a label spread over all classes", FRACTION)
    class_weights: Literal["none", "balanced"] = setting(
        "none",
        "with balanced, each series counts in the training loss by series / (classes * series of "
        "its class); validation and test losses stay without weights",
        one_of("none", "balanced"),
    )
    ema_decay: float = setting(
        0.99,
        "decay of the averaged weights, which are the ones evaluated; 0: no average",
        FRACTION,
    )
    evaluate: str = setting(
        "last",
        "which of the averaged weights are evaluated: those of the last step, or the best ones by "
        "validation loss (without held out series by training loss); with early_stopping best is "
        "what is meant, for the last step is past it",
        one_of("last", "best"),
    )
    early_stopping: int = setting(
        0,
        "stop after so many epochs without a lower validation loss; needs "
        "config.data.validation_fraction; 0: train to the end",
        NOT_NEGATIVE,
    )
    early_stopping_delta: float = setting(
        0.0, "by how much more than this a loss must be lower, for early_stopping", NOT_NEGATIVE
    )
    report_every: int = setting(1, "epochs between two lines of metrics", POSITIVE)
    checkpoint_every: int = setting(10, "epochs between two checkpoints", POSITIVE)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How a run is divided over devices; a resumed run may be divided in another way."""

    data: int = setting(
        -1, "how many devices divide a batch; -1: as many as there are", MINUS_ONE_OR_POSITIVE
    )
    sequence: int = setting(1, "how many devices divide the steps of a series", POSITIVE)
    model: int = setting(
        1,
        "how many devices divide the filters of pointwise kernels, where these can be divided",
        POSITIVE,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()


_DEFAULTS: dict[str, dict[str, Any]] = dataclasses.asdict(Config())


def _unknown(group: str, name: Any) -> str:
    """Say that a group ("": the whole) has no such setting, which was meant, and what it has."""
    known = _DEFAULTS[group] if group else _DEFAULTS
    path = f"config.{group}" if group else "config"
    meant = [f"{path}.{match}" for match in difflib.get_close_matches(str(name), known, 1)]
    meant += [f"config.{other}.{name}" for other in _DEFAULTS if name in _DEFAULTS[other]]
    hint = f"did you mean {meant[0]}? " if meant else ""
    return f"{path}.{name} is not a setting; {hint}there are: {', '.join(known)}"


def check_name(path: str) -> None:
    """Check that there is a setting, or a group of them, at a dotted path such as "train.epochs".

    Raises:
      UserError: there is none; those that there are are named.
    """
    group, *name = path.split(".", 1)
    if group not in _DEFAULTS:
        raise UserError(_unknown("", group))
    if name and name[0] not in _DEFAULTS[group]:
        raise UserError(_unknown(group, name[0]))


class _Settings(ml_collections.ConfigDict):
    """A `ConfigDict` of settings: where a name is wrong, it says which there are."""

    def _refuse(self, name: Any) -> None:
        group = next((g for g, values in _DEFAULTS.items() if set(values) == set(self)), "")
        raise KeyError(_unknown(group, name))

    def __getitem__(self, name: Any) -> Any:
        if name not in self and "." not in str(name):
            self._refuse(name)
        return super().__getitem__(name)

    def __setitem__(self, name: Any, value: Any) -> None:
        if name not in self and self.is_locked:
            self._refuse(name)
        super().__setitem__(name, value)


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """Return the settings as a locked `ConfigDict`: they can be changed, and none added."""
    groups = {name: _Settings(values) for name, values in dataclasses.asdict(config).items()}
    made = _Settings()
    for name, values in groups.items():
        made[name] = values
    return made.lock()


def default_config() -> ml_collections.ConfigDict:
    """Return the defaults as a locked `ConfigDict`: a config file changes fields, adds none."""
    return to_config_dict(Config())


def complete(values: Any) -> Any:
    """Add the defaults of what a config file leaves out, so that every setting can be changed.

    What is no mapping of settings is returned as it is, and refused by `from_config_dict`.
    """
    if isinstance(values, dict):
        values = ml_collections.ConfigDict(values)
    if isinstance(values, ml_collections.ConfigDict):
        with values.unlocked():
            for group, defaults in _DEFAULTS.items():
                if group not in values:
                    values[group] = {}
                if isinstance(values[group], ml_collections.ConfigDict):
                    for name in defaults.keys() - set(values[group]):
                        values[group][name] = defaults[name]
    return values


def _checked(path: str, value: Any, field: Any) -> Any:
    kind, rule = type(field.default), field.metadata["rule"]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{path} must be of type {kind.__name__}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{path} must be finite, got {value!r}")
    if rule and not rule.holds(value):
        raise UserError(f"{path} {rule.text}, got {value!r}")
    return value


def _group(name: str, values: Any) -> Mapping[Any, Any]:
    """Return the values of a group ("": the whole) if it has all these settings."""
    if not isinstance(values, Mapping):
        path = f"config.{name}" if name else "config"
        raise UserError(f"{path} must be a mapping of settings, got {values!r}")
    for key in values:
        if key not in (_DEFAULTS[name] if name else _DEFAULTS):
            raise UserError(_unknown(name, key))
    return values


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
    flax_sepconv.training.settings.UserError: config.train.epoch is not a setting; did you mean...
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    values = _group("", values)
    groups: dict[str, Any] = {}
    for group in dataclasses.fields(Config):
        kind: Any = type(group.default)
        given = {**_DEFAULTS[group.name], **_group(group.name, values.get(group.name, {}))}
        settings = {
            field.name: _checked(f"config.{group.name}.{field.name}", given[field.name], field)
            for field in dataclasses.fields(kind)
        }
        groups[group.name] = kind(**settings)
    if groups["data"].task == "regression" and groups["train"].label_smoothing:
        raise UserError("config.train.label_smoothing must be 0 where config.data.task=regression")
    return Config(**groups)
