"""How fast the device copies and multiplies, and how long a program must take by that."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flax_sepconv.ops.choices.classes import Program
from flax_sepconv.ops.tuning.problems import Problem
from flax_sepconv.ops.tuning.programs import lowered
from flax_sepconv.ops.tuning.timing import quartiles

# Of the copied array, larger than any on-chip memory, in MiB; of the sides of square matrices.
SIZES = {"cpu": (64, (512, 1024)), "gpu": (512, (4096, 8192)), "tpu": (512, (4096, 8192))}


class Ceilings(NamedTuple):
    """Rates of a device in a dtype: bytes and floating-point operations in a second."""

    copy: float
    matmul: float

    def least_seconds(self, problem: Problem, program: Program, itemsize: int) -> tuple[float, ...]:
        """Return how long its bytes take as a copy, and all its operations as a matmul."""
        p = problem
        positions = p.batch * p.steps
        x, y = p.batch * p.length * p.channels, positions * (p.filters or p.joined)
        weights = p.kernel_size * p.joined + p.joined * p.filters + p.filters
        flops = 2 * positions * p.joined * (p.kernel_size + p.filters)
        size = itemsize * (x + weights + y)
        if program == "forward_backward":  # Each stage has two gradients of its own cost.
            size, flops = 2 * size, 3 * flops
        return size / self.copy, flops / self.matmul


def measure(device: jax.Device, dtype: str, seconds: float) -> Ceilings:
    """Measure both rates of a device."""
    size, sides = SIZES[device.platform]
    itemsize = jnp.dtype(dtype).itemsize
    length = size * 2**20 // itemsize
    array = jax.device_put(jnp.ones(length, dtype), device)
    # Its sign keeps it from being left out.
    programs = {"copy": lowered(lambda x: (-x,), [array]).compile()}
    for side in sides:
        square = jax.device_put(jnp.ones((side, side), dtype), device)
        programs[f"matmul {side}"] = lowered(_square, [square]).compile()
    # What a device can do others on the machine can only lessen: the lower quartile.
    taken = {name: low for name, (low, *_) in quartiles(programs, seconds).items()}
    return Ceilings(
        copy=2 * length * itemsize / taken["copy"],
        matmul=max(2 * side**3 / taken[f"matmul {side}"] for side in sides),
    )


def _square(x: jax.Array) -> tuple[jax.Array]:
    return (x @ x,)
