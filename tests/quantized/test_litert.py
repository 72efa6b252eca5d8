"""The operation on integers against TensorFlow Lite's own, on weights that its converter made."""

import numpy as np
import pytest

from flax_sepconv import ops
from tests import peers

pytestmark = pytest.mark.filterwarnings("ignore")

L, C, F, K = 33, 5, 7, 4
CASES = {
    "valid": {},
    "same, relu": {"padding": "same", "activation": "relu", "depth_multiplier": 2},
    "strides, relu6": {"padding": "same", "strides": 2, "activation": "relu6"},
}


def converted(tf, keras, case, rng):
    """Return the model that TensorFlow Lite makes of Keras' layer, all in int8."""
    layer = keras.layers.SeparableConv1D(F, K, **CASES[case])
    layer.build((None, L, C))
    layer.set_weights([rng.normal(scale=0.4, size=w.shape) for w in layer.get_weights()])
    inputs = keras.Input((L, C))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, layer(inputs)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [rng.normal(size=(1, L, C)).astype(np.float32)] for _ in range(10)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def stages(interpreter):
    """Return the tensors of both stages, as they were written: x, kernel, bias, result."""
    found = {}
    for op in interpreter._get_ops_details():
        if op["op_name"] in ("DEPTHWISE_CONV_2D", "CONV_2D"):
            found[op["op_name"]] = [*op["inputs"], *op["outputs"]]
    return found["DEPTHWISE_CONV_2D"], found["CONV_2D"]


@pytest.mark.parametrize("case", CASES)
def test_results_are_within_a_step_of_tensorflow_lite(case, capfd):
    tf, keras = peers.tf(), peers.tf_keras()  # Of Keras on JAX the bias is not in the convolution.
    rng = np.random.default_rng(0)
    model = converted(tf, keras, case, rng)
    capfd.readouterr()  # the converter talks
    # Its plain loops, and tensors between the stages that can be looked at.
    kind = tf.lite.experimental.OpResolverType.BUILTIN_REF
    interpreter = tf.lite.Interpreter(
        model_content=model,
        experimental_op_resolver_type=kind,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    details = {each["index"]: each for each in interpreter.get_tensor_details()}
    (x, kernel, zeros, hidden), (_, weights, bias, result) = stages(interpreter)

    def quantization(index):
        told = details[index]["quantization_parameters"]
        return told["scales"], told["zero_points"]

    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    given = rng.integers(-128, 128, (1, L, C), np.int8)
    interpreter.set_tensor(source["index"], given)
    interpreter.invoke()
    expected = interpreter.get_tensor(target["index"])
    assert not interpreter.get_tensor(zeros).any()

    settings = CASES[case]
    M = settings.get("depth_multiplier", 1)
    scales = {name: quantization(at) for name, at in
              [("x", x), ("k", kernel), ("h", hidden), ("w", weights), ("y", result)]}  # fmt: skip
    assert not scales["k"][1].any()
    assert not scales["w"][1].any()
    first = {
        "x_scale": scales["x"][0][0],
        "x_zero_point": int(scales["x"][1][0]),
        "depthwise_scale": scales["k"][0].reshape(C, M),
    }
    geometry = {"strides": settings.get("strides", 1), "padding": settings.get("padding", "valid")}
    taps = interpreter.get_tensor(kernel).reshape(K, C, M)
    h = ops.quantized_depthwise_conv1d(
        given,
        taps,
        output_scale=scales["h"][0][0],
        output_zero_point=int(scales["h"][1][0]),
        **first,
        **geometry,
    )
    theirs = interpreter.get_tensor(hidden).reshape(h.shape)
    assert abs(np.int32(h) - theirs).max() <= 1
    y = ops.quantized_separable_conv1d(
        given,
        taps,
        interpreter.get_tensor(weights).reshape(F, C * M).T[None],
        interpreter.get_tensor(bias),
        hidden_scale=scales["h"][0][0],
        hidden_zero_point=int(scales["h"][1][0]),
        pointwise_scale=scales["w"][0],
        output_scale=scales["y"][0][0],
        output_zero_point=int(scales["y"][1][0]),
        activation=settings.get("activation"),
        **first,
        **geometry,
    )
    assert y.shape == expected.shape
    differences = abs(np.int32(y) - expected)
    assert differences.max() <= 1
    assert (differences == 0).mean() > 0.95
    assert np.unique(expected).size > 40
