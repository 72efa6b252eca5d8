"""From checked arguments of the operation on integers to its result."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.ops import lengths as lengths_lib
from flax_sepconv.ops.arguments import DATA_FORMATS, DTYPES, check_dtype, choice, mask_tails
from flax_sepconv.ops.call import Call
from flax_sepconv.ops.limits import output_lengths, rows_geometry, whole_rows
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.quantized import arguments, scales
from flax_sepconv.ops.quantized.arguments import DYNAMIC, Output, is_zero
from flax_sepconv.ops.quantized.definition import Task
from flax_sepconv.ops.quantized.primitive import compute


@dataclass(frozen=True)
class Input:
    """What the operation is given.

    Attributes:
        x: int8, laid out as the caller's, and `shifted` where zeros are to be put into rows.
        is_shifted: whether it is.
        scale: a number, or one for each example, (...,).
        zero_point: one integer.
    """

    x: jax.Array
    is_shifted: bool
    scale: Any
    zero_point: Any

    @classmethod
    def of(
        cls,
        x: ArrayLike,
        scale: Any,
        zero_point: Any,
        lengths: Any,
        data_format: Any,
        has_state: bool,
    ) -> "Input":
        """Check the input, and make integers of real numbers."""
        array = jnp.asarray(x)
        if array.dtype != jnp.int8:
            check_dtype("x", array.dtype, ("int8", *DTYPES))
        batch = array.shape[:-2]
        zero = arguments.zero_point("x_zero_point", zero_point)
        if isinstance(scale, str):
            data_format = choice("data_format", data_format, DATA_FORMATS)
            scale = _found(array, scale, zero_point, lengths, data_format, has_state)
        else:
            scale = arguments.scale("x_scale", scale, (batch, "for each example"))
        if array.dtype != jnp.int8:
            spread = scale[..., None, None] if scale.ndim else scale
            array = scales.quantized(array, spread, zero)
        is_shifted = has_state or any(map(jax.export.is_symbolic_dim, array.shape))
        return cls(shifted(array, zero) if is_shifted else array, is_shifted, scale, zero)


def _found(
    x: jax.Array, kind: str, zero_point: Any, lengths: Any, data_format: Any, has_state: bool
) -> jax.Array:
    """Find the scale of real numbers: of all, or of each example."""
    choice("x_scale", kind, DYNAMIC)
    if x.dtype == jnp.int8:
        raise ValueError(f"x_scale={kind!r} is for real numbers, and x is of int8: give its scale")
    check_symmetric("x", kind, zero_point)
    if has_state:
        raise ValueError(
            f"x_scale={kind!r} and the state of a stream do not go together: what is remembered "
            "has the scale of its own chunk"
        )
    if lengths is not None:
        steps = x.shape[-2 if data_format == "channels_last" else -1]
        ends = lengths_lib.resolve(lengths, x.shape[:-2], steps)
        x = mask_tails(x, ends, data_format)
    return scales.dynamic_scale(x, (-2, -1) if kind == DYNAMIC[1] else tuple(range(x.ndim)))


def shifted(x: jax.Array, zero_point: Any, back: bool = False) -> jax.Array:
    """Take a zero point from int8, modulo 256, or add it again.

    What is zero in between stands for the real number zero, whatever the zero point is.
    """
    if is_zero(zero_point):
        return x
    zero = jnp.asarray(zero_point).astype(jnp.int8)
    return x + zero if back else x - zero


def check_symmetric(letter: str, kind: str, zero_point: Any) -> None:
    """Raise ValueError where a scale that is to be found has a zero point that is not 0."""
    if not is_zero(zero_point):
        raise ValueError(f"{letter}_scale={kind!r} needs {letter}_zero_point=0, got {zero_point!r}")


def _multiplier(scale: Any, count: int) -> jax.Array:
    """Return a row of multipliers for each example, or for all of them."""
    array = jnp.asarray(scale)
    return jnp.broadcast_to(array, (array.shape[0], count))


@dataclass(frozen=True)
class Rows:
    """Whole rows that a call is computed with.

    Attributes:
        call: as it was checked.
        x: (B, L, C).
        ends: of the result's rows (B,), or None: all are whole.
    """

    call: Call
    x: jax.Array
    ends: jax.Array | None
    geometry: Any

    @classmethod
    def of(cls, call: Call, given: Input) -> "Rows":
        """Put zeros where sequences end earlier."""
        x, geometry, zero, ends = call.x, call.stages.geometry, given.zero_point, None
        is_shifted = given.is_shifted
        if call.stages.limits == "lengths":
            (lengths,) = call.limits
            ends = output_lengths(lengths, geometry)
            x = whole_rows(x if is_shifted else shifted(x, zero), lengths, geometry)
            geometry, is_shifted = rows_geometry(geometry), True
        return cls(call, shifted(x, zero, back=True) if is_shifted else x, ends, geometry)

    def task(self, dtype: Any, has_pointwise: bool) -> Task:
        """Return what is to be computed."""
        return Task(self.geometry, dtype, has_pointwise, self.call.stages.implementation)

    def finished(self, y: jax.Array, output: Output, dtype: DTypeLike) -> jax.Array:
        """Let what is behind the ends stand for zero, and lay the result out as x was."""
        if self.ends is not None:
            zero = output.zero_point
            y = shifted(zero_tails(shifted(y, zero), self.ends), zero, back=True)
        y = self.call.unflatten(y)
        return y if output.scale is not None else y.astype(dtype)


def depthwise(
    call: Call, given: Input, depthwise_scale: Any, output: Output, dtype: DTypeLike
) -> jax.Array:
    """Compute the first stage of a checked call."""
    rows = Rows.of(call, given)
    lanes = call.rest[-1].shape[0]
    multiplier = scales.second_multiplier(
        given.scale.reshape(-1, 1), depthwise_scale.reshape(1, -1), output.scale
    )
    y = compute(
        rows.task(output.dtype, False),
        rows.x,
        call.kernel,
        call.rest[-1],
        _multiplier(multiplier, lanes),
        _zero_points(given.zero_point, output.zero_point),
        output.bounds,
    )
    return rows.finished(y, output, dtype)


def separable(
    call: Call,
    given: Input,
    depthwise_scale: Any,
    hidden: tuple[Any, Any],
    pointwise_scale: Any,
    output: Output,
    dtype: DTypeLike,
) -> jax.Array:
    """Compute both stages of a checked call; `hidden`: the scale of h or its kind, and its zero."""
    rows = Rows.of(call, given)
    weights, bias = call.rest
    lanes, filters = weights.shape[1:]
    x_scale, first_scale = given.scale.reshape(-1, 1), depthwise_scale.reshape(1, -1)
    scale, zero_point = hidden
    if isinstance(scale, str):
        real = _real_hidden(rows, given, scales.product(x_scale, first_scale), lanes)
        scale = scales.dynamic_scale(real, (1, 2) if scale == DYNAMIC[1] else (0, 1, 2))
    scale = scale.reshape(-1, 1)
    first = scales.first_multiplier(x_scale, first_scale, scale)
    second = scales.second_multiplier(scale, pointwise_scale.reshape(1, -1), output.scale)
    y = compute(
        rows.task(output.dtype, True),
        rows.x,
        call.kernel,
        weights[0],
        bias,
        _multiplier(first, lanes),
        _multiplier(second, filters),
        _zero_points(given.zero_point, zero_point, output.zero_point),
        output.bounds,
    )
    return rows.finished(y, output, dtype)


def _real_hidden(rows: Rows, given: Input, multiplier: Any, lanes: int) -> jax.Array:
    """Compute h in real numbers, for its scale to be found."""
    real = compute(
        rows.task("float32", False),
        rows.x,
        rows.call.kernel,
        jnp.zeros(lanes, jnp.int32),
        _multiplier(multiplier, lanes),
        _zero_points(given.zero_point, np.int32(0)),
        jnp.array([-jnp.inf, jnp.inf], jnp.float32),
    )
    return real if rows.ends is None else zero_tails(real, rows.ends)


def _zero_points(*points: Any) -> jax.Array:
    return jnp.stack([jnp.asarray(point, jnp.int32) for point in points])
