"""From arguments of the operation on integers, as they are given, to checked ones."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flax_sepconv.ops.arguments import check_dtype
from flax_sepconv.ops.quantized.primitive import NAMES
from flax_sepconv.ops.quantized.scales import GREATEST, LEAST, inverse, rounded

# Scales that are found where the values are known: over all, or over each example.
Dynamic = Literal["dynamic", "dynamic_per_example"]
DYNAMIC: tuple[Dynamic, ...] = get_args(Dynamic)
Scale = ArrayLike | Dynamic
Ending = Literal["relu", "relu6"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)
# So many products of 8 bits, one of a value between two zero points, are less than 2^31.
MOST_PRODUCTS = 2**31 // (255 * 128)


def check_integers(name: str, array: Any, dtype: str) -> jax.Array:
    """Return an operand as an array, or raise TypeError unless it is of an integer type."""
    found = jnp.asarray(array)
    check_dtype(name, found.dtype, (dtype,))
    return found


def check_products(name: str, letters: str, count: int) -> None:
    """Raise ValueError where a sum of so many products may not fit in 32 bits."""
    if count > MOST_PRODUCTS:
        raise ValueError(
            f"{name} must have at most {letters}={MOST_PRODUCTS}, for sums to fit in 32 bits, got "
            f"{count}"
        )


def check_implementation(implementation: Any) -> None:
    """Raise where it names a lowering that knows no integers."""
    if implementation is not None and implementation not in NAMES:
        raise NotImplementedError(
            f"implementation={implementation!r} cannot run here: of integers there are "
            f"{', '.join(map(repr, NAMES))}"
        )


def scale(name: str, given: Any, *shapes: tuple[tuple[int, ...], str]) -> Any:
    """Check a scale: a positive number, or one for each of what the shapes are of.

    Args:
        name: of the argument.
        given: the scale.
        shapes: that it may have but for a number's, and what they are called.

    Returns:
        A float32 array: NumPy's where none of JAX's was given.

    Raises:
        ValueError: it is of another shape, or known and not positive and finite.
        TypeError: it is None, or not of numbers.
    """
    ways = ["a positive number", *(f"an array {letters} {shape}" for shape, letters in shapes)]
    rule = f"{name} must be {' or '.join(ways)}"
    if given is None or isinstance(given, str | bool):
        raise TypeError(f"{rule}, got {given!r}")
    is_ours = isinstance(given, jax.Array)
    array = given.astype(jnp.float32) if is_ours else np.asarray(given, np.float32)
    if array.shape not in ((), *(shape for shape, _ in shapes)):
        raise ValueError(f"{rule}, got shape {array.shape}")
    if not isinstance(array, jax.core.Tracer):
        known = np.asarray(array)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            wrong = known[~(np.isfinite(known) & (known > 0) & np.isfinite(1 / known))]
        if wrong.size:
            raise ValueError(f"{name} must be positive and finite, got {wrong.flat[0]}")
    return array


def is_zero(zero_point: Any) -> bool:
    """Tell whether a zero point is known to be 0."""
    return not isinstance(zero_point, jax.core.Tracer) and bool(np.all(np.asarray(zero_point) == 0))


def zero_point(name: str, given: Any) -> Any:
    """Check a zero point: one integer from -128 to 127."""
    is_ours = isinstance(given, jax.Array)
    array = given if is_ours else np.asarray(given)
    if array.shape != () or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be one integer, got {given!r}")
    if not isinstance(array, jax.core.Tracer) and not LEAST <= int(array) <= GREATEST:
        raise ValueError(f"{name} must be from {LEAST} to {GREATEST}, got {int(array)}")
    return array.astype("int32")


@dataclass(frozen=True)
class Output:
    """What sums become.

    Attributes:
        scale: of int8, or None: the result is of real numbers.
        zero_point: of int8.
        activation: what they end with, or None.
    """

    scale: Any
    zero_point: Any
    activation: Ending | None

    @classmethod
    def of(cls, output_scale: Any, output_zero_point: Any, activation: Any) -> "Output":
        """Check it as it is given."""
        if activation is not None and activation not in ENDINGS:
            names = ", ".join(map(repr, ENDINGS))
            raise ValueError(f"activation must be None or one of {names}, got {activation!r}")
        if output_scale is None:
            if not is_zero(output_zero_point):
                raise ValueError(
                    "output_zero_point needs an output_scale: without one the result is of real "
                    f"numbers, got {output_zero_point!r}"
                )
            return cls(None, np.int32(0), activation)
        return cls(
            scale("output_scale", output_scale),
            zero_point("output_zero_point", output_zero_point),
            activation,
        )

    @property
    def dtype(self) -> Literal["int8", "float32"]:
        """The dtype of what is computed."""
        return "float32" if self.scale is None else "int8"

    @property
    def bounds(self) -> jax.Array:
        """The least and the greatest result (2,): a real number, or steps from the zero point."""
        low: float = -jnp.inf if self.activation is None else 0.0
        high = jnp.asarray(jnp.inf, jnp.float32)
        if self.activation == "relu6":
            high = jnp.asarray(6, jnp.float32)
            high = high if self.scale is None else rounded(high * inverse(self.scale))
        return jnp.stack([jnp.asarray(low, jnp.float32), high])
