"""The layers against Keras 2 on TensorFlow and Keras 3 on JAX: outputs, losses, all gradients."""

import copy
import functools
import types
from collections.abc import Sequence
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

import flax_sepconv as fsc
from tests import peers, settings
from tests.settings import ALONG_LAST_AXIS, Answer, Setting


def ours(setting: Setting) -> Answer:
    layer = getattr(fsc, setting.class_name)(
        **setting.arguments(fsc), dtype=setting.dtype, param_dtype=setting.dtype
    )

    def apply(weights: dict[str, Any], x: Any) -> tuple[Any, Any]:
        return layer.apply({"params": weights}, x, mutable=["losses"])

    return settings.answer_of_jax(apply, setting)


def sparsemax(x: jax.Array) -> jax.Array:
    """max(x - t, 0), its sum 1, by bisection: Keras up to 3.15 sums to less than 1."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        t = (low + high) / 2
        above = jnp.sum(jnp.maximum(x - t, 0), -1, keepdims=True) > 1
        return jnp.where(above, t, low), jnp.where(above, high, t)

    top = jnp.max(x, -1, keepdims=True)
    low, high = lax.stop_gradient(lax.fori_loop(0, 40, halve, (top - 1, top)))
    kept = jnp.where(x > (low + high) / 2, 1, 0)
    return kept * (x - (jnp.sum(kept * x, -1, keepdims=True) - 1) / kept.sum(-1, keepdims=True))


def keras_3(setting: Setting) -> Answer:
    keras = peers.keras()
    _, x = setting.numbers()
    arguments = setting.arguments(keras)
    if setting.activation == "sparsemax":
        arguments["activation"] = sparsemax
    make = getattr(keras.layers, setting.class_name)
    layer = make(**arguments, **setting.undrawn, dtype=setting.dtype)
    layer.build(x.shape)
    # The kernel of a DepthwiseConv1D is called like that of a Conv1D.
    names = {"kernel": "depthwise_kernel"}

    def apply(weights: dict[str, Any], x: Any) -> tuple[Any, Any]:
        # layer.stateless_call would leave out the activity regularizer.
        variables = layer.trainable_variables
        values = [(each, weights[names.get(each.name, each.name)]) for each in variables]
        with keras.StatelessScope(values, collect_losses=True):
            y = layer(x)
            return y, layer.losses

    return settings.answer_of_jax(apply, setting)


@functools.cache
def tensorflow_convolves_channels_first() -> bool:
    tf, keras = peers.tf(), peers.tf_keras()
    layer = keras.layers.SeparableConv1D(1, 1, data_format="channels_first")
    try:
        layer(np.ones((2, 3, 4), np.float32))
    except tf.errors.UnimplementedError:
        return False
    return True


def keras_2(setting: Setting) -> Answer:
    tf, keras = peers.tf(), peers.tf_keras()
    weights, x = setting.numbers()
    arguments = setting.arguments(keras)
    # TensorFlow on the CPU has no channels_first in float64, and in float32 only through oneDNN,
    # and none of the depthwise stage alone: there its channels_last layer is asked, between two
    # transpositions.
    transposed = setting.data_format == "channels_first" and not (
        setting.has_pointwise
        and setting.dtype == "float32"
        and tensorflow_convolves_channels_first()
    )
    if transposed:
        hypothesis.assume(setting.activation not in ALONG_LAST_AXIS)
        arguments["data_format"] = "channels_last"
    # Keras' DepthwiseConv1D has no "causal": the zeros are put in front by hand.
    zeros = [(0, 0), (0, 0), (0, 0)]
    if setting.padding == "causal" and not setting.has_pointwise:
        arguments["padding"] = "valid"
        zeros[1 if transposed or setting.data_format == "channels_last" else 2] = setting.padded
    layer = getattr(keras.layers, setting.class_name)(**arguments, dtype=setting.dtype)
    shape = np.swapaxes(x, 1, 2).shape if transposed else x.shape
    layer.build(tf.TensorShape([n + sum(z) for n, z in zip(shape, zeros, strict=True)]))
    layer.set_weights(list(weights.values()))
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = layer(tf.pad(tf.transpose(inputs, (0, 2, 1)) if transposed else inputs, zeros))
        y = tf.transpose(y, (0, 2, 1)) if transposed else y
        total = tf.reduce_sum(y * setting.cotangent(y.shape)) + sum(layer.losses)
    gradients = tape.gradient(total, [inputs, *layer.trainable_weights])
    return Answer.of(y, layer.losses, dict(zip(["inputs", *weights], gradients, strict=True)))


def check(setting: Setting) -> None:
    """Ask every Keras that can express the setting."""
    answer = ours(setting)
    asked = 0
    if setting.activation is None or setting.activation in settings.KERAS_2_ACTIVATIONS:
        settings.assert_same_answer(answer, keras_2(setting), setting)
        asked += 1
    # Keras 3 has no causal separable convolution, and computes tanh in float32 for float64.
    if setting.padding != "causal" and setting.dtype == "float32":
        settings.assert_same_answer(answer, keras_3(setting), setting)
        asked += 1
    assert asked


@pytest.mark.parametrize("steps", settings.STEPS)
@pytest.mark.parametrize("data_format", settings.DATA_FORMATS)
@pytest.mark.parametrize("padding", settings.PADDINGS)
@settings.examples(4)
@hypothesis.given(data=st.data())
def test_random_layers(padding: str, data_format: str, steps: str, data: st.DataObject) -> None:
    layers = settings.layers(
        paddings=[padding],
        data_formats=[data_format],
        steps=[settings.STEPS[steps]],
        activations=[None, *settings.KERAS_2_ACTIVATIONS],
        dtypes=["float32", "float64"],
        classes=settings.LAYERS,
    )
    check(data.draw(layers))


@pytest.mark.parametrize(
    ("activation", "data_formats"),
    [
        # One by one the numbers do not know their axis; together they must in both layouts.
        *((a, settings.DATA_FORMATS) for a in settings.ACTIVATIONS if a not in ALONG_LAST_AXIS),
        *((a, [each]) for a in ALONG_LAST_AXIS for each in settings.DATA_FORMATS),
    ],
)
@settings.examples(1)
@hypothesis.given(data=st.data())
def test_every_activation(
    activation: str, data_formats: Sequence[str], data: st.DataObject
) -> None:
    layers = settings.layers(
        paddings=["valid", "same"], data_formats=data_formats, activations=[activation]
    )
    check(data.draw(layers))


def test_activations_are_all_that_keras_names() -> None:
    peers.keras()
    from keras.src.activations import ALL_OBJECTS_DICT  # the public face has no list

    assert set(settings.ACTIVATIONS) == set(ALL_OBJECTS_DICT)


@pytest.mark.parametrize("part", ["output", "losses", "inputs", *settings.WEIGHTS])
@settings.examples(5)
@hypothesis.given(data=st.data())
def test_comparison_notices_one_wrong_number(part: str, data: st.DataObject) -> None:
    setting = data.draw(settings.layers())
    rng = np.random.default_rng(setting.seed)
    gradients = {name: rng.standard_normal((3, 4)) for name in ("inputs", *settings.WEIGHTS)}
    answer = Answer.of(rng.standard_normal((2, 5)).astype(np.float32), [1.0, 0.5], gradients)
    settings.assert_same_answer(answer, answer, setting)
    wrong = copy.deepcopy(answer)
    array = getattr(wrong, part) if part in ("output", "losses") else wrong.gradients[part]
    array.flat[np.abs(array).argmax()] *= 1.003
    with pytest.raises(AssertionError, match=part):
        settings.assert_same_answer(wrong, answer, setting)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@settings.examples(4)
@hypothesis.given(data=st.data())
def test_mixed_precision(dtype: str, data: st.DataObject) -> None:
    """Keras rounds after every operation, this layer at the end: they agree roughly."""
    keras = peers.keras()
    layers = settings.layers(
        paddings=["valid", "same"],
        activations=["tanh", "gelu", None, "softmax"],
        classes=settings.LAYERS,
    )
    setting = data.draw(layers)
    weights, x = setting.numbers()
    arguments = setting.arguments(keras)
    make = getattr(keras.layers, setting.class_name)
    theirs = make(**arguments, **setting.undrawn, dtype=f"mixed_{dtype}")
    theirs.build(x.shape)
    theirs.set_weights(list(weights.values()))
    desired = jax.jit(lambda x: theirs(x))(x)
    layer = getattr(fsc, setting.class_name)(**setting.arguments(fsc), dtype=dtype)
    actual = jax.jit(layer.apply)({"params": weights}, x)
    assert actual.dtype == desired.dtype == jnp.dtype(dtype)
    settings.assert_close(
        actual.astype(np.float32), desired.astype(np.float32), terms=1, dtype=dtype, what="output"
    )


@pytest.mark.parametrize("activation", settings.KERAS_2_ACTIVATIONS)
def test_slope_of_activation_at_zero(activation: str) -> None:
    """Zero padding and a bias of zeros meet the kinks; Keras 3 on JAX differs for some."""
    tf, keras = peers.tf(), peers.tf_keras()
    zeros, cotangent = np.zeros((1, 3), np.float32), np.array([[1, 2, 4]], np.float32)
    inputs = tf.constant(zeros)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = keras.activations.get(activation)(inputs)
    desired = tape.gradient(y, inputs, cotangent)
    ours, pullback = jax.vjp(fsc.activations.get(activation), zeros)
    np.testing.assert_allclose(ours, y, rtol=1e-6)
    np.testing.assert_allclose(pullback(jnp.asarray(cotangent))[0], desired, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("regularizer", ["L1", "L1L2"])
def test_l1_pulls_nothing_at_zero(regularizer: str) -> None:
    """TensorFlow's |w| is flat at zero, where JAX's has the slope 1, in Keras 3 too."""
    tf, keras = peers.tf(), peers.tf_keras()
    kernel, x = np.zeros((4, 3, 2), np.float32), np.ones((2, 9, 3), np.float32)
    kernel[1] = [[0.5, -0.5], [0.25, 1], [0, -1]]
    weights = {
        "depthwise_kernel": kernel,
        "pointwise_kernel": np.zeros((1, 6, 5), np.float32),
        "bias": np.zeros(5, np.float32),
    }

    def arguments(library: types.ModuleType) -> dict[str, Any]:
        names = ("depthwise", "pointwise", "bias", "activity")
        penalty = getattr(library.regularizers, regularizer)(l1=0.25)
        return {f"{name}_regularizer": penalty for name in names}

    theirs = keras.layers.SeparableConv1D(5, 4, depth_multiplier=2, **arguments(keras))
    theirs.build(tf.TensorShape(x.shape))
    theirs.set_weights(list(weights.values()))
    with tf.GradientTape() as tape:
        theirs(x)
        loss = sum(theirs.losses)
    desired = tape.gradient(loss, theirs.trainable_weights)

    layer = fsc.SeparableConv1D(5, 4, depth_multiplier=2, **arguments(fsc))

    def penalties(weights: dict[str, Any]) -> jax.Array:
        _, recorded = layer.apply({"params": weights}, x, mutable=["losses"])
        return fsc.regularization_loss(recorded)

    actual = jax.grad(penalties)(weights)
    for name, gradient in zip(weights, desired, strict=True):
        np.testing.assert_array_equal(actual[name], gradient, err_msg=name)


@pytest.mark.parametrize("data_format", settings.DATA_FORMATS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@settings.examples(3)
@hypothesis.given(data=st.data())
def test_stride_and_dilation_together(padding: str, data_format: str, data: st.DataObject) -> None:
    """The layer refuses them, as Keras 2 does; both operations compute them."""
    layers = settings.layers(
        paddings=[padding], data_formats=[data_format], steps=[((2, 3), (2, 3))]
    )
    setting = data.draw(layers)
    options = {
        "strides": setting.strides,
        "padding": setting.padding,
        "data_format": setting.data_format,
        "dilation_rate": setting.dilation_rate,
    }

    def ours(weights: dict[str, Any], x: Any) -> tuple[Any, Any]:
        return fsc.ops.separable_conv1d(x, **weights, **options), ()

    def theirs(weights: dict[str, Any], x: Any) -> tuple[Any, Any]:
        kernels = weights["depthwise_kernel"], weights["pointwise_kernel"]
        y = peers.keras().ops.separable_conv(x, *kernels, **options)
        bias = weights.get("bias", jnp.zeros(()))
        return y + (bias[:, None] if bias.ndim and data_format == "channels_first" else bias), ()

    settings.assert_same_answer(
        settings.answer_of_jax(ours, setting), settings.answer_of_jax(theirs, setting), setting
    )
