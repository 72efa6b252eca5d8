"""The native kernels, and how they are called through XLA's FFI.

Channels lie in vectors, products are summed in registers, and the work is shared by XLA's own
threads, cut by shape alone (and by where segments begin): the same operands give the same bits for
any number of threads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from flax_sepconv.ops.context import Context, Surroundings
from flax_sepconv.ops.geometry import Geometry
from flax_sepconv.ops.native import library
from flax_sepconv.ops.partitioning import result_type

# Why the library is not used, or None.
ABSENCE = library.register()

# Programs that had better do without calls that XLA cannot look into.
SURROUNDINGS: dict[Surroundings, str] = {
    "exported": "an exported program should not need a library of its maker's",
    "partly manual": "in a shard_map over some axes of a mesh XLA divides the rest by itself",
    "without mesh": "XLA divides arrays that are sharded over no named mesh by itself",
    "explicit mesh": "on a mesh of explicit and automatic axes XLA divides by itself",
}
# As `native/limits.h` numbers them.
LIMITS = {"whole": 0, "lengths": 1, "segments": 2}


def declines(context: Context) -> str | None:
    """Say why the kernels cannot be called in a program, or None. Exports only XLA refuses."""
    if context.platform != "cpu":
        return f"it is for CPUs, and the program is lowered for {context.platform}"
    if context.surroundings not in (None, "exported"):
        return SURROUNDINGS[context.surroundings]
    return ABSENCE


def reason_to_avoid(context: Context) -> str | None:
    """Say why the kernels had better not be called where nobody names them, or None."""
    return SURROUNDINGS["exported"] if context.surroundings == "exported" else declines(context)


def call(
    target: str,
    out: Any,
    geometry: Geometry,
    limits: str,
    operands: Sequence[jax.Array],
    **more: np.int64,
) -> Any:
    """Call a kernel; where rows are limited, what limits them is the last operand.

    Lengths go in as they are: one operation of XLA's beside the call would take longer than small
    calls do.
    """
    kernel: Callable[..., Any] = jax.ffi.ffi_call(f"flax_sepconv_{target}", out)
    return kernel(
        *operands,
        stride=np.int64(geometry.stride),
        dilation=np.int64(geometry.dilation),
        pad_low=np.int64(geometry.pad_low),
        behind=np.int64(geometry.behind if limits == "lengths" else 0),
        limit=np.int64(LIMITS[limits]),
        same=np.bool_(geometry.same),
        **more,
    )


def step(out: Any, dilation: int, operands: Sequence[jax.Array], activation: np.int64) -> Any:
    """Call the kernel of a chunk of streams: the steps before it, the chunk, k, w and the bias."""
    kernel: Callable[..., Any] = jax.ffi.ffi_call("flax_sepconv_separable_step", out)
    return kernel(*operands, dilation=np.int64(dilation), activation=activation)


def quantized(
    target: str, out: Any, geometry: Geometry, operands: Sequence[jax.Array]
) -> jax.Array:
    """Call a kernel of 8-bit integers, for whole rows."""
    kernel: Callable[..., jax.Array] = jax.ffi.ffi_call(f"flax_sepconv_{target}", out)
    return kernel(
        *operands,
        stride=np.int64(geometry.stride),
        dilation=np.int64(geometry.dilation),
        pad_low=np.int64(geometry.pad_low),
    )


def zero_tails(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Set what lies behind the ends to zero, in place where XLA lets go of x: (B, L, C), (B,)."""
    out = result_type("zero_tails", (x,), x.shape, x.dtype)
    target: Callable[..., jax.Array] = jax.ffi.ffi_call(
        "flax_sepconv_zero_tails", out, input_output_aliases={0: 0}
    )
    return target(x, lengths)
