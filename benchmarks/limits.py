"""Time what limits of rows cost: a call with lengths, a state or segments over one of whole rows.

Every sequence is as long as its row, and segments are cut so that each is longer than the kernel's
reach: the work is the same, and the ratio is what limits cost. (`benchmarks lengths` has sequences
that end earlier.) Both calls are programs of one process, sampled in turn; the results of the
limited one are compared with NumPy float64 before anything is timed. Medians and their ratios are
printed and written as JSON.

  depthwise  the depthwise stage with lengths
  state      the causal layer with lengths and the state behind it
  segments   the depthwise stage with segments
  gradients  the same, and all its gradients
  layer      the layer with segments
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import flags, machine, reference, timing
from benchmarks.case import Case, Operands
from benchmarks.workloads import Workload
from flax_sepconv import ops

# `--check` wants the limited call this close to the whole one.
ALLOWED = {"depthwise": 1.05, "state": 1.15, "segments": 1.5, "gradients": 1.5, "layer": 1.5}
Function = Callable[..., Any]


def segment_steps(workload: Workload) -> int:
    """Return how many steps segments have: more than the kernel reaches, and at least 64."""
    return min(workload.length, max(64, 2 * workload.dilation_rate * workload.kernel_size))


def ids_of(workload: Workload) -> np.ndarray:
    """Cut the rows of a batch into segments."""
    ids = np.arange(workload.length) // segment_steps(workload)
    return np.tile(ids, (workload.batch, 1)).astype(np.int32)


def functions(workload: Workload, name: str) -> tuple[Function, Function]:
    """Return a function of whole rows, and the same one of rows that are limited."""
    settings: dict[str, Any] = {
        "strides": workload.strides,
        "dilation_rate": workload.dilation_rate,
        "padding": workload.padding,
    }
    layer = functools.partial(ops.separable_conv1d, **settings)

    def stage(x: Any, k: Any, w: Any, b: Any, **limits: Any) -> Any:
        return ops.depthwise_conv1d(x, k, **settings, **limits)

    def gradients(x: Any, k: Any, w: Any, b: Any, **limits: Any) -> Any:
        h, pullback = jax.vjp(lambda x, k: stage(x, k, w, b, **limits), x, k)
        return h, *pullback(h)

    lengths = {"lengths": jnp.full(workload.batch, workload.length, jnp.int32)}
    segments = {"segment_ids": jnp.asarray(ids_of(workload))}
    forms: dict[str, tuple[Function, dict[str, Any]]] = {
        "depthwise": (stage, lengths),
        "state": (layer, lengths | {"return_state": True}),
        "segments": (stage, segments),
        "gradients": (gradients, segments),
        "layer": (layer, segments),
    }
    function, limits = forms[name]
    return function, functools.partial(function, **limits)


def expected(workload: Workload, name: str, operands: Operands[np.ndarray]) -> np.ndarray:
    """Compute the first result of the limited call in float64."""
    x, kernel, pointwise, bias, _ = operands
    steps = workload.length if name in ("depthwise", "state") else segment_steps(workload)
    parts = []
    for first in range(0, workload.length, steps):
        part = x[:, first : first + steps]
        own = workload._replace(length=part.shape[1])
        nothing = np.zeros((own.batch, own.steps, own.joined))
        parts.append(reference.depthwise(own, part, kernel, nothing)["y"])
    h = np.concatenate(parts, 1)
    return h @ pointwise[0] + bias if name in ("state", "layer") else h


def measure(workload: Workload, name: str, seconds: float) -> dict[str, Any]:
    """Compare the limited call with the definition, then time both calls."""
    if name == "state":
        workload = workload._replace(padding="causal")
    operands = Case(workload).operands()
    given = [*map(jax.device_put, operands[:4])]
    programs = {}
    for kind, function in zip(("whole", "limited"), functions(workload, name), strict=True):
        program = jax.jit(function).lower(*given).compile()
        programs[kind] = functools.partial(lambda p: jax.block_until_ready(p(*given)), program)
    result = programs["limited"]()
    result = result if isinstance(result, jax.Array) else result[0]
    found = reference.mistakes(
        workload, {"y": np.asarray(result)}, {"y": expected(workload, name, operands)}
    )
    if found:
        raise SystemExit(f"{workload.name}: {name}: {'; '.join(found)}")
    clocks = {kind: functools.partial(timing.clock, run) for kind, run in programs.items()}
    samples = timing.interleaved(clocks, seconds)
    times = {kind: timing.statistics_of(values) for kind, values in samples.items()}
    ratio = times["limited"]["milliseconds"] / times["whole"]["milliseconds"]
    return {
        "workload": workload.name,
        "shape": str(workload),
        "limits": name,
        **times,
        "limited_over_whole": ratio,
    }


def show(row: dict[str, Any]) -> str:
    """Format one row as a line."""
    times = "".join(f"{row[kind]['milliseconds']:10.2f}" for kind in ("whole", "limited"))
    return f"{row['shape']:44}{row['limits']:>11}{times}{row['limited_over_whole']:8.2f}"


def names_for(workload: Workload) -> list[str]:
    """Return which limits there are for a layer."""
    names = ["depthwise"]
    if workload.strides == 1:
        if workload.filters:
            names.append("state")
        if workload.padding != "valid":
            names += ["segments", "gradients", *(["layer"] if workload.filters else [])]
    return names


def main(argv: list[str]) -> None:
    """Parse the flags, measure, print, write, and check the ratios."""
    parser = flags.parser("limits", __doc__)
    flags.add_seconds(parser, 1.0, "for one program")
    flags.add_output(parser, "limits.json")
    parser.add_argument(
        "--check", action="store_true", help=f"exit with 1 where a ratio is over {ALLOWED}"
    )
    arguments = parser.parse_args(argv)
    chosen = flags.chosen(parser, arguments)
    flags.check(parser, arguments)
    if busy := machine.busy():
        print(busy)
    print(f"{'milliseconds (median)':44}{'limits':>11}{'whole':>10}{'limited':>10}{'ratio':>8}")
    rows: list[dict[str, Any]] = []
    record = {**machine.facts("flax-sepconv", "jax", "jaxlib", "flax"), "rows": rows}
    asked = [(workload, name) for workload in chosen for name in names_for(workload)]
    with machine.kept(arguments.output, record, len(asked)):
        for workload, name in tqdm(asked, file=sys.stderr, disable=not sys.stderr.isatty()):
            rows.append(measure(workload, name, arguments.seconds))
            tqdm.write(show(rows[-1]))
    behind = [row for row in rows if row["limited_over_whole"] > ALLOWED[row["limits"]]]
    if arguments.check and behind:
        print("over what is allowed:", *map(show, behind), sep="\n")
        raise SystemExit(1)
