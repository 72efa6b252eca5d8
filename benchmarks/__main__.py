"""Time the lowerings of the depthwise stage, contraction by contraction.

What `implementation=None` takes on a platform rests on this table. Every workload is timed with
each lowering in turn, after their results were compared; the median times are printed and written
as JSON with the versions and the device.
"""

import argparse
import datetime
import functools
import json
import pathlib
import platform
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import timing, workloads
from flax_sepconv import ops
from flax_sepconv.lowerings import LOWERINGS
from flax_sepconv.selection import CONTRACTIONS

BATCH_ELEMENTS = 2**21


def programs_of(workload: workloads.Workload, dtype: str) -> dict[str, dict[str, Any]]:
    """Compile every contraction with every lowering: contraction -> lowering -> program."""
    rng = np.random.default_rng(0)
    shape = (workload.batch, workload.length, workload.channels)
    kernel = (workload.kernel_size, workload.channels, workload.depth_multiplier)
    settings: dict[str, Any] = {
        "strides": workload.strides,
        "dilation_rate": workload.dilation_rate,
        "padding": workload.padding,
    }
    x, k = (jnp.asarray(rng.standard_normal(s), dtype) for s in (shape, kernel))
    output = jax.eval_shape(functools.partial(ops.depthwise_conv1d, **settings), x, k)
    y = jnp.asarray(rng.standard_normal(output.shape), dtype)
    compiled: dict[str, dict[str, Any]] = {name: {} for name in CONTRACTIONS.values()}
    for lowering in LOWERINGS:
        convolve = functools.partial(ops.depthwise_conv1d, implementation=lowering, **settings)
        by_input = jax.linear_transpose(functools.partial(lambda f, x: f(x, k), convolve), x)
        by_kernel = jax.linear_transpose(functools.partial(convolve, x), k)
        for name, function, operands in (
            ("output", convolve, (x, k)),
            ("input_gradient", by_input, (y,)),
            ("kernel_gradient", by_kernel, (y,)),
        ):
            program = jax.jit(function).lower(*operands).compile()
            compiled[name][lowering] = functools.partial(program, *operands)
    return compiled


def measure(workload: workloads.Workload, dtype: str, seconds: float) -> list[dict[str, Any]]:
    """Compare the results of the lowerings, then time them; one row for each contraction."""
    rows = []
    for contraction, programs in programs_of(workload, dtype).items():
        results = {name: _array(program()) for name, program in programs.items()}
        reference = results["grouped_conv"]
        scale = np.abs(reference).max()
        tolerance = 2e-2 if jnp.dtype(dtype).itemsize == 2 else 1e-4
        for name, result in results.items():
            worst = np.abs(result - reference).max() / scale
            if worst > tolerance:
                raise SystemExit(f"{workload.name}: {name} is off by {worst:.1e} in {contraction}")
        times = timing.medians(programs, seconds)
        selected = ops.select_implementation(
            (workload.batch, workload.length, workload.channels),
            (workload.kernel_size, workload.channels, workload.depth_multiplier),
            platform=jax.default_backend(),
            contraction=contraction,
            dtype=dtype,
        ).name
        rows.append(
            {
                "workload": workload.name,
                "shape": str(workload),
                "dtype": dtype,
                "contraction": contraction,
                "milliseconds": {name: 1e3 * value for name, value in times.items()},
                "selected": selected,
                "selected_over_best": times[selected] / min(times.values()),
            }
        )
    return rows


def _array(result: Any) -> np.ndarray:
    """Return the only array of a result, which a transpose wraps in a tuple."""
    return np.asarray(jax.tree.leaves(result)[0], np.float64)


def show(row: dict[str, Any]) -> str:
    """Format one row as a line."""
    times = row["milliseconds"]
    columns = "".join(f"{times[name]:14.2f}" for name in LOWERINGS)
    return (
        f"{row['shape']:44}{row['contraction']:17}{columns}   {row['selected']}"
        f" ({row['selected_over_best']:.2f} x best)"
    )


def main() -> None:
    """Parse the flags, measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", choices=("selection", "full"), default="selection")
    parser.add_argument("--filter", default="", help="only workloads whose name contains this")
    parser.add_argument("--dtype", choices=ops.DTYPES, default="float32")
    parser.add_argument("--seconds", type=float, default=1.0, help="for one contraction")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/lowerings.json"))
    arguments = parser.parse_args()
    chosen = [
        workload.within(BATCH_ELEMENTS)
        for workload in workloads.load()
        if arguments.filter in workload.name
        and (arguments.suite == "full" or arguments.filter or workload.name in workloads.SELECTION)
    ]
    if not chosen:
        parser.error(f"--filter: no workload's name contains {arguments.filter!r}")
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.touch()
    except OSError as error:
        parser.error(f"--output: {error}")
    if arguments.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    print(f"{'milliseconds (median)':61}" + "".join(f"{name:>14}" for name in LOWERINGS))
    rows: list[dict[str, Any]] = []
    for workload in tqdm(chosen, file=sys.stderr, disable=not sys.stderr.isatty()):
        for row in measure(workload, arguments.dtype, arguments.seconds):
            rows.append(row)
            tqdm.write(show(row))
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(record, indent=1))
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
