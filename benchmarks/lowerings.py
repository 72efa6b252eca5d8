"""Time the lowerings of the depthwise stage, contraction by contraction.

What `implementation=None` takes on a platform rests on this table. Every workload is timed with
each lowering in turn, after their results were compared; the median times are printed and written
as JSON with the versions and the device. A lowering that declines a contraction says why, and has
no time there.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import flags, machine, timing, workloads
from flax_sepconv import ops
from flax_sepconv.ops.arguments import DTYPES
from flax_sepconv.ops.context import Context
from flax_sepconv.ops.contraction import CONTRACTIONS, ContractionName
from flax_sepconv.ops.lowerings import LOWERINGS, Implementation

IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)

# `--check` wants the selected lowering this close to the best one.
ALLOWED = 1.15


def program_of(
    workload: workloads.Workload, contraction: ContractionName, lowering: Implementation, dtype: str
) -> Callable[[], jax.Array]:
    """Compile one contraction with one lowering, for operands that are there already."""
    rng = np.random.default_rng(0)
    shapes = (
        (workload.batch, workload.length, workload.channels),
        (workload.kernel_size, workload.channels, workload.depth_multiplier),
        (workload.batch, workload.steps, workload.channels * workload.depth_multiplier),
    )
    x, k, y = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    convolve = functools.partial(
        ops.depthwise_conv1d,
        implementation=lowering,
        strides=workload.strides,
        dilation_rate=workload.dilation_rate,
        padding=workload.padding,
    )
    functions: dict[ContractionName, Callable[..., jax.Array]] = {
        "output": lambda x, k, y: convolve(x, k),
        "input_gradient": lambda x, k, y: jax.vjp(convolve, x, k)[1](y)[0],
        "kernel_gradient": lambda x, k, y: jax.vjp(convolve, x, k)[1](y)[1],
    }
    program = jax.jit(functions[contraction]).lower(x, k, y).compile()
    return lambda: jax.block_until_ready(program(x, k, y))


def programs_of(
    workload: workloads.Workload, contraction: ContractionName, dtype: str
) -> dict[str, Callable[[], jax.Array]]:
    """Compile a contraction with every lowering that does not decline it."""
    backend = jax.default_backend()
    context = Context("cuda" if backend == "gpu" else backend)
    programs: dict[str, Callable[[], jax.Array]] = {}
    for lowering in IMPLEMENTATIONS:
        if LOWERINGS[lowering].declines(context):
            continue
        try:
            programs[lowering] = program_of(workload, contraction, lowering, dtype)
        except NotImplementedError as reason:
            tqdm.write(f"{workload.name}: {lowering} declines the {contraction}: {reason}")
    return programs


def compare(label: str, results: dict[str, np.ndarray], dtype: str) -> None:
    """End the run where a lowering is off the definition."""
    reference = results["grouped_conv"].astype(np.float64)
    tolerance = 2e-2 if jnp.dtype(dtype).itemsize == 2 else 1e-4
    for name, result in results.items():
        worst = np.abs(result.astype(np.float64) - reference).max() / np.abs(reference).max()
        if not worst <= tolerance:
            raise SystemExit(f"{label}: {name} is off by {worst:.1e}")


def measure(
    workload: workloads.Workload, contraction: ContractionName, dtype: str, seconds: float
) -> dict[str, Any]:
    """Compare the results of the lowerings, then time them."""
    programs = programs_of(workload, contraction, dtype)
    results = {name: np.asarray(program()) for name, program in programs.items()}
    compare(f"{workload.name}: {contraction}", results, dtype)
    clocks = {name: functools.partial(timing.clock, run) for name, run in programs.items()}
    times = timing.medians(timing.interleaved(clocks, seconds))
    selected = ops.select_implementation(
        (workload.batch, workload.length, workload.channels),
        (workload.kernel_size, workload.channels, workload.depth_multiplier),
        platform=jax.default_backend(),
        contraction=contraction,
        strides=workload.strides,
        dilation_rate=workload.dilation_rate,
        padding=workload.padding,
        dtype=dtype,
    ).name
    if selected not in times:
        raise SystemExit(
            f"{workload.name}: {selected} is selected for the {contraction} it declines"
        )
    return {
        "workload": workload.name,
        "shape": str(workload._replace(filters=0)),
        "dtype": dtype,
        "contraction": contraction,
        "milliseconds": {name: 1e3 * value for name, value in times.items()},
        "selected": selected,
        "selected_over_best": times[selected] / min(times.values()),
    }


def show(row: dict[str, Any]) -> str:
    """Format one row as a line."""
    times = row["milliseconds"]
    columns = "".join(
        f"{times[name]:14.2f}" if name in times else f"{'-':>14}" for name in LOWERINGS
    )
    return (
        f"{row['shape']:44}{row['contraction']:17}{columns}   {row['selected']}"
        f" ({row['selected_over_best']:.2f} x best)"
    )


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, write, and check the selection."""
    parser = flags.parser("lowerings", __doc__)
    flags.add_seconds(parser, 0.3, "for one lowering of one contraction")
    flags.add_output(parser, "lowerings.json")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 where a selected lowering takes over {ALLOWED} times the best's time",
    )
    arguments = parser.parse_args(argv)
    chosen = flags.chosen(parser, arguments)
    flags.check(parser, arguments)
    if arguments.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    print(f"{'milliseconds (median)':61}" + "".join(f"{name:>14}" for name in LOWERINGS))
    rows: list[dict[str, Any]] = []
    for workload in tqdm(chosen, file=sys.stderr, disable=not sys.stderr.isatty()):
        for contraction in CONTRACTIONS.values():
            rows.append(measure(workload, contraction, arguments.dtype, arguments.seconds))
            tqdm.write(show(rows[-1]))
    machine.write(arguments.output, {**machine.facts("jax"), "rows": rows})
    behind = [row for row in rows if row["selected_over_best"] > ALLOWED]
    if arguments.check and behind:
        print(f"selected, but over {ALLOWED} times the best:", *map(show, behind), sep="\n")
        raise SystemExit(1)
