"""The candidates' programs, compiled for one device.

A call writes into the memory of the results of the call before, which are donated to it: calls
follow one another without a copy, and nothing is allocated between them but temporaries.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_sepconv.ops.api import depthwise_conv1d, separable_conv1d
from flax_sepconv.ops.choices.classes import Program
from flax_sepconv.ops.choices.reading import trying
from flax_sepconv.ops.choices.table import DEFAULT
from flax_sepconv.ops.tuning.definition import Arrays
from flax_sepconv.ops.tuning.problems import PARTS, Problem

# Flax's own layers: a grouped `nn.Conv`, and `nn.Dense` behind it.
STOCK = "stock"

Function = Callable[..., tuple[jax.Array, ...]]
Calls = Callable[[int], Any]


def operands_of(problem: Problem, dtype: str, device: jax.Device) -> list[jax.Array]:
    """Put x, both kernels, the bias and the cotangent on the device, and lengths where there are.

    x, the cotangent and the lengths hold copies of the different sequences.
    """
    x, *weights, dy = (jax.device_put(each, device) for each in problem.operands(dtype))
    made = [jnp.tile(x, (problem.copies, 1, 1)), *weights, jnp.tile(dy, (problem.copies, 1, 1))]
    if problem.lengths is not None:
        lengths = np.tile(np.array(problem.lengths, np.int32), problem.copies)
        made.append(jax.device_put(lengths, device))
    return made


def function_of(problem: Problem, program: Program, name: str) -> Function:
    """Make a program of (x, both kernels, the bias, the cotangent, and maybe lengths).

    Args:
        problem: the layer.
        program: what to return of it.
        name: of a candidate: "stock", or any other, which is known when the program is lowered.
    """
    layer = _stock(problem) if name == STOCK else _ours(problem)
    count = 4 if problem.filters else 2

    def forward(*operands: jax.Array) -> tuple[jax.Array, ...]:
        return (layer(*operands[:count], **_named(operands)),)

    def forward_backward(*operands: jax.Array) -> tuple[jax.Array, ...]:
        own = functools.partial(layer, **_named(operands))
        y, pull_back = jax.vjp(own, *operands[:count])
        return y, *pull_back(operands[4])

    def of_x(*operands: jax.Array) -> tuple[jax.Array, ...]:
        x, kernel = operands[:2]
        back: Any = jax.vjp(lambda x: layer(x, kernel), x)[1](operands[4])
        return tuple(back)

    def of_kernel(*operands: jax.Array) -> tuple[jax.Array, ...]:
        x, kernel = operands[:2]
        back: Any = jax.vjp(lambda kernel: layer(x, kernel), kernel)[1](operands[4])
        return tuple(back)

    programs: dict[Program, Function] = {
        "forward": forward,
        "forward_backward": forward_backward,
        "output": forward,
        "input_gradient": of_x,
        "kernel_gradient": of_kernel,
    }
    return programs[program]


def _padding_of_flax(problem: Problem) -> str | list[tuple[int, int]]:
    padding = problem.padding
    return padding.upper() if isinstance(padding, str) else [padding]


def _named(operands: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
    return {"lengths": operands[5]} if len(operands) > 5 else {}


def _ours(problem: Problem) -> Callable[..., jax.Array]:
    settings: dict[str, Any] = {
        "strides": problem.strides,
        "padding": problem.padding,
        "dilation_rate": problem.dilation_rate,
    }
    operation: Any = separable_conv1d if problem.filters else depthwise_conv1d
    return functools.partial(operation, **settings)


def _stock(problem: Problem) -> Callable[..., Any]:
    depthwise = nn.Conv(
        problem.joined,
        kernel_size=(problem.kernel_size,),
        strides=(problem.strides,),
        padding=_padding_of_flax(problem),
        kernel_dilation=(problem.dilation_rate,),
        feature_group_count=problem.channels,
        use_bias=False,
    )
    dense = nn.Dense(problem.filters or 1)

    def layer(x: jax.Array, kernel: jax.Array, *pointwise: jax.Array) -> Any:
        folded = kernel.reshape(problem.kernel_size, 1, problem.joined)
        h = depthwise.apply({"params": {"kernel": folded}}, x)
        if not pointwise:
            return h
        weights, bias = pointwise
        return dense.apply({"params": {"kernel": weights[0], "bias": bias}}, h)

    return layer


class Lowered(NamedTuple):
    """A program that is not compiled yet, and its text, by which the same ones are known."""

    text: str
    compile: Callable[[], Calls]


def lowered(function: Function, operands: list[jax.Array], name: str = DEFAULT) -> Lowered:
    """Lower a program as it would be if a table chose that lowering, or if there were none.

    Returns:
        What compiles it and makes the first call, and returns a function that makes so many calls,
        waits, and returns the results of the last.

    Raises:
        NotImplementedError: the lowering declines.
    """
    results = tuple(
        jnp.zeros(result.shape, result.dtype, device=operands[0].device)
        for result in jax.eval_shape(function, *operands)
    )

    @functools.partial(jax.jit, donate_argnums=1, keep_unused=True)
    def call(operands: list[jax.Array], results: Any) -> Any:
        return function(*operands)

    with trying(name):
        made = call.lower(operands, results)

    def compiled() -> Calls:
        program = made.compile()

        def run(count: int) -> Any:
            nonlocal results
            for _ in range(count):
                results = program(operands, results)
            return jax.block_until_ready(results)

        run(1)
        return run

    return Lowered(made.as_text(), compiled)


def folded(problem: Problem, program: Program, results: Any) -> Arrays:
    """Fold results to the different sequences: least and greatest of all copies of each.

    Returns:
        float32 arrays by name, whose first axis holds least and greatest of "y" and "dx", and one
        entry of the other gradients, which sum over the copies, divided by their count.
    """
    found = {}
    for name, array in zip(PARTS[program], results, strict=True):
        wide = array.astype(jnp.float32)
        if name in ("y", "dx"):
            copies = wide.reshape(problem.copies, -1, *wide.shape[1:])
            found[name] = np.stack([np.asarray(copies.min(0)), np.asarray(copies.max(0))])
        else:
            found[name] = np.asarray(wide)[None] / problem.copies
    return found


@contextlib.contextmanager
def told() -> Iterator[dict[str, Any]]:
    """Yield what is to be said of a candidate, and turn what it raises into such a fact.

    A lack of memory, and any other failure, is one of the candidate's and does not end the run.
    """
    facts: dict[str, Any] = {}
    try:
        yield facts
    except NotImplementedError as reason:
        facts |= {"declined": _line(reason)}
    except Exception as error:
        facts |= {"failed": _line(error) or type(error).__name__}


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
