"""A trained model as one artifact that runs without its makers: through `jax.export`.

What runs it, on any of the platforms it was made for, needs `jax` and `flatbuffers` (by which JAX
writes and reads artifacts), neither Flax nor this package:
`jax.export.deserialize(blob).call(*inputs)`.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.typing import DTypeLike

from flax_sepconv.ops.exporting import Replaced, portable
from flax_sepconv.ops.lowerings import PORTABLE

PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN_PLATFORMS = (*PLATFORMS, "rocm")

Input = str | tuple[str, DTypeLike]


def export_model(
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Input,
    constraints: Sequence[str] = (),
    platforms: Sequence[str] = PLATFORMS,
    implementation: str | None = None,
) -> jax.export.Exported:
    """Export `apply(variables, *inputs)` with the variables inside.

    A layer whose `implementation` names a lowering that other processes lack ("native", "triton",
    "mosaic") is computed by one that they have, and a warning says which. Where none is named it is
    the one that `ops.select_implementation(..., surroundings="exported")` tells.

    Args:
        apply: `model.apply` of a linen module (`functools.partial(model.apply, train=False)`), or
            any function of the variables and the inputs.
        variables: arrays in dicts, lists, nnx states, ...; they become part of the artifact.
        *inputs: the shape of each input, float32: "b, t, 12", where a name stands for any size from
            1 up, the same one wherever it appears; or a shape and a dtype: ("b, t", "bool").
        constraints: what is known of the sizes: ["t >= 16", "mod(t, 8) == 0"]. Layers with padding
            "valid" need to know that an output step remains. A call that breaks one is an error.
        platforms: those that the artifact runs on, of "cpu", "cuda", "tpu" and "rocm".
        implementation: the lowering of all layers, whatever they name: "grouped_conv" (for
            converters: depthwise stages stay single operations) or "shifted_sum".

    Returns:
        The artifact. `serialize()` gives its bytes; `serialize(vjp_order=1)` adds the gradients
        with respect to the inputs.

    Raises:
        ValueError, TypeError: an argument breaks its rule, or the shortest length that the
            constraints allow leaves no output step.

    Example:
        >>> import flax_sepconv as fsc
        >>> import jax.numpy as jnp
        >>> layer = fsc.SeparableConv1D(5, kernel_size=4, strides=2, padding="same")
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 12)))
        >>> exported = export_model(layer.apply, variables, "b, t, 12")
        >>> exported.platforms, exported.out_avals[0].str_short()
        (('cpu', 'cuda', 'tpu'), 'float32[b,- floordiv(- t, 2),5]')
        >>> reloaded = jax.export.deserialize(exported.serialize())
        >>> reloaded.call(jnp.ones((3, 21, 12))).shape
        (3, 11, 5)

        An nnx model is split into what it is and what it holds:

        >>> from flax import nnx
        >>> model = fsc.nnx.SeparableConv1D(12, 5, kernel_size=4, padding="same", rngs=nnx.Rngs(0))
        >>> graph, state = nnx.split(model)
        >>> def apply(state, x):
        ...     return nnx.merge(graph, state)(x)
        >>> export_model(apply, state, "b, t, 12", platforms=["cpu"]).platforms
        ('cpu',)
    """
    unknown = [platform for platform in platforms if platform not in KNOWN_PLATFORMS]
    if unknown or not platforms:
        raise ValueError(f"platforms must be some of {KNOWN_PLATFORMS}, got {platforms!r}")
    if implementation not in (None, *PORTABLE):
        raise ValueError(f"implementation must be None or of {PORTABLE}, got {implementation!r}")
    types = _types(inputs, constraints)
    # Variables that several devices share would make it a program for as many.
    whole = jax.device_put(variables, jax.devices()[0])

    def model(*arrays: jax.Array) -> Any:
        return apply(whole, *arrays)

    with portable(implementation) as replaced:
        exported = jax.export.export(jax.jit(model), platforms=tuple(platforms))(*types)
    if replaced:
        warnings.warn(_told(replaced), stacklevel=2)
    return exported


def _types(inputs: Sequence[Input], constraints: Sequence[str]) -> list[jax.ShapeDtypeStruct]:
    """Parse the inputs; a name is the same size in all of them."""
    for given in inputs:
        if not isinstance(given, str) and not (isinstance(given, tuple) and len(given) == 2):
            raise TypeError(
                f"an input must be a shape, such as 'b, t, 12', or a shape and a dtype, "
                f"got {given!r}"
            )
    try:
        scope = jax.export.SymbolicScope(constraints)
    except ValueError as error:
        raise ValueError(f"constraints {constraints!r}: {error}") from error
    types = []
    for given in inputs:
        shape, dtype = (given, "float32") if isinstance(given, str) else given
        try:
            sizes = jax.export.symbolic_shape(shape, scope=scope)
            types.append(jax.ShapeDtypeStruct(sizes, dtype))
        except (TypeError, ValueError) as error:
            raise ValueError(f"input {given!r}: {error}") from error
    return types


def _told(replaced: set[Replaced]) -> str:
    """Say what was replaced, by what and where."""
    lines = []
    for named in sorted({entry.named for entry in replaced}):
        taken = sorted((entry.platform, entry.taken) for entry in replaced if entry.named == named)
        instead = ", ".join(f"{name} on {platform}" for platform, name in taken)
        lines.append(
            f"implementation={named!r} cannot be exported, its kernels are not part of XLA: "
            f"the artifact has {instead}"
        )
    return "; ".join(lines)
