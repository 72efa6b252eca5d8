"""What XLA's cost analysis is told of native calls, into which it cannot look: it counts -1 each.

A lowered program holds, beside each call, operations on zeros that take as many FLOPs. Their
results go into a barrier, and out of it to nobody: `Lowered.cost_analysis()`, from which Flax's
tables are made, counts them, and the compiler throws them away. The compiled program is the call
alone, as it would be without them; `Compiled.cost_analysis()` goes on to say -1.
"""

import jax
import numpy as np
from jax import lax

from flax_sepconv.ops.context import Context


def counted(
    operand: jax.Array, context: Context, product: tuple[int, int, int], sums: int = 0
) -> jax.Array:
    """Return an operand of a call, and let the call count.

    Args:
        operand: any of them.
        context: of the program; where XLA divides it, nothing is said.
        product: (m, n, p), of matrices (m, n) and (n, p) whose product takes as many FLOPs.
        sums: FLOPs besides.
    """
    m, n, p = product
    if 0 in product or not context.is_one_device:
        return operand
    zero = np.zeros((), operand.dtype)
    multiplied = lax.dot(lax.broadcast(zero, (m, n)), lax.broadcast(zero, (n, p)))
    one = lax.slice(multiplied, (0, 0), (1, 1))
    added = [lax.add(one, one)]  # What is taken off for the call.
    if sums:
        steps = lax.iota(np.int32, sums)
        added.append(lax.add(steps, steps))
    same: jax.Array = lax.optimization_barrier((operand, multiplied, *added))[0]
    return same
