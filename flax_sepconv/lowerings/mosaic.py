"""Both stages, and all their gradients, in Mosaic (`flax_sepconv/mosaic/`), through Pallas.

For TPUs. Compiled for them and checked by interpretation, not yet run on one: it is taken only by
name. There is no depthwise stage alone.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import jax
from jax import lax
from jax.typing import DTypeLike

from flax_sepconv.geometry import Geometry


def declines(platform: str, surroundings: str | None) -> str | None:
    """Say why the lowering cannot run there, or None."""
    if platform != "tpu":
        return f"it is for TPUs, and the program is lowered for {platform}"
    if surroundings in ("partly manual", "without mesh", "explicit mesh"):
        return "XLA cannot divide its calls among devices by itself there"
    return None


def output(*_: Any) -> NoReturn:
    """Decline: what cannot be computed together ends up here."""
    raise NotImplementedError(
        "implementation='mosaic' computes both stages together and their first derivatives in "
        "reverse, on one device (or inside a shard_map), and nothing else"
    )


input_gradient = kernel_gradient = output


def joins(result: str, geometry: Geometry, avals: Sequence[Any]) -> bool:
    """Tell whether both stages can be computed together; raise where they cannot, to say why."""
    from flax_sepconv.mosaic.plan import check  # Pallas is imported where it is used.

    check(geometry, *avals[:3])
    return True


def _separable_output(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    *biases: jax.Array,
    geometry: Geometry,
    precision: lax.PrecisionLike,
    dtype: DTypeLike,
    **_: object,
) -> list[jax.Array]:
    from flax_sepconv.mosaic.forward import separable

    bias = biases[0] if biases else None
    return [separable(x, kernel, weights, bias, geometry, dtype, precision=precision)]


def _separable_gradients(
    x: jax.Array,
    kernel: jax.Array,
    weights: jax.Array,
    y: jax.Array,
    *,
    bias: bool,
    geometry: Geometry,
    precision: lax.PrecisionLike,
    **_: object,
) -> list[jax.Array]:
    from flax_sepconv.mosaic.gradients import gradients

    results = gradients(x, kernel, weights, y, geometry, bias=bias, precision=precision)
    return [result for result in results if result is not None]


# Results of both stages, as `flax_sepconv.separable` names them.
FUSED = {"y": _separable_output, "xkw": _separable_gradients}
