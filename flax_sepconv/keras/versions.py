"""Which Keras a config is from, and the names that mean other things in another one.

One name differs in the layers' arguments: the activation "hard_sigmoid" is clip(0.2 x + 0.5, 0, 1)
in Keras 2 and TF1, and relu6(x + 3) / 6 in Keras 3. "sparsemax" is the same function by definition,
but Keras 3 computes another one.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from flax_sepconv import activations

# What Keras 2 writes for its general convolution and does not use in these layers.
OF_KERAS_2 = ("kernel_initializer", "kernel_regularizer", "kernel_constraint", "groups")
_POLICIES = {
    **dict.fromkeys(("Policy", "PolicyV1"), 2),
    **dict.fromkeys(("DTypePolicy", "FloatDTypePolicy", "DTypePolicyMap"), 3),
}
_INITIALIZERS = ("depthwise_initializer", "pointwise_initializer", "bias_initializer")


def version_of(config: Mapping[str, Any]) -> int | None:
    """Return the version of the Keras that wrote a layer's config, 2 or 3; None if it is not told.

    Keras 2 is told by arguments of its general convolution, which it writes though the layer does
    not use them, by a `batch_input_shape`, a `Policy`, or initializers without a module; Keras 3 by
    a `DTypePolicy`, or by initializers with a module where nothing is Keras 2's. Every config that
    one of them wrote tells; one written by hand may not, or may contradict itself.
    """
    told: set[int] = set()
    if any(name in config for name in (*OF_KERAS_2, "batch_input_shape")):
        told.add(2)
    policy = config.get("dtype")
    if isinstance(policy, Mapping) and policy.get("class_name") in _POLICIES:
        told.add(_POLICIES[str(policy["class_name"])])
    objects = [o for name in _INITIALIZERS if isinstance(o := config.get(name), Mapping)]
    if any("module" not in described for described in objects):
        told.add(2)
    elif objects and not told:  # Keras 2 writes modules too, from its version 2.13 on.
        told.add(3)
    return told.pop() if len(told) == 1 else None


def activation_of(identifier: Any, version: int | None) -> Any:
    """Return what stands here for an activation's name or dict in a version of Keras.

    Args:
        identifier: what `activations.get` takes.
        version: 2 (or TF1), 3, or None if it is not known.

    Raises:
        ValueError: the name has two meanings, and `version` is None.
    """
    if not isinstance(identifier, str | Mapping) or version == 3:
        return identifier
    try:
        found = activations.get(identifier)
    except (TypeError, ValueError):  # Whoever makes the layer of it names the argument.
        return identifier
    if found is not activations.hard_sigmoid:
        return identifier
    if version is None:
        raise ValueError(
            "activation: 'hard_sigmoid' of Keras 2 is another function than that of Keras 3, and "
            "the config does not tell which Keras it is from: give version=2 or version=3"
        )
    return activations.hard_sigmoid_keras2.__name__


def warn_of_sparsemax(activation: Any, version: int | None) -> None:
    """Say that Keras 3 computes something else than this activation, if it is sparsemax."""
    name = getattr(activation, "name", None) or getattr(activation, "__name__", None)
    if name != activations.sparsemax.__name__ or version == 2:
        return
    warnings.warn(
        "activation: Keras 3 up to 3.15 computes sparsemax wrongly where more than one value stays "
        "above zero (https://github.com/keras-team/keras/pull/23469); here it is right, so that "
        "outputs differ",
        stacklevel=4,
    )
