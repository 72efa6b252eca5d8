"""Small examples of every module in examples/, and how to run them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import citrinet, conformer, conv_tasnet, convnext, lite, mamba, matchboxnet, quartznet


class Case(NamedTuple):
    """A module and what goes in and out of it.

    Attributes:
        module: of small widths.
        channels: of its input (B, L, channels); 0 where that is (B, L).
        output: the shape of its output for B = 3 and L = 24.
        trains: whether it takes `train`.
        strides: input steps for each output step; None: one output for each sequence.
        idle: weights that cannot matter, by a part of their path.
    """

    module: nn.Module
    channels: int
    output: tuple[int, ...]
    trains: bool = True
    strides: int | None = 1
    idle: tuple[str, ...] = ()


SEPARATOR = conv_tasnet.Separator(bottleneck=6, hidden=8, skip=5, blocks=2, repeats=1)
CASES = {
    "quartznet.Block": Case(
        quartznet.Block(8, 5, 2, strides=2, reduction=4), 6, (3, 12, 8), strides=2
    ),
    "quartznet.QuartzNet": Case(
        quartznet.QuartzNet(4, 1, 1, filters=(8,), kernel_sizes=(5,)), 5, (3, 12, 4), strides=2
    ),
    "citrinet.Citrinet": Case(
        citrinet.Citrinet(4, 8, 10, 1, reduction=2, parts=((5,), (4,))), 5, (3, 6, 4), strides=4
    ),
    "matchboxnet.MatchboxNet": Case(
        matchboxnet.MatchboxNet(4, 1, 6, kernel_sizes=(5,), outer_filters=8),
        5,
        (3, 4),
        strides=None,
    ),
    "lite.Lite": Case(lite.Lite(4, filters=5, kernel_size=12), 1, (3, 4), strides=None),
    "conformer.ConvolutionModule": Case(
        conformer.ConvolutionModule(6), 8, (3, 24, 8), idle=("depthwise/bias",)
    ),
    "conformer.Conformer": Case(
        conformer.Conformer(4, 8, 1, 2, 6),
        5,
        (3, 24, 4),
        # Taken away by the batch normalisation; the same for all keys.
        idle=("depthwise/bias", "key/bias"),
    ),
    "convnext.Block": Case(convnext.Block(), 6, (3, 24, 6), trains=False),
    "convnext.Backbone": Case(convnext.Backbone(8, 12, 1, 5), 6, (3, 24, 8), trains=False),
    "conv_tasnet.ConvTasNet": Case(
        conv_tasnet.ConvTasNet(SEPARATOR, 7, 4), 0, (3, 2, 24), False, idle=("block0_1/residual",)
    ),
    "conv_tasnet.Separator": Case(
        SEPARATOR.clone(causal=True), 7, (3, 24, 2, 7), False, idle=("block0_1/residual",)
    ),
    "mamba.ShortConvolution": Case(mamba.ShortConvolution(), 6, (3, 24, 6), trains=False),
}

LENGTHS = np.array([24, 9, 14])
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def variables_of(module: nn.Module, x: Any, seed: int = 0) -> Any:
    """Return variables of which no number is special: no scale is 1, no bias and no mean is 0."""
    shapes = jax.eval_shape(functools.partial(module.init), jax.random.key(0), x)
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.standard_normal(leaf.shape, np.float32)
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.asarray(1 + 0.2 * np.tanh(values))
        if name in ("bias", "mean"):
            return jnp.asarray(0.2 * values)
        terms = leaf.shape[0] if name == "depthwise_kernel" else np.prod(leaf.shape[:-1])
        return jnp.asarray(values / np.sqrt(max(terms, 1)))

    weights = {name: shapes[name] for name in shapes if name != "cache"}
    return jax.tree.map_with_path(draw, weights)


def inputs(case: Case, seed: int = 1) -> jax.Array:
    """Return (3, 24, channels)."""
    shape = (3, 24, case.channels) if case.channels else (3, 24)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def run(case: Case, train: bool, **settings: Any) -> Callable[..., Any]:
    """Return the jitted call (variables, x, lengths=None)."""
    if case.trains:
        settings["train"] = train
    return jax.jit(functools.partial(case.module.apply, **settings))


def spoiled(x: jax.Array, lengths: np.ndarray) -> jax.Array:
    """Put NaN behind the ends."""
    is_real = (jnp.arange(x.shape[1]) < lengths[:, None]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    return jnp.where(is_real, x, jnp.nan)


def real(case: Case, y: jax.Array, lengths: np.ndarray) -> list[jax.Array]:
    """Return the real steps of each output, or the outputs of the sequences."""
    if case.strides is None:
        return list(y)
    if case.channels == 0:
        y = y.swapaxes(1, 2)  # voices behind samples
    return [row[: -(-n // case.strides)] for row, n in zip(y, lengths, strict=True)]
