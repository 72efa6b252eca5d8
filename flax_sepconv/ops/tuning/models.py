"""The layers of a model: what its program, traced on its inputs, calls."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax

from flax_sepconv.ops.depthwise import depthwise_p
from flax_sepconv.ops.geometry import PADDINGS, Geometry
from flax_sepconv.ops.separable import separable_p
from flax_sepconv.ops.tuning.problems import Problem


def problems_of(
    function: Callable[..., Any], *inputs: Any, **named: Any
) -> tuple[dict[tuple[Problem, str], int], list[str]]:
    """Find the calls of the operations in a function, however deep.

    Args:
        function: a model, `model.apply`, or any other; it is traced and not run.
        *inputs: its arguments: arrays, trees of them, or `jax.ShapeDtypeStruct`.
        **named: its arguments by name, as they are ("train": True).

    Returns:
        How often each layer is called, by the problem and the dtype, in order; and what was left
        out, with the reason.
    """
    jaxpr = jax.make_jaxpr(lambda *given: function(*given, **named))(*inputs)
    found: dict[tuple[Problem, str], int] = {}
    left_out: dict[str, None] = {}
    for equation in _equations(jaxpr.jaxpr):
        problem, dtype, reason = _problem(equation)
        if problem is None:
            left_out[reason] = None
        else:
            found[problem, dtype] = found.get((problem, dtype), 0) + 1
    return found, list(left_out)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the calls of outputs, also in programs that a program calls."""
    for equation in jaxpr.eqns:
        asked = equation.params.get("stages", equation.params.get("contraction"))
        if equation.primitive in (separable_p, depthwise_p) and asked.result == "y":
            yield equation
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def _problem(equation: Any) -> tuple[Problem | None, str, str]:
    """Return the problem and its dtype, or None and why it is left out."""
    x, kernel, *rest = (operand.aval for operand in equation.invars)
    asked = equation.params.get("stages", equation.params.get("contraction"))
    is_layer = equation.primitive is separable_p
    dtypes = {each.dtype.name for each in (x, kernel, *(rest[:1] if is_layer else []))}
    shape = f"x {x.shape}, depthwise kernel {kernel.shape}"
    if dtypes != {asked.dtype.name}:
        return None, "", f"{shape}: operands and result are of several dtypes"
    if not all(isinstance(size, int) and size > 0 for size in x.shape):
        return None, "", f"{shape}: sizes must be known, and not 0"
    if asked.limits == "segments" or (asked.limits == "lengths" and not is_layer):
        return None, "", f"{shape}: such {asked.limits} are not measured"
    padding = _padding(asked.geometry)
    if padding is None:
        return None, "", f"{shape}: such a padding is not measured"
    batch, length, channels = x.shape
    problem = Problem(
        batch,
        length,
        channels,
        rest[0].shape[-1] if is_layer else 0,
        asked.geometry.kernel_size,
        asked.geometry.stride,
        asked.geometry.dilation,
        kernel.shape[2],
        padding,
        asked.limits,
    )
    return problem, asked.dtype.name, ""


def _padding(geometry: Geometry) -> Any:
    """Return the name of a padding, or the zeros in front and behind."""
    zeros = geometry.pad_low, geometry.behind or max(0, geometry.pad_high)
    for padding in ("same", *PADDINGS, zeros):
        named = Problem(
            1,
            geometry.length,
            1,
            1,
            geometry.kernel_size,
            geometry.stride,
            geometry.dilation,
            padding=padding,
        )
        try:
            found = named.geometry
            if geometry in (found, replace(found, behind=0)):
                return padding
        except ValueError:  # Too short for a step.
            continue
    return None
