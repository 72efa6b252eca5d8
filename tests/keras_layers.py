"""What a layer of Keras can be made of, the dicts it writes, and the comparison with ours."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flax_sepconv as fsc
from tests import peers, settings

B, L, C, K, M, F = 5, 17, 3, 4, 2, 8
PEERS = {2: peers.tf_keras, 3: peers.keras}
WEIGHTS = ("depthwise", "pointwise", "bias")

# Numbers are multiples of powers of two: Keras 2 rounds them to float32.
INITIALIZERS = {
    "Zeros": {},
    "Ones": {},
    "Constant": {"value": 0.125},
    "RandomNormal": {"mean": 0.5, "stddev": 0.25, "seed": 1},
    "TruncatedNormal": {"mean": -0.5, "stddev": 0.5, "seed": 0},
    "RandomUniform": {"minval": -0.25, "maxval": 0.75, "seed": 2**32 - 1},
    "VarianceScaling": {"scale": 2.0, "mode": "fan_avg", "distribution": "uniform", "seed": 3},
    "GlorotNormal": {"seed": 4},
    "GlorotUniform": {"seed": 5},
    "HeNormal": {"seed": 6},
    "HeUniform": {"seed": 7},
    "LecunNormal": {"seed": 8},
    "LecunUniform": {"seed": None},
}
FOR_KERNELS = {"Orthogonal": {"gain": 0.5, "seed": 9}}
OF_KERAS_3 = {
    "VarianceScaling": {"scale": 0.5, "input_axes": [0], "output_axes": [1, 2], "seed": 3},
    "HeNormal": {"input_axes": [0, 1], "output_axes": [-1], "seed": 3},
    "STFT": {"side": "real", "window": "hann", "scaling": "spectrum", "periodic": True},
}
REGULARIZERS = {
    "L1": {"l1": 0.125},
    "L2": {"l2": 0.0625},
    "L1L2": {"l1": 0.5, "l2": 0.25},
}
ORTHOGONAL = {"OrthogonalRegularizer": {"factor": 0.5, "mode": "columns"}}
CONSTRAINTS = {
    "MaxNorm": {"max_value": 0.5, "axis": [0, -1]},
    "NonNeg": {},
    "UnitNorm": {"axis": 0},
    "MinMaxNorm": {"min_value": 0.25, "max_value": 0.5, "rate": 0.75, "axis": [0]},
}
# By position: the one argument of LeakyReLU has two names.
ACTIVATION_LAYERS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("ReLU", ()),
    ("ReLU", (0.5,)),
    ("ReLU", (0.5, 0.25, 0.125)),
    ("LeakyReLU", ()),
    ("LeakyReLU", (0.125,)),
    ("ELU", ()),
    ("ELU", (0.5,)),
    ("Softmax", ()),
    ("Softmax", (1,)),
    ("Softmax", ([1, 2],)),
    ("Activation", ("tanh",)),
)
# Another function in Keras 2; wrong in Keras 3 up to 3.15; not without arguments.
APART = ("hard_sigmoid", "sparsemax", "threshold")
ACTIVATIONS = {
    2: settings.KERAS_2_ACTIVATIONS,
    3: tuple(name for name in settings.ACTIVATIONS if name not in APART),
}
DTYPES = {
    "float16": ("float16", "float16"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "float32": ("float32", "float32"),
    "float64": ("float64", "float64"),
    "mixed_float16": ("float16", "float32"),
    "mixed_bfloat16": ("bfloat16", "float32"),
}
PLAIN = {"filters": F, "kernel_size": [K]}
UNDRAWN = {f"{weight}_initializer": "zeros" for weight in WEIGHTS}  # to draw costs compilations


def module_of(argument: str) -> str:
    return argument.rpartition("_")[2] + "s"


def made(library: Any, argument: str, name: str, given: dict[str, Any]) -> Any:
    """Return the object of a class by its name, of Keras or of ours."""
    return getattr(getattr(library, module_of(argument)), name)(**given)


def weights_of(class_name: str) -> tuple[str, ...]:
    """Return the weights of a layer, as its arguments call them."""
    return WEIGHTS if class_name == "SeparableConv1D" else ("depthwise", "bias")


def needed(class_name: str) -> dict[str, int]:
    """Return the arguments that a layer needs."""
    return (
        {"filters": F, "kernel_size": K} if class_name == "SeparableConv1D" else {"kernel_size": K}
    )


def objects(
    version: int, class_name: str = "SeparableConv1D"
) -> list[tuple[str, str, dict[str, Any]]]:
    """List (argument, class name, arguments) for each object of each argument."""
    listed = []
    for weight in weights_of(class_name):
        kernel = weight != "bias"
        initializers = [*INITIALIZERS.items(), *(FOR_KERNELS.items() if kernel else ())]
        initializers += OF_KERAS_3.items() if kernel and version == 3 else ()
        listed += [(f"{weight}_initializer", *item) for item in initializers]
        listed += [(f"{weight}_regularizer", *item) for item in REGULARIZERS.items()]
        listed += [(f"{weight}_regularizer", *item) for item in ORTHOGONAL.items()]
        listed += [(f"{weight}_constraint", *item) for item in CONSTRAINTS.items()]
    return listed + [("activity_regularizer", *item) for item in REGULARIZERS.items()]


OBJECTS = [
    (version, class_name, *item)
    for version in PEERS
    for class_name in settings.LAYERS
    for item in objects(version, class_name)
]


def written(layer: Any, keras: Any) -> list[Any]:
    """Return every dict in which a Keras writes a layer."""
    config = layer.get_config()
    serialized = keras.saving.serialize_keras_object(layer)
    forms = [config, serialized]
    if keras is peers.tf_keras():
        forms.append({"class_name": type(layer).__name__, "config": legacy(layer, config, keras)})
    # Keras 2 has some numbers in arrays, which it writes to files so.
    return forms + [json.loads(json.dumps(form, default=float)) for form in forms]


def legacy(layer: Any, config: dict[str, Any], keras: Any) -> dict[str, Any]:
    """Return the config as Keras 2 wrote it before its version 2.13: no modules in it."""
    config = dict(config)
    for name, value in config.items():
        if isinstance(value, dict) and name != "dtype":
            module = getattr(keras, module_of(name))
            config[name] = module.serialize(getattr(layer, name), use_legacy_format=True)
    del config["groups"]
    return config


def numbers(
    seed: int = 0, data_format: str = "channels_last", class_name: str = "SeparableConv1D"
) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(seed)
    shapes = {"depthwise_kernel": (K, C, M), "pointwise_kernel": (1, C * M, F), "bias": (F,)}
    if class_name == "DepthwiseConv1D":
        shapes = {"depthwise_kernel": (K, C, M), "bias": (C * M,)}
    weights = {n: rng.normal(0, 0.4, shape).astype(np.float32) for n, shape in shapes.items()}
    shape = (B, L, C) if data_format == "channels_last" else (B, C, L)
    return weights, rng.normal(size=shape).astype(np.float32)


def assert_close(actual: Any, desired: Any, what: str, rtol: float = 1e-5) -> None:
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    assert actual.shape == desired.shape, what
    scale = max(np.abs(desired).max(), 1e-3)
    np.testing.assert_allclose(actual / scale, desired / scale, rtol=0, atol=rtol, err_msg=what)


def assert_same_layer(ours: Any, theirs: Any, version: int) -> None:
    """Give both the same weights and input; compare output, losses and constrained weights."""
    class_name = type(theirs).__name__
    assert type(ours).__name__ == class_name
    weights, x = numbers(data_format=theirs.data_format, class_name=class_name)
    if not theirs.use_bias:
        del weights["bias"]
    array = peers.tf().constant if version == 2 else jnp.asarray
    theirs.build(x.shape)
    theirs.set_weights(list(weights.values()))
    assert ours.trainable is theirs.trainable
    assert bool(theirs.trainable_weights) is theirs.trainable
    collection = "params" if ours.trainable else "non_trainable"
    y, recorded = jax.jit(functools.partial(ours.apply, mutable=["losses"]))(
        {collection: weights}, x
    )
    if version == 2 and theirs.data_format == "channels_first":  # not every TensorFlow has it
        turned = type(theirs).from_config(theirs.get_config() | {"data_format": "channels_last"})
        turned.build((B, L, C))
        turned.set_weights(list(weights.values()))
        expected = np.swapaxes(turned(array(np.swapaxes(x, 1, 2))), 1, 2)
        theirs = turned
    else:
        expected = theirs(array(x))
    assert_close(y, expected, "output")
    theirs.trainable = True  # Keras 3 leaves the penalties of frozen weights out
    losses = sum(float(loss) for loss in theirs.losses)
    assert_close(fsc.regularization_loss(recorded), losses, "losses")
    arguments = ours.arguments()
    for weight, value in zip(weights_of(class_name), weights.values(), strict=False):
        mine, their = (getattr(o, f"{weight}_constraint") for o in (arguments, theirs))
        assert (mine is None) is (their is None)
        if mine is not None:
            assert_close(mine(value), their(array(value)), f"{weight}_constraint")


def assert_said_by(config: Any, theirs: Any) -> None:
    """Check that Keras' own config has all of ours, with the same values."""
    theirs = json.loads(json.dumps(theirs))
    if isinstance(theirs["dtype"], dict):
        theirs["dtype"] = theirs["dtype"]["config"]["name"]
    for name, value in config.items():
        if isinstance(value, dict):
            found = theirs[name]
            assert value["config"].items() <= found["config"].items(), name
            rest = {key: found[key] for key in value if key != "config"}
            assert rest == {key: value[key] for key in rest}, name
        else:
            assert theirs[name] == value, name
