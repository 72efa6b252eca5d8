"""How the work is cut into programs, and what the kernels decline: functions of shapes and dtypes.

The numbers were chosen by compiling for TPU v5e and v6e and counting what is issued; nothing here
was tuned on a TPU.
"""

import dataclasses

import jax
import jax.numpy as jnp

from flax_sepconv.ops.geometry import Geometry

LANES = 128
DTYPES = ("bfloat16", "float32")
# The kernels are straight-line code: it grows with the taps, and so does the time to compile it.
MOST_TAPS = 64
MOST_REACH = 256
# What programs may keep on chip: less than the smallest of the memories that are large enough for
# two matrices of weights (64 MiB).
MEMORY = 56 * 2**20
# Elements of a program's widest block; more of them make the program's start and end count less.
BLOCK = 2**19
# Rows of a block that hold whole tiles of any dtype.
TILE = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """How steps are shared out.

    Attributes:
        steps: T, the steps of a program, a multiple of `strip`.
        strip: R, the steps of one matrix product, a multiple of `halo`.
        halo: H, the steps beside its own that a program sees on either side; a power of two.
        blocks: programs for one element of the batch.
    """

    steps: int
    strip: int
    halo: int
    blocks: int


def plan(geometry: Geometry, C: int, F: int, steps: int) -> Plan:
    """Cut `steps` steps into programs of nearly the same size."""
    few = geometry.kernel_size <= 8
    halo = max(TILE, _power_of_two(geometry.reach))
    strip = max(halo, 256 if few else 128)
    if steps <= strip:
        whole = _round_up(steps, halo)
        return Plan(whole, whole, halo, 1)
    most = BLOCK // (1 if few else 2) // max(C, F, 512)
    blocks = -(-steps // max(strip, most // strip * strip))
    return Plan(_round_up(-(-steps // blocks), strip), strip, halo, blocks)


def memory(geometry: Geometry, C: int, F: int, itemsize: int) -> int:
    """Count the bytes that the larger of the two kernels, the gradients, keeps on chip.

    Blocks count twice: the next ones come in, and the last ones go out, during the computation.
    """
    cut = plan(geometry, C, F, geometry.length)
    seen = cut.steps + 2 * cut.halo
    moved = seen * (C + F) + cut.steps * C + C * F
    sums = 2 * C * F + 16 * (geometry.kernel_size * C + F)
    return 2 * itemsize * moved + 4 * sums + 4 * 2 * seen * C


def declines(geometry: Geometry, x: jax.Array, kernel: jax.Array, weights: jax.Array) -> str | None:
    """Say why the kernels do not compute the operation of these operands (or types), or None."""
    _, C, M = kernel.shape
    F = weights.shape[-1]
    dtypes = {jnp.dtype(operand.dtype).name for operand in (x, kernel, weights)}
    reasons = {
        f"strides=1 only; got {geometry.stride}": geometry.stride != 1,
        f"depth_multiplier=1 only; got {M}": M != 1,
        f"operands of one dtype, {' or '.join(DTYPES)}; got {', '.join(sorted(dtypes))}": (
            len(dtypes) > 1 or not dtypes <= set(DTYPES)
        ),
        f"no empty arrays; got {x.shape} and {F} filters": 0 in (*x.shape, F),
        f"channels in multiples of {LANES}; got {C}": C % LANES != 0,
        f"at most {MOST_TAPS} taps; got {geometry.kernel_size}": geometry.kernel_size > MOST_TAPS,
        f"taps at most {MOST_REACH} steps apart; got {geometry.reach}": geometry.reach > MOST_REACH,
        "as many output steps as input steps, or fewer": geometry.output_length > geometry.length,
    }
    for reason, applies in reasons.items():
        if applies:
            return f"the Mosaic kernels take {reason}"
    needed = memory(geometry, C, F, jnp.dtype(x.dtype).itemsize)
    if needed > MEMORY:
        return f"the Mosaic kernels would need {needed >> 20} MiB on chip, of {MEMORY >> 20}"
    return None


def check(geometry: Geometry, x: jax.Array, kernel: jax.Array, weights: jax.Array) -> None:
    """Raise NotImplementedError for what the kernels decline."""
    if reason := declines(geometry, x, kernel, weights):
        raise NotImplementedError(reason)


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
