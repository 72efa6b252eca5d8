"""Time one step of streams against the product with the pointwise kernel that is part of it.

A stream gives the layer one step, or a few, at a time. The product alone (x W + b, a matrix-vector
one for one step of one stream) reads nearly all the weights, and is what the step is measured by.
It is timed twice: as a jitted call, and in NumPy, whose BLAS may be faster than XLA's product. Both
jitted calls, the step's and the product's, contain what any such call costs before and after its
work; NumPy's does not. So a jitted call that does nothing is timed too (`dispatch`), and the floor
that the ratio is taken over is the lesser of the jitted product and of NumPy's plus the dispatch.

Beside it stands what one would write with Flax's layers: `nn.Conv` over the last K steps, then
`nn.Dense`. Results are compared with NumPy float64 before anything is timed, and all programs are
sampled in turn. Medians are printed and written as JSON with the versions and the device.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flags, machine, timing
from flax_sepconv import ops

# `--check` wants the first row's step within so many times its floor.
ALLOWED = 1.5


class Stream(NamedTuple):
    """B streams that are given T steps at a time."""

    batch: int
    steps: int
    channels: int
    filters: int
    kernel_size: int

    def __str__(self) -> str:
        return f"B{self.batch} T{self.steps} C{self.channels}->{self.filters} K{self.kernel_size}"


STREAMS = (
    Stream(1, 1, 512, 512, 31),
    Stream(1, 1, 512, 512, 4),
    Stream(1, 1, 64, 64, 31),
    Stream(1, 2, 512, 512, 31),
    Stream(1, 8, 512, 512, 31),
    Stream(8, 1, 512, 512, 31),
)

NAMES = ("dispatch", "numpy", "product", "step", "flax")

Program = Callable[[], Any]


def operands(stream: Stream) -> dict[str, np.ndarray]:
    """Draw a chunk, what came before it, and weights."""
    rng = np.random.default_rng(0)
    B, T, C, F, K = stream
    shapes = {
        "x": (B, T, C),
        "history": (B, K - 1, C),
        "depthwise": (K, C, 1),
        "pointwise": (1, C, F),
        "bias": (F,),
    }
    return {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}


def expected(drawn: dict[str, np.ndarray]) -> np.ndarray:
    """Compute a step's output in float64."""
    wide = {name: value.astype(np.float64) for name, value in drawn.items()}
    joined = np.concatenate([wide["history"], wide["x"]], 1)
    K = len(wide["depthwise"])
    windows = np.lib.stride_tricks.sliding_window_view(joined, K, axis=1)
    h = np.einsum("btck,kc->btc", windows, wide["depthwise"][..., 0])
    return h @ wide["pointwise"][0] + wide["bias"]


def product(x: Any, state: Any, depthwise: Any, pointwise: Any, bias: Any) -> Any:
    """Contract the channels: what any step must do."""
    del state, depthwise
    return x @ pointwise[0] + bias


def nothing(x: Any, *others: Any) -> Any:
    """Do no work: what is left is the call."""
    del others
    return x


def with_flax(x: Any, state: Any, depthwise: Any, pointwise: Any, bias: Any) -> Any:
    """Take the step with Flax's own layers."""
    joined = jnp.concatenate([state.history, x], 1)
    (K, C, _), (F,) = depthwise.shape, bias.shape
    conv = nn.Conv(C, (K,), padding="VALID", feature_group_count=C, use_bias=False)
    h = conv.apply({"params": {"kernel": depthwise.swapaxes(1, 2)}}, joined)
    dense = {"kernel": pointwise[0], "bias": bias}
    return nn.Dense(F).apply({"params": dense}, h), joined[:, x.shape[1] :]


def programs_of(stream: Stream) -> dict[str, Program]:
    """Compile what is timed, after comparing what the products and the steps give."""
    drawn = operands(stream)
    arrays = {name: jax.device_put(value) for name, value in drawn.items()}
    weights = [arrays[name] for name in ("depthwise", "pointwise", "bias")]
    state = ops.initial_state(arrays["x"].shape, weights[0].shape)
    state = state.replaced({"history": arrays["history"]})
    # As rows, or NumPy would multiply stream by stream.
    rows, pointwise, bias = (
        drawn["x"].reshape(-1, stream.channels),
        drawn["pointwise"],
        drawn["bias"],
    )
    programs: dict[str, Program] = {"numpy": lambda: rows @ pointwise[0] + bias}
    for name, function in (
        ("dispatch", nothing),
        ("product", product),
        ("step", ops.separable_conv1d_step),
        ("flax", with_flax),
    ):
        given = (arrays["x"], state, *weights)
        compiled = jax.jit(function).lower(*given).compile()
        programs[name] = functools.partial(
            lambda compiled, given: jax.block_until_ready(compiled(*given)), compiled, given
        )
    alone = drawn["x"].astype(np.float64) @ drawn["pointwise"][0] + drawn["bias"]
    whole = expected(drawn)
    for name, reference in (("numpy", alone), ("product", alone), ("step", whole), ("flax", whole)):
        result = programs[name]()
        y = np.asarray(result[0] if name in ("step", "flax") else result)
        worst = np.abs(y.reshape(reference.shape) - reference).max() / np.abs(reference).max()
        if not worst <= 1e-5:
            raise SystemExit(f"{stream}: {name} is off by {worst:.1e}")
    return {name: programs[name] for name in NAMES}


def measure(stream: Stream, seconds: float) -> dict[str, Any]:
    """Time the programs of a stream in turn."""
    programs = programs_of(stream)
    clocks = {name: functools.partial(timing.clock, run) for name, run in programs.items()}
    samples = timing.interleaved(clocks, seconds)
    times = timing.medians(samples)
    floor = min(times["product"], times["numpy"] + times["dispatch"])
    return {
        "stream": str(stream),
        **{name: timing.statistics_of(values) for name, values in samples.items()},
        "step_over_floor": times["step"] / floor,
        "step_over_product": times["step"] / times["product"],
        "flax_over_step": times["flax"] / times["step"],
    }


def show(row: dict[str, Any]) -> str:
    """Format one row as a line."""
    times = "".join(f"{1e3 * row[name]['milliseconds']:10.1f}" for name in NAMES)
    ratios = f"{row['step_over_floor']:14.2f}{row['step_over_product']:16.2f}"
    return f"{row['stream']:26}{times}{ratios}{row['flax_over_step']:13.1f}"


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, write, and check the first row."""
    parser = flags.Parser(
        prog="python -m benchmarks step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_seconds(parser, 1.0, "for one program")
    flags.add_output(parser, "step.json")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 where the first step takes over {ALLOWED} times its floor",
    )
    arguments = parser.parse_args(argv)
    flags.check(parser, arguments)
    if busy := machine.busy():
        print(busy)
    print(f"{'microseconds (median)':26}" + "".join(f"{name:>10}" for name in NAMES), end="")
    print(f"{'step / floor':>14}{'step / product':>16}{'flax / step':>13}")
    rows: list[dict[str, Any]] = []
    record = {**machine.facts("jax", "jaxlib", "flax", "numpy"), "rows": rows}
    with machine.kept(arguments.output, record, len(STREAMS)):
        for stream in STREAMS:
            rows.append(measure(stream, arguments.seconds))
            print(show(rows[-1]), flush=True)
    if arguments.check and rows[0]["step_over_floor"] > ALLOWED:
        raise SystemExit(f"the first step takes over {ALLOWED} times its floor")
