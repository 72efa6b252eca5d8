"""How the work is cut into programs, and what the kernels decline: functions of shapes and dtypes.

The numbers were chosen by compiling for TPUs and counting what is issued; nothing here was tuned on
a TPU.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from flax_sepconv.ops.geometry import Geometry

LANES = 128
DTYPES = ("bfloat16", "float32")
# The kernels are straight-line code: it grows with the taps, and so does the time to compile it.
MOST_TAPS = 64
MOST_REACH = 256
# Elements of a program's widest block; more of them make the program's start and end count less.
BLOCK = 2**19
# Rows of a block that hold whole tiles of any dtype.
TILE = 16
# Sums over steps are kept for every eighth step apart: adding those up takes another unit.
SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a program may use of a device.

    Attributes:
        cores: that programs of one call are divided between.
        memory: bytes that a core's program may keep on chip, of 8/7 as many that are there.
    """

    cores: int
    memory: int

    @property
    def limit(self) -> int:
        """Bytes that the compiler is allowed to use: its own needs are in it."""
        return self.memory + self.memory // 14


_LARGE, _SMALL = 56 * 2**20, 14 * 2**20
# By JAX's names of kinds of devices. The large memories are of 64 MiB (v5p) or 128.
CHIPS = {
    "TPU v4": Chip(2, _SMALL),
    **dict.fromkeys(("TPU v5", "TPU v5p"), Chip(2, _LARGE)),
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), Chip(1, _LARGE)),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), Chip(1, _LARGE)),
}
# A device of another kind: what the smallest one has.
UNKNOWN = Chip(1, _SMALL)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How steps and channels are shared out.

    Attributes:
        steps: T, the steps of a program, a multiple of `strip`.
        strip: R, the steps of one matrix product, a multiple of `halo`.
        halo: H, the steps beside its own that a program sees on either side; a power of two.
        blocks: programs for one element of the batch.
        groups: parts that the channels are cut into, one after the other.
    """

    steps: int
    strip: int
    halo: int
    blocks: int
    groups: int = 1


Needed = Callable[[Plan, Geometry, int, int, int], int]


def plan_output(geometry: Geometry, C: int, F: int, itemsize: int, chip: Chip) -> Plan:
    """Cut the output's steps into programs.

    Raises:
        NotImplementedError: not even the smallest blocks fit on the chip.
    """
    candidates = _cuts(geometry, C, F, geometry.output_length)
    return _first_that_fits(candidates, output_memory, geometry, C, F, itemsize, chip)


def plan_gradients(geometry: Geometry, C: int, F: int, itemsize: int, chip: Chip) -> Plan:
    """Cut the input's steps, and where weights and their gradients are large its channels.

    Raises:
        NotImplementedError: not even the smallest blocks fit on the chip.
    """
    tiles = C // LANES
    candidates = (
        dataclasses.replace(cut, groups=groups)
        for cut in _cuts(geometry, C, F, geometry.length)
        for groups in range(1, tiles + 1)
        if tiles % groups == 0
    )
    return _first_that_fits(candidates, gradients_memory, geometry, C, F, itemsize, chip)


def output_memory(cut: Plan, geometry: Geometry, C: int, F: int, itemsize: int) -> int:
    """Count the bytes that the output's kernel keeps on chip.

    Blocks count twice: the next ones come in, and the last ones go out, during the computation.
    """
    seen = cut.steps + 2 * cut.halo
    moved = 2 * (seen * C + cut.steps * F)
    held = seen * C + cut.strip * (F + C) + SUBLANES * (geometry.kernel_size * C + F)
    return itemsize * (moved + C * F) + 4 * held


def gradients_memory(cut: Plan, geometry: Geometry, C: int, F: int, itemsize: int) -> int:
    """Count the bytes that the gradients' kernel keeps on chip, as `output_memory` does."""
    own = C // cut.groups
    seen = cut.steps + 2 * cut.halo
    moved = 2 * (seen * (own + F) + cut.steps * own)
    sums = own * F + SUBLANES * (geometry.kernel_size * own + F)
    rows = cut.strip + 2 * cut.halo
    held = 2 * seen * own + rows * own
    if itemsize == 4:  # Products of float32 are made of parts, which are kept beside it.
        held += own * F
    # A strip of the cotangent is put together with its halo.
    return itemsize * (moved + own * F + rows * F) + 4 * (sums + held)


def _cuts(geometry: Geometry, C: int, F: int, steps: int) -> Iterator[Plan]:
    """Cut `steps` steps into programs of nearly the same size; smaller ones after larger ones."""
    few = geometry.kernel_size <= 8
    halo = max(TILE, _power_of_two(geometry.reach))
    strip = max(halo, 256 if few else 128)
    most = BLOCK // (1 if few else 2) // max(C, F, 512)
    while True:
        if steps <= strip:
            whole = _round_up(steps, halo)
            yield Plan(whole, whole, halo, 1)
        else:
            blocks = -(-steps // max(strip, most // strip * strip))
            yield Plan(_round_up(-(-steps // blocks), strip), strip, halo, blocks)
        most = min(most, max(steps, strip)) // 2
        if most < halo:
            return
        strip = min(strip, _power_of_two(most + 1) // 2)


def _first_that_fits(
    cuts: Iterator[Plan],
    needed: Needed,
    geometry: Geometry,
    C: int,
    F: int,
    itemsize: int,
    chip: Chip,
) -> Plan:
    for cut in cuts:
        least = needed(cut, geometry, C, F, itemsize)
        if least <= chip.memory:
            return cut
    raise NotImplementedError(
        f"the Mosaic kernels would need {least / 2**20:.1f} MiB on chip for {C} channels and {F} "
        f"filters, of {chip.memory >> 20}"
    )


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
    return None


def check(geometry: Geometry, x: jax.Array, kernel: jax.Array, weights: jax.Array) -> None:
    """Raise NotImplementedError for what the kernels decline."""
    if reason := declines(geometry, x, kernel, weights):
        raise NotImplementedError(reason)


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
