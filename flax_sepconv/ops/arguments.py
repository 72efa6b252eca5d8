"""From arguments as they are given to one checked call: every check is here."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import InconclusiveDimensionOperation
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv.ops import edges as edges_lib
from flax_sepconv.ops import geometry as geometry_lib
from flax_sepconv.ops import lengths as lengths_lib
from flax_sepconv.ops import packed, stepping
from flax_sepconv.ops import state as state_lib
from flax_sepconv.ops.call import Call
from flax_sepconv.ops.contraction import Activation, Stages
from flax_sepconv.ops.geometry import EDGES, EdgePadding, Geometry, PaddingRule
from flax_sepconv.ops.interception import is_intercepted
from flax_sepconv.ops.limits import Limit, output_lengths, padded, padded_geometry
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.masking import zero_tails
from flax_sepconv.ops.paddings import padding_rule
from flax_sepconv.ops.sharding import AxisName, Shards, along, axes_of
from flax_sepconv.ops.state import StreamState

# As they may be given.
PaddingName = Literal["valid", "same", "causal", "circular", "reflect"]
UpperPaddingName = Literal["VALID", "SAME", "CAUSAL", "CIRCULAR", "REFLECT"]
Padding = PaddingName | UpperPaddingName | int | Sequence[int | Sequence[int]]
DataFormat = Literal["channels_last", "channels_first"]
Size = int | Sequence[int]
Name = TypeVar("Name", bound=str)

DATA_FORMATS: tuple[DataFormat, ...] = ("channels_last", "channels_first")
DTYPES = ("float32", "float64", "bfloat16", "float16")
INTEGERS = ("int8",)


def positive_int(name: str, value: Any) -> int:
    """Resolve a positive int, or a sequence of one, to an int.

    Example:
        >>> positive_int("kernel_size", (3,))
        3
    """
    single = value[0] if isinstance(value, tuple | list) and len(value) == 1 else value
    if isinstance(single, bool) or not isinstance(single, numbers.Integral) or single < 1:
        raise ValueError(f"{name} must be a positive int (or a 1-tuple of one), got {value!r}")
    return int(single)


def choice(name: str, value: Any, choices: tuple[Name, ...]) -> Name:
    """Resolve a name, given in any case, to one of the choices."""
    for known in choices:
        if isinstance(value, str) and value.lower() == known:
            return known
    expected = ", ".join(map(repr, choices))
    raise ValueError(f"{name} must be one of {expected} (in any case), got {value!r}")


def check_implementation(implementation: Any) -> None:
    """Raise ValueError unless it is None or the name of a lowering."""
    if implementation is not None and implementation not in LOWERINGS:
        raise ValueError(
            f"implementation must be None or one of {', '.join(map(repr, LOWERINGS))}, "
            f"got {implementation!r}"
        )


def channels_of(
    name: str, x: ArrayLike, data_format: DataFormat, dtypes: Sequence[str] = DTYPES
) -> int:
    """Check what the operation takes as input, and return its number of channels."""
    x = jnp.asarray(x)
    check_dtype(name, x.dtype, dtypes)
    last = choice("data_format", data_format, DATA_FORMATS) == "channels_last"
    if x.ndim < 2:
        form = "(..., L, C)" if last else "(..., C, L)"
        raise ValueError(f"{name} must have shape {form}, rank 2 or more, got {x.shape}")
    channels = x.shape[-1 if last else -2]
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(
            f"the number of channels of {name} must be known and positive, got {x.shape} with "
            f"data_format={data_format!r}"
        )
    return channels


def check_dtype(name: str, dtype: DTypeLike, dtypes: Sequence[str] = DTYPES) -> None:
    """Raise TypeError unless it is one of those, which are floating point by default."""
    if jnp.dtype(dtype).name not in dtypes:
        raise TypeError(f"{name} must be of dtype {', '.join(dtypes)}, got {jnp.dtype(dtype)}")


def kernel_shape(kernel: Any, channels: int) -> tuple[int, ...]:
    """Return the shape of a depthwise kernel; what a tool keeps of one has a convolution's."""
    shape: tuple[int, ...] = kernel.shape
    if isinstance(kernel, jax.Array) or len(shape) != 3 or shape[1] != 1 or shape[2] % channels:
        return shape
    return (shape[0], channels, shape[2] // channels)


def check_kernel(shape: tuple[int, ...], channels: int) -> None:
    """Raise ValueError unless it is the shape of a depthwise kernel for C channels."""
    if len(shape) != 3 or shape[1] != channels or 0 in shape:
        raise ValueError(
            f"depthwise_kernel must have shape (K, C, M), all positive, with C={channels}, "
            f"the channels of x, got {shape}"
        )


def arrays_of(operands: Mapping[str, ArrayLike]) -> dict[str, jax.Array]:
    """Check the operands' dtypes, and convert them to their common one.

    What a tool put in an array's place stays as it is: only the tool knows how to convert it.
    """
    arrays = {name: jnp.asarray(operand) for name, operand in operands.items()}
    for name, array in arrays.items():
        check_dtype(name, array.dtype)
    known = [array for array in arrays.values() if isinstance(array, jax.Array)]
    dtype = jnp.result_type(*known)
    return {
        name: array.astype(dtype) if isinstance(array, jax.Array) else array
        for name, array in arrays.items()
    }


def widened(
    arrays: dict[str, jax.Array], preferred: DTypeLike | None
) -> tuple[dict[str, jax.Array], jnp.dtype]:
    """Convert operands so that sums have the type that is preferred, and return the result's type.

    One stage sums 16 bits in float32 as it is. Between two, h would be rounded to the operands'
    type: there it must be as wide as the sums.
    """
    dtype = arrays["x"].dtype
    if preferred is None:
        return arrays, dtype
    check_dtype("preferred_element_type", preferred)
    # As everywhere in JAX, without `jax_enable_x64` float64 is float32, with a warning.
    result = jax.eval_shape(lambda: jnp.zeros((), preferred)).dtype
    sums = jnp.promote_types(dtype, result)
    if "pointwise_kernel" in arrays or sums.itemsize > 4:
        arrays = {name: array.astype(sums) for name, array in arrays.items()}
    return arrays, result


def bind(
    operands: Mapping[str, ArrayLike | None],
    *,
    strides: Size,
    padding: Padding,
    data_format: DataFormat,
    dilation_rate: Size,
    lengths: ArrayLike | None,
    segment_ids: ArrayLike | None,
    implementation: str | None,
    precision: lax.PrecisionLike,
    preferred_element_type: DTypeLike | None,
    axis_name: AxisName | None = None,
    initial_state: StreamState | None = None,
    return_state: bool = False,
    flush: ArrayLike | None = None,
    activation: Activation | None = None,
    integers: bool = False,
) -> Call:
    """Check the arguments of an operation.

    Args:
        operands: x, depthwise_kernel and, where there is one, pointwise_kernel and bias, by name.
        strides, padding, data_format, dilation_rate, lengths, segment_ids, implementation,
            precision, preferred_element_type, axis_name, initial_state, return_state: as they were
            given to `ops.separable_conv1d`, as activation; flush to its steps.
        integers: whether the operands are integers, of several types, and stay as they are. The
            call is for whole rows or lengths then, and nothing is to be added to its result.
    """
    given = {name: operand for name, operand in operands.items() if operand is not None}
    state_dtype = jnp.asarray(given["x"]).dtype
    if integers:
        arrays, dtype = {name: jnp.asarray(operand) for name, operand in given.items()}, state_dtype
    else:
        arrays, dtype = widened(arrays_of(given), preferred_element_type)
    x, kernel = arrays["x"], arrays["depthwise_kernel"]
    rule = padding_rule(padding)
    has_states = initial_state is not None or return_state
    has_state = has_states and segment_ids is None
    channels = channels_of("x", x, data_format, INTEGERS if integers else DTYPES)
    check_kernel(kernel_shape(kernel, channels), channels)
    check_implementation(implementation)
    if implementation is None and segment_ids is None and not integers and is_intercepted():
        implementation = "grouped_conv"  # Which such tools can look into.
    S, D = positive_int("strides", strides), positive_int("dilation_rate", dilation_rate)
    is_last = choice("data_format", data_format, DATA_FORMATS) == "channels_last"
    if activation is not None:
        choice("activation", activation, get_args(Activation))
    steps = x if is_last else x.swapaxes(-1, -2)
    batch, length = x.shape[:-2], steps.shape[-2]
    rows = steps.reshape(math.prod(batch), length, channels)
    delay = state_lib.delay_of(rule, kernel.shape[0], D, S) if has_state else 0
    own = None
    if flush is not None:
        ends_here = jnp.full(batch, True) if flush is True else flush
        flush = state_lib.resolve_reset(ends_here, batch, "flush")
        own = None if lengths is None else lengths_lib.resolve(lengths, batch, length)
        own = None if own is None else lengths_lib.possible(own, length)
        high = state_lib.around(rule, kernel.shape[0], D, S)[1]
        rows, own = state_lib.ended(rows, own, flush.reshape(-1), high)
        length = rows.shape[1]
    if has_state and length == 0:
        raise ValueError(f"x must have at least one step, got shape {x.shape}")
    shards = None if axis_name is None else along(axis_name, rows)
    if shards is not None:
        length = _length_of_all(shards, length, has_states)
    elif has_state and axes_of(rows, 1):
        raise ValueError(
            "the steps of a chunk must not be divided where there is a state, and those of x are, "
            f"by {axes_of(rows, 1)!r}"
        )
    geometry = _geometry(length, kernel.shape[0], S, D, "causal" if has_state else rule)
    if shards is not None and geometry.output_length % shards.count:
        raise ValueError(
            f"axis_name={shards.axes}: the {geometry.output_length} output steps of {length} must "
            f"be a multiple of the number of devices, {shards.count}"
        )
    if flush is None and lengths is not None:
        own = lengths_lib.resolve(lengths, batch, length)
    before, state = None, None
    rest = _rest(arrays, math.prod(kernel.shape[1:]))
    if has_state:
        own = None if own is None else lengths_lib.possible(own, length)
        state = state_lib.zeros(batch, channels, geometry.reach, S, is_last, state_dtype, delay)
        if initial_state is None and delay:
            initial_state = state
        if initial_state is not None:
            state_lib.check("the state", initial_state, state, is_last)
            state = initial_state
        came = state_lib.reshaped(state, rows.shape[:1], is_last)
        operands_of_step = (came.history, rows, kernel, *rest)
        if (
            (initial_state is not None and return_state and "pointwise_kernel" in arrays)
            and (own is None and flush is None and delay == 0)
            and (S == 1 and geometry.reach > 0 and dtype == x.dtype and not integers)
            and stepping.steps(implementation, *operands_of_step)
        ):
            before, state = came.history, None
            geometry = _geometry(geometry.reach + length, kernel.shape[0], S, D, "valid")
        else:
            state = state_lib.reshaped(state_lib.next_state(came, rows, own), batch, is_last)
            state = state if flush is None else state.reset(flush)
            if initial_state is not None:
                rows, own = state_lib.with_history(came, rows, own)
                geometry = _geometry(rows.shape[1], kernel.shape[0], S, D, "valid")
    edges: EdgePadding | None = None
    if not isinstance(rule, tuple) and rule in EDGES:
        _check_edges(rule, segment_ids, shards, rows)
        is_ours = isinstance(kernel, jax.Array) and implementation != "grouped_conv"
        is_ours = is_ours and not integers
        if own is None and is_ours and edges_lib.takes_strips(rows, geometry):
            edges = rule
        else:
            low = geometry.pad_low
            rows = edges_lib.continued(rows, own, rule, low, geometry.reach - low)
            own = None if own is None else jnp.where(own > 0, own + geometry.reach, 0)
            geometry = _geometry(rows.shape[1], kernel.shape[0], S, D, "valid")
    kind: Limit = "whole"
    limits: tuple[jax.Array, ...] = ()
    ends, slots = None, None
    if segment_ids is not None:
        shape = (*batch, steps.shape[-2])
        kind = "segments"
        limits = (packed.ids_of(segment_ids, shape, geometry, rule, implementation),)
        if own is not None:  # Packed rows may have a tail.
            ends = output_lengths(own, geometry)
            if shards is not None and shards.is_own:
                own, ends = (shards.own(each, shape[-1]) for each in (own, ends))
            rows = zero_tails(rows, own)
        if has_states:
            one = state_lib.zeros(batch, channels, geometry.reach, 1, is_last, state_dtype)
            slots, state = packed.slots_of(
                initial_state, rows, *limits, own, geometry, one, is_last
            )
    elif own is not None:
        kind, limits = "lengths", (own,)
    else:
        rows, geometry = padded(rows, geometry), padded_geometry(geometry)
    if kind != "lengths":
        geometry = replace(geometry, behind=0)
    stages = Stages("y", "bias" in arrays, geometry, kind, precision, implementation, dtype)
    stages = replace(stages, activation=activation)
    return Call(
        rows,
        kernel,
        rest,
        limits,
        stages,
        before,
        state,
        ends,
        batch,
        is_last,
        edges,
        slots,
        shards,
    )


def _check_edges(
    rule: EdgePadding, segment_ids: Any, shards: Shards | None, rows: jax.Array
) -> None:
    """Raise where a padding that comes from the sequence itself cannot be taken from it."""
    if segment_ids is not None:
        raise ValueError(
            f"segment_ids and padding {rule!r} do not go together: give each sequence a row of its "
            "own, with lengths"
        )
    if shards is not None or axes_of(rows, 1):
        raise ValueError(
            f"padding {rule!r} needs whole sequences on each device, and the steps of x are "
            "divided: divide the batch or the channels, or name no axis_name, so that XLA sends "
            "what is beyond the ends"
        )


def _length_of_all(shards: Shards, length: Any, has_state: bool) -> int:
    """Return how many steps all devices have, or raise unless each has as many."""
    if has_state:
        raise ValueError("axis_name and the state of a stream do not go together")
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"axis_name needs a known number of steps, at least one, got {length}")
    if shards.is_own:
        return length * shards.count
    if length % shards.count:
        raise ValueError(
            f"axis_name={shards.axes}: the {length} steps of x must be a multiple of the number of "
            f"devices, {shards.count}"
        )
    return length


def _rest(arrays: Mapping[str, jax.Array], lanes: int) -> tuple[jax.Array, ...]:
    """Check the operands behind the depthwise kernel: w (1, C*M, F), and the bias."""
    rest, features, letters = [], lanes, "C*M"
    if "pointwise_kernel" in arrays:
        shape = arrays["pointwise_kernel"].shape
        if len(shape) != 3 or shape[:2] != (1, lanes):
            raise ValueError(
                f"pointwise_kernel must have shape (1, C*M, F) with C*M={lanes}, got {shape}"
            )
        rest.append(arrays["pointwise_kernel"])
        features, letters = shape[2], "F"
    if "bias" in arrays:
        shape = arrays["bias"].shape
        if shape != (features,):
            raise ValueError(
                f"bias must have shape ({letters},) with {letters}={features}, got {shape}"
            )
        rest.append(arrays["bias"])
    return tuple(rest)


def _geometry(
    length: int, kernel_size: int, stride: int, dilation: int, padding: PaddingRule
) -> Geometry:
    """Resolve a padding rule for a length that may be a symbol."""
    try:
        return geometry_lib.resolve(length, kernel_size, stride, dilation, padding)
    except InconclusiveDimensionOperation as error:
        least = geometry_lib.least_length(kernel_size, dilation, padding)
        raise ValueError(
            f"whether an output step remains must be known: input length L={length} must be at "
            f"least {least} with padding={padding!r}, kernel_size K={kernel_size}, "
            f"dilation_rate D={dilation}; say so by a constraint where the symbols are made "
            f"(of jax.export.symbolic_shape), such as '{length} >= {least}'"
        ) from error


def mask_tails(
    y: jax.Array, ends: ArrayLike, data_format: DataFormat, axis_name: AxisName | None = None
) -> jax.Array:
    """Set what is behind the ends (...) of sequences, (..., L, F) or (..., F, L), to zero."""
    is_last = data_format == "channels_last"
    steps = y if is_last else y.swapaxes(-1, -2)
    rows = steps.reshape(math.prod(steps.shape[:-2]), *steps.shape[-2:])
    last = jnp.asarray(ends, jnp.int32).reshape(-1)
    shards = None if axis_name is None else along(axis_name, rows)
    if shards is not None and shards.is_own:
        last = shards.own(last, rows.shape[1])
    zeroed = zero_tails(rows, last).reshape(steps.shape)
    return zeroed if is_last else zeroed.swapaxes(-1, -2)
