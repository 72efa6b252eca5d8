"""Models of ONNX are made and run: `test_tools.py` starts these tests in a process of their own."""

import warnings

import jax
import jax2onnx
import numpy as np
import onnxruntime
import pytest

import flax_sepconv as fsc
from tests.interop.test_tools import X, blocks, layer, one_device

__all__ = ["one_device"]


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        (("B", 21, 6), {"strides": 3, "padding": "valid", "depth_multiplier": 2}),
        (("B", 21, 6), {"strides": 2, "padding": "same", "activation": "relu"}),
        (("B", "T", 6), {"dilation_rate": 2, "padding": "causal", "use_bias": False}),
        (("B", 6, "T"), {"padding": "same", "data_format": "channels_first"}),
        (("B", 21, 6), {"padding": "same", "module": "nnx"}),
    ],
)
def test_onnx(shape, settings):
    made = layer(**settings)
    x = X.swapaxes(1, 2) if shape[1] == 6 else X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = jax2onnx.to_onnx(made, [shape])
    (convolution,) = (node for node in model.graph.node if node.op_type == "Conv")
    assert [a.i for a in convolution.attribute if a.name == "group"] == [6]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(y, made(x), rtol=1e-5, atol=1e-6)


def test_page_onnx():
    (block,) = (block for block in blocks("export.md") if "jax2onnx" in block)
    names = {"fsc": fsc, "jax": jax, "x": np.ones((3, 41, 12), np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(block, names)
    assert "Conv" in {node.op_type for node in names["onnx"].graph.node}
