"""Both stages one after the other: what `separable` computes, by definition.

h = depthwise(x, k) is no residual: where it is needed again it is computed again (or, where XLA
sees both, once for both).
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flax_sepconv.ops.contraction import Stages
from flax_sepconv.ops.depthwise import depthwise
from flax_sepconv.ops.limits import output_lengths
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.sharding import axes_of, mesh_of, sharding_on

# Bytes of an array that a TPU would read from memory once more.
TPU_LARGE = 2**26


def compose(stages: Stages, *operands: jax.Array, platform: str | None = None) -> list[jax.Array]:
    """Compute a result of `separable`: y, gradients of w and the bias, or of x and k.

    Accelerators, where one is given, spare passes over memory in 16 bits: the bias is added to what
    the contraction rounded, as Flax and Keras do, and on TPU the gradients of weights and bias are
    one contraction where the cotangent is too large to stay on chip.
    """
    if stages.result not in ("y", "w"):
        return _gradients_through_h(stages, *operands)
    (x, kernel, first, *others), limits = stages.part(operands)
    h = hidden(stages, x, kernel, limits)
    if stages.result == "w":
        first = masked(stages, first, limits)
        if _sums_in_one(stages, h, first, platform):
            return _gradients_in_one(stages, h, first)
        return contract(stages, h, first)
    is_short = jnp.result_type(h, first).itemsize == 2
    if stages.bias and is_short and platform in ("cuda", "rocm", "tpu"):
        (y,) = contract(replace(stages, bias=False), h, first)
        y = y + others[0].astype(stages.dtype)
    else:
        (y,) = contract(stages, h, first, *others)
    return [masked(stages, y, limits) if stages.bias else y]


def hidden(stages: Stages, x: jax.Array, kernel: Any, limits: tuple[jax.Array, ...]) -> jax.Array:
    """Compute the depthwise stage of both."""
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    return depthwise(x, kernel, limits, stages.first_stage(kernel.shape[2], dtype, dtype))


def masked(stages: Stages, y: jax.Array, limits: tuple[jax.Array, ...]) -> jax.Array:
    """Set what lies behind the ends of sequences in y to zero."""
    if stages.limits != "lengths":
        return y
    return zero_tails(y, output_lengths(limits[0], stages.geometry))


def _gradients_through_h(stages: Stages, *operands: jax.Array) -> list[jax.Array]:
    """Carry a cotangent back to x, to the depthwise kernel, or to both."""
    (x, kernel, weights, y), limits = stages.part(operands)
    output = replace(stages, result="y", bias=False)
    primals = {"x": x, "k": kernel}
    wanted = {name: primals[name] for name in stages.result}

    def through_h(moved: dict[str, jax.Array]) -> jax.Array:
        both = primals | moved
        h = hidden(output, both["x"], both["k"], limits)
        return contract(output, h, weights)[0]

    (gradients,) = jax.vjp(through_h, wanted)[1](masked(stages, y, limits).astype(stages.dtype))
    return [gradients[name] for name in stages.result]


def _sums_in_one(stages: Stages, h: jax.Array, y: jax.Array, platform: str | None) -> bool:
    """Tell whether a TPU had better contract once: y, whose shape may be symbolic, is large."""
    is_short = jnp.result_type(h, y).itemsize == 2
    if not (stages.bias and is_short and platform == "tpu"):
        return False
    return isinstance(y.size, int) and y.size * y.dtype.itemsize >= TPU_LARGE


def _gradients_in_one(stages: Stages, h: jax.Array, y: jax.Array) -> list[jax.Array]:
    """Take the bias for the weights of one more channel of h, whose steps are all one.

    For 16-bit operands, which a dot multiplies without rounding: the sums are those of `contract`.
    """
    with_ones = lax.pad(h, jnp.ones((), h.dtype), [(0, 0, 0), (0, 0, 0), (0, 1, 0)])
    (both,) = contract(replace(stages, bias=False), with_ones, y)
    return [both[:-1], both[-1]]


def contract(stages: Stages, h: jax.Array, *rest: Any) -> list[jax.Array]:
    """Contract h with the weights over channels, or with the cotangent over batch and steps.

    The weights are (C*M, F), or, for tools that want them as they are kept, (1, C*M, F).
    """
    bias, dtype = stages.bias, stages.dtype
    operand_dtype = jnp.promote_types(h.dtype, rest[0].dtype)
    accumulator = jnp.promote_types(operand_dtype, jnp.float32)
    axes = ((2,), (rest[0].ndim - 2,)) if stages.result == "y" else ((0, 1), (0, 1))
    # Where types tell how arrays are divided, a sum over what is divided must say what it becomes.
    sharding = None
    if stages.result == "w":
        sharding = sharding_on(mesh_of(h, rest[0]), axes_of(h, 2), axes_of(rest[0], 2))
    sums_on = stages.result == "y" and bias
    contracted = lax.dot_general(
        h,
        rest[0],
        (axes, ((), ())),
        precision=stages.precision,
        # Sums are made in float32 either way; what is asked for is when to round them.
        preferred_element_type=accumulator if sums_on else jnp.promote_types(operand_dtype, dtype),
        out_sharding=sharding,
    )
    if stages.result == "y":
        contracted = contracted if contracted.ndim == 3 else lax.squeeze(contracted, (2,))
        return [(contracted + rest[1].astype(accumulator) if bias else contracted).astype(dtype)]
    gradients = [contracted.astype(dtype)]
    if bias:
        gradients.append(rest[0].astype(accumulator).sum((0, 1)).astype(dtype))
    return gradients
