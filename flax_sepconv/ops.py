"""The operations on arrays: the only place where arguments are checked and resolved."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import InconclusiveDimensionOperation
from jax.typing import ArrayLike, DTypeLike

from flax_sepconv import geometry as geometry_lib
from flax_sepconv.depthwise import depthwise
from flax_sepconv.lowerings import LOWERINGS, native
from flax_sepconv.selection import CONTRACTIONS, Selection, select
from flax_sepconv.separable import separable

__all__ = ["Selection", "depthwise_conv1d", "select_implementation", "separable_conv1d"]

DATA_FORMATS = ("channels_last", "channels_first")
DTYPES = ("float32", "float64", "bfloat16", "float16")


def depthwise_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    *,
    strides: int | tuple[int] = 1,
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: int | tuple[int] = 1,
    implementation: str | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Filter every channel with its own M kernels; the first stage of `separable_conv1d`.

    h[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first"; any number of batch dimensions.
        depthwise_kernel: (K, C, M).
        strides, padding, data_format, dilation_rate, implementation, precision,
            preferred_element_type: as for `separable_conv1d`.

    Returns:
        (..., output length, C*M), or (..., C*M, output length).

    Raises:
        ValueError, TypeError, NotImplementedError: as `separable_conv1d`.

    Example:
        >>> depthwise_conv1d(jnp.ones((2, 10, 3)), jnp.ones((4, 3, 2)), padding="same").shape
        (2, 10, 6)
    """
    x, depthwise_kernel = _arrays(x=x, depthwise_kernel=depthwise_kernel)
    rows, geometry = _resolve(
        x,
        depthwise_kernel,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        implementation=implementation,
    )
    h = depthwise(
        rows,
        depthwise_kernel,
        geometry,
        implementation=implementation,
        precision=precision,
        dtype=_result_dtype(preferred_element_type, x.dtype),
    )
    return _from_channels_last(h, x, data_format)


def separable_conv1d(
    x: ArrayLike,
    depthwise_kernel: ArrayLike,
    pointwise_kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: int | tuple[int] = 1,
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: int | tuple[int] = 1,
    implementation: str | None = None,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Filter every channel on its own, then mix the channels.

    h[b, l, c*M + m] = sum_i x[b, l*S + i*D - pad_low, c] * depthwise_kernel[i, c, m]
    y[b, l, f] = sum_j h[b, l, j] * pointwise_kernel[0, j, f] + bias[f]

    bfloat16 and float16 are accumulated in float32 in both stages and in every gradient.

    Args:
        x: (..., L, C), or (..., C, L) with "channels_first"; any number of batch dimensions.
        depthwise_kernel: (K, C, M).
        pointwise_kernel: (1, C*M, F).
        bias: (F,), or None.
        strides: S, input steps between output steps. Unlike the layer, the operation takes strides
            and a dilation rate together.
        padding: "valid", "same" (TensorFlow's rule: the odd zero goes to the right) or "causal"
            (D * (K - 1) zeros in front), in any case.
        data_format: "channels_last" or "channels_first". The kernels are the same.
        dilation_rate: D, input steps between taps.
        implementation: name of the depthwise lowering, "grouped_conv", "shifted_sum" or "native";
            None takes what `select_implementation` says for where the program is lowered.
        precision: of the contractions on the matrix units; None is the platform's default.
        preferred_element_type: dtype of the result; None is the operands' (promoted) dtype.

    Returns:
        (..., output length, F), or (..., F, output length).

    Raises:
        ValueError: an argument or a shape breaks its rule, or no output step remains.
        TypeError: an operand is not floating point.
        NotImplementedError: the named implementation cannot run here.

    Example:
        >>> x = jnp.ones((2, 10, 3))
        >>> separable_conv1d(x, jnp.ones((4, 3, 2)), jnp.ones((1, 6, 5)), strides=2).shape
        (2, 4, 5)

    Source: https://www.tensorflow.org/api_docs/python/tf/compat/v1/layers/separable_conv1d
    """
    operands = {"x": x, "depthwise_kernel": depthwise_kernel, "pointwise_kernel": pointwise_kernel}
    if bias is not None:
        operands["bias"] = bias
    x, depthwise_kernel, pointwise_kernel, *biases = _arrays(**operands)
    rows, geometry = _resolve(
        x,
        depthwise_kernel,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        implementation=implementation,
    )
    lanes = math.prod(depthwise_kernel.shape[1:])
    kernel_shape = pointwise_kernel.shape
    if len(kernel_shape) != 3 or kernel_shape[:2] != (1, lanes):
        raise ValueError(
            f"pointwise_kernel must have shape (1, C*M, F) with C*M={lanes}, got {kernel_shape}"
        )
    if biases and biases[0].shape != kernel_shape[2:]:
        raise ValueError(
            f"bias must have shape (F,) with F={kernel_shape[2]}, got {biases[0].shape}"
        )
    y = separable(
        rows,
        depthwise_kernel,
        pointwise_kernel[0],
        *biases,
        geometry=geometry,
        implementation=implementation,
        precision=precision,
        dtype=_result_dtype(preferred_element_type, x.dtype),
    )
    return _from_channels_last(y, x, data_format)


def select_implementation(
    x_shape: tuple[int, ...],
    depthwise_kernel_shape: tuple[int, ...],
    *,
    platform: str,
    contraction: str = "output",
    strides: int | tuple[int] = 1,
    dilation_rate: int | tuple[int] = 1,
    dtype: DTypeLike = "float32",
    surroundings: str | None = None,
) -> Selection:
    """Tell which depthwise lowering `implementation=None` takes, and why.

    A pure function of static facts; nothing is measured or asked of a device.

    Args:
        x_shape: (..., L, C).
        depthwise_kernel_shape: (K, C, M).
        platform: "cpu", "cuda", "rocm" or "tpu" (`jax.default_backend()` says "gpu" for the middle
            two, which is accepted).
        contraction: "output", "input_gradient" or "kernel_gradient".
        strides: S, as in the operation.
        dilation_rate: D, as in the operation.
        dtype: of the operands.
        surroundings: None, or what sets the program apart: "exported" (lowered by `jax.export`),
            "partly manual" (inside a `shard_map` over some axes of a mesh), "without mesh"
            (several devices, arrays not sharded over a mesh), "explicit mesh" (the kernel
            gradient on several devices, explicit axes). There the native lowering stays out.

    Example:
        >>> select_implementation((8, 1024, 256), (31, 256, 1), platform="tpu").name
        'grouped_conv'
    """
    if contraction not in CONTRACTIONS.values():
        raise ValueError(
            f"contraction must be one of {', '.join(CONTRACTIONS.values())}, got {contraction!r}"
        )
    if surroundings is not None:
        choice("surroundings", surroundings, tuple(native.SURROUNDINGS))
    _check_kernel(tuple(depthwise_kernel_shape), x_shape[-1])
    geometry = geometry_lib.resolve(
        length=x_shape[-2],
        kernel_size=depthwise_kernel_shape[0],
        stride=positive_int("strides", strides),
        dilation=positive_int("dilation_rate", dilation_rate),
        padding="causal",  # Which zeros are read makes no difference.
    )
    multiplier = depthwise_kernel_shape[2]
    return select(platform, contraction, geometry, multiplier, dtype, surroundings)


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


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Resolve a name, given in any case, to one of the choices."""
    if not isinstance(value, str) or value.lower() not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {expected} (in any case), got {value!r}")
    return value.lower()


def check_implementation(implementation: Any) -> None:
    """Raise ValueError unless it is None or the name of a lowering."""
    if implementation is not None and implementation not in LOWERINGS:
        raise ValueError(
            f"implementation must be None or one of {', '.join(map(repr, LOWERINGS))}, "
            f"got {implementation!r}"
        )


def channels_of(name: str, x: ArrayLike, data_format: str) -> int:
    """Check what the operation takes as input, and return its number of channels."""
    x = jnp.asarray(x)
    _check_dtype(name, x.dtype)
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


def _check_dtype(name: str, dtype: DTypeLike) -> None:
    if jnp.dtype(dtype).name not in DTYPES:
        raise TypeError(f"{name} must be of dtype {', '.join(DTYPES)}, got {jnp.dtype(dtype)}")


def _check_kernel(shape: tuple[int, ...], channels: int) -> None:
    if len(shape) != 3 or shape[1] != channels or 0 in shape:
        raise ValueError(
            f"depthwise_kernel must have shape (K, C, M), all positive, with C={channels}, "
            f"the channels of x, got {shape}"
        )


def _arrays(**operands: ArrayLike) -> list[jax.Array]:
    """Check the operands' dtypes, and convert them to their common one."""
    arrays = {name: jnp.asarray(operand) for name, operand in operands.items()}
    for name, array in arrays.items():
        _check_dtype(name, array.dtype)
    dtype = jnp.result_type(*arrays.values())
    return [array.astype(dtype) for array in arrays.values()]


def _result_dtype(preferred: DTypeLike | None, default: DTypeLike) -> jnp.dtype:
    if preferred is None:
        return jnp.dtype(default)
    _check_dtype("preferred_element_type", preferred)
    return jnp.dtype(preferred)


def _resolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | tuple[int],
    padding: str,
    data_format: str,
    dilation_rate: int | tuple[int],
    implementation: str | None,
) -> tuple[jax.Array, geometry_lib.Geometry]:
    """Check and resolve the arguments; return x as (batch, L, C), and the geometry."""
    channels = channels_of("x", x, data_format)
    _check_kernel(kernel.shape, channels)
    check_implementation(implementation)
    if choice("data_format", data_format, DATA_FORMATS) == "channels_first":
        x = x.swapaxes(-1, -2)
    geometry = _geometry(
        x.shape[-2],
        kernel.shape[0],
        positive_int("strides", strides),
        positive_int("dilation_rate", dilation_rate),
        choice("padding", padding, geometry_lib.PADDINGS),
    )
    rows = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    edges = geometry.pad_low, geometry.pad_high
    if any(jax.export.is_symbolic_dim(edge) for edge in edges):
        # No lowering has to pad by what is not known: that is done here.
        zero = jnp.zeros((), rows.dtype)
        rows = lax.pad(rows, zero, ((0, 0, 0), (*edges, 0), (0, 0, 0)))
        geometry = geometry.padded()
    return rows, geometry


def _geometry(
    length: int, kernel_size: int, stride: int, dilation: int, padding: str
) -> geometry_lib.Geometry:
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


def _from_channels_last(y: jax.Array, x: jax.Array, data_format: str) -> jax.Array:
    """Restore the batch dimensions and the axis order of x."""
    y = y.reshape(*x.shape[:-2], *y.shape[-2:])
    return y if data_format.lower() == "channels_last" else y.swapaxes(-1, -2)
