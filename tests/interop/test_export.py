"""Exported models, run where neither Flax nor this package can be imported."""

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import flax_sepconv as fsc
from flax_sepconv.interop.export import export_model
from flax_sepconv.ops import native
from flax_sepconv.ops.lowerings import LOWERINGS, PORTABLE
from flax_sepconv.ops.native import library
from tests import oracle, peers

CHANNELS = 3
PLATFORMS = ("cpu", "cuda", "tpu")
KERNELS = sorted(set(LOWERINGS) - set(PORTABLE))
# Batches and lengths; the lengths leave different remainders to the strides.
SIZES = [(2, 37), (5, 24)]

FIRST = {"filters": 7, "kernel_size": 4, "strides": 2, "padding": "same", "depth_multiplier": 2}
SECOND = {"filters": 5, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"}
THIRD = {"filters": 6, "kernel_size": 2, "strides": 3, "padding": "same", "use_bias": False}
FOURTH = {"filters": 4, "kernel_size": 3, "padding": "valid", "depth_multiplier": 3}
LAYERS = (FIRST, SECOND, THIRD, FOURTH)
# Of t steps the first leaves ceil(t / 2) and the third a third of those; the fourth needs 3.
CONSTRAINT = "t >= 13"
BIAS = nn.initializers.normal(1.0)


class Linen(nn.Module):
    """Four layers, and what belongs to no layer in between."""

    implementation: str | None = None

    @nn.compact
    def __call__(self, x):
        for settings in LAYERS:
            settings = {"implementation": self.implementation, **settings}
            x = jnp.tanh(fsc.SeparableConv1D(bias_initializer=BIAS, **settings)(x))
        return {"steps": x, "mean": x.mean(1)}


class Nnx(nnx.Module):
    """The same."""

    def __init__(self, rngs):
        filters = [CHANNELS, *(settings["filters"] for settings in LAYERS)]
        self.layers = nnx.List(
            fsc.nnx.SeparableConv1D(C, bias_initializer=BIAS, rngs=rngs, **settings)
            for C, settings in zip(filters, LAYERS, strict=False)
        )

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return {"steps": x, "mean": x.mean(1)}


def by_hand(weights, x):
    """Compute the models in NumPy float64."""
    for settings, layer in zip(LAYERS, weights, strict=True):
        window = {
            "S": settings.get("strides", 1),
            "D": settings.get("dilation_rate", 1),
            "padding": settings["padding"],
        }
        kernels = layer["depthwise_kernel"], layer["pointwise_kernel"]
        x = np.tanh(oracle.separable(x, *kernels, layer.get("bias"), **window))
    return {"steps": x, "mean": x.mean(1)}


def linen():
    """Return a model as a function, its variables, and the weights of its layers in turn."""
    model = Linen()
    variables = model.init(jax.random.key(0), jnp.ones((1, 13, CHANNELS)))
    return model.apply, variables, [variables["params"][f"SeparableConv1D_{i}"] for i in range(4)]


def functional():
    model = Nnx(nnx.Rngs(1))
    graph, state = nnx.split(model)
    weights = nnx.to_pure_dict(state)["layers"]
    return lambda state, x: nnx.merge(graph, state)(x), state, [weights[i] for i in range(4)]


MODELS = {"linen": linen, "nnx": functional}


def inputs():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((B, L, CHANNELS)).astype(np.float32) for B, L in SIZES]


def same(actual, expected, tolerance=1e-5):
    assert set(actual) == set(expected)
    for name, array in actual.items():
        assert array.shape == expected[name].shape
        np.testing.assert_allclose(array, expected[name], rtol=tolerance, atol=tolerance)


RELOAD = """
    import sys

    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("flax", "flax_sepconv"):
                raise ImportError(f"{name} is not on this machine")

    sys.meta_path.insert(0, Nowhere())
    import jax, json, numpy as np

    for name in json.loads(sys.argv[1]):
        model = jax.export.deserialize(open(f"{name}.bin", "rb").read())
        arrays = dict(np.load(f"{name}_inputs.npz"))
        outputs = [jax.jit(model.call)(arrays[key]) for key in arrays]
        flat = {f"{key}_{i}": out[key] for i, out in enumerate(outputs) for key in out}
        np.savez(f"{name}_outputs.npz", **flat)
    assert not {"flax", "flax_sepconv"} & set(sys.modules)
    try:
        import flax
    except ImportError:
        print("done, without flax")
"""


def test_reloaded_in_a_process_without_flax(tmp_path):
    """Linen and nnx, symbolic batch and length, one artifact for three platforms."""
    expected = {}
    for name, make in MODELS.items():
        apply, variables, weights = make()
        exported = export_model(
            apply, variables, f"b, t, {CHANNELS}", constraints=[CONSTRAINT], platforms=PLATFORMS
        )
        assert exported.platforms == PLATFORMS
        (tmp_path / f"{name}.bin").write_bytes(exported.serialize())
        np.savez(tmp_path / f"{name}_inputs.npz", *inputs())
        expected[name] = [(apply(variables, x), by_hand(weights, x)) for x in inputs()]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(RELOAD), json.dumps(list(MODELS))],
        cwd=tmp_path,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "done, without flax" in said.stdout
    for name in MODELS:
        with np.load(tmp_path / f"{name}_outputs.npz") as file:
            outputs = dict(file)
        for i, (own, definition) in enumerate(expected[name]):
            found = {key: outputs[f"{key}_{i}"] for key in own}
            same(found, own)
            same(found, definition)


def custom_calls(exported):
    return set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("platform", [*PLATFORMS, "rocm"])
def test_asks_for_nothing_that_another_process_lacks(name, platform):
    """Assertions about shapes are JAX's own: it takes them out before XLA sees the program."""
    apply, variables, _ = MODELS[name]()
    exported = export_model(
        apply, variables, f"b, t, {CHANNELS}", constraints=[CONSTRAINT], platforms=[platform]
    )
    assert custom_calls(exported) == {"shape_assertion"}
    whole = export_model(apply, variables, f"2, 37, {CHANNELS}", platforms=[platform])
    assert custom_calls(whole) == set()


def test_size_is_that_of_the_weights():
    """However many platforms there are."""
    layer = fsc.SeparableConv1D(512, 3)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 13, 256)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    blob = export_model(layer.apply, variables, "b, 13, 256").serialize()
    assert size < len(blob) < size + 20_000


@pytest.mark.parametrize(
    ("implementation", "platforms"),
    [
        *((name, PLATFORMS) for name in KERNELS),
        # Also where it runs, and nowhere else.
        ("native", ("cpu",)),
        ("triton", ("cuda",)),
        ("mosaic", ("tpu",)),
    ],
)
def test_what_is_named_and_cannot_be_exported_is_replaced_aloud(implementation, platforms):
    _, variables, weights = linen()
    apply = Linen(implementation).apply
    with pytest.warns(UserWarning, match=f"'{implementation}' cannot be exported") as told:
        exported = export_model(
            apply, variables, f"b, t, {CHANNELS}", constraints=[CONSTRAINT], platforms=platforms
        )
    (message,) = (str(warning.message) for warning in told)
    assert told[0].filename == __file__
    assert {"cpu", "cuda", "tpu"} & set(re.findall(r" on (\w+)", message)) == set(platforms)
    assert set(re.findall(r"(\w+) on ", message)) <= set(PORTABLE)
    assert custom_calls(exported) == {"shape_assertion"}
    if "cpu" in platforms:
        for x in inputs():
            same(exported.call(x), by_hand(weights, x))


@pytest.mark.parametrize("implementation", PORTABLE)
def test_what_is_named_and_can_be_exported_stays(implementation):
    """No warning (which would be an error here), and the program has what was named."""
    layer = fsc.SeparableConv1D(5, 4, padding="same", implementation=implementation)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 9, 3)))
    text = export_model(layer.apply, variables, "b, t, 3").mlir_module()
    assert ("stablehlo.convolution" in text) == (implementation == "grouped_conv")


@pytest.mark.parametrize("named", [None, "shifted_sum", "native", "grouped_conv"])
def test_one_lowering_for_all_layers(named):
    """Chosen for the export, it holds whatever the layers name, and there is nothing to tell."""
    _, variables, weights = linen()
    counts = {}
    settings = {"platforms": ["cpu"], "constraints": [CONSTRAINT]}
    apply = jax.jit(Linen(named).apply)  # JAX keeps what it traced for one export.
    for implementation in PORTABLE:
        exported = export_model(
            apply,
            variables,
            f"b, t, {CHANNELS}",
            implementation=implementation,
            **settings,
        )
        counts[implementation] = exported.mlir_module().count("stablehlo.convolution")
        same(exported.call(inputs()[0]), by_hand(weights, inputs()[0]))
    assert counts == {"grouped_conv": len(LAYERS), "shifted_sum": 0, "fft": 0}


@pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
def test_names_hold_everywhere_else():
    """What was exported leaves nothing behind, and is not misled by what was traced before."""
    layer = fsc.SeparableConv1D(5, 4, implementation="native")
    x = jnp.ones((2, 9, 3))
    variables = layer.init(jax.random.key(0), x)
    apply = jax.jit(layer.apply)
    before = apply(variables, x)
    known = [
        jax.export.DisabledSafetyCheck.custom_call(f"flax_sepconv_{name}")
        for name in library.TARGETS
    ]

    def plain():
        return jax.export.export(apply, platforms=["cpu"], disabled_checks=known)(variables, x)

    assert "@flax_sepconv_output" in plain().mlir_module()
    with pytest.warns(UserWarning, match="shifted_sum on cpu"):
        exported = export_model(apply, variables, "2, 9, 3", platforms=["cpu"])
    assert custom_calls(exported) == set()
    np.testing.assert_allclose(exported.call(x), before, rtol=1e-5, atol=1e-6)
    assert "@flax_sepconv_output" in plain().mlir_module()
    assert "flax_sepconv_" in jax.jit(layer.apply).lower(variables, x).as_text()
    with pytest.raises(NotImplementedError, match="lowered for cuda"):
        jax.export.export(apply, platforms=["cuda"])(variables, x)


def test_gradients_with_respect_to_the_inputs():
    apply, variables, _ = linen()
    exported = export_model(
        apply, variables, f"b, t, {CHANNELS}", constraints=[CONSTRAINT], platforms=["cpu"]
    )
    reloaded = jax.export.deserialize(exported.serialize(vjp_order=1))
    x = inputs()[0]
    actual = jax.jit(jax.grad(lambda x: reloaded.call(x)["steps"].sum()))(x)
    expected = jax.jit(jax.grad(lambda x: apply(variables, x)["steps"].sum()))(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_several_inputs_share_their_names():
    layer = fsc.SeparableConv1D(5, 4, padding="causal")
    x = np.random.default_rng(0).standard_normal((2, 9, 3)).astype(np.float16)
    mask = np.arange(9) < np.array([[9], [4]])
    variables = layer.init(jax.random.key(0), x)

    def masked(variables, x, mask):
        return jnp.where(mask[..., None], layer.apply(variables, x), 0)

    exported = export_model(masked, variables, ("b, t, 3", "float16"), ("b, t", bool))
    assert [str(aval.dtype) for aval in exported.in_avals] == ["float16", "bool"]
    actual = exported.call(x, mask)
    np.testing.assert_allclose(actual, masked(variables, x, mask), rtol=1e-5, atol=1e-5)
    assert not actual[1, 4:].any()
    with pytest.raises(ValueError, match="'t' = 9"):
        exported.call(x, mask[:, :8])


def test_channels_first_and_extra_batch_dimensions():
    layer = fsc.SeparableConv1D(
        5, 4, strides=2, padding="same", data_format="channels_first", bias_initializer=BIAS
    )
    x = np.random.default_rng(0).standard_normal((2, 7, 3, 11)).astype(np.float32)
    variables = layer.init(jax.random.key(0), x)
    exported = export_model(layer.apply, variables, "a, b, 3, t")
    weights = variables["params"]
    kernels = (weights[name] for name in ("depthwise_kernel", "pointwise_kernel", "bias"))
    rows = x.reshape(14, 3, 11).swapaxes(1, 2)
    expected = oracle.separable(rows, *kernels, S=2, padding="same").swapaxes(1, 2)
    actual = exported.call(x)
    np.testing.assert_allclose(actual, expected.reshape(2, 7, 5, 6), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", [None, "grouped_conv"])
def test_the_depthwise_layer(implementation):
    layer = fsc.DepthwiseConv1D(
        4,
        strides=2,
        padding="same",
        depth_multiplier=2,
        bias_initializer=BIAS,
        implementation=implementation,
    )
    x = np.random.default_rng(0).standard_normal((2, 11, 3)).astype(np.float32)
    variables = layer.init(jax.random.key(0), x)
    exported = export_model(layer.apply, variables, "b, t, 3")
    assert "@flax_sepconv_" not in exported.mlir_module()
    weights = variables["params"]
    expected = oracle.depthwise(x, weights["depthwise_kernel"], S=2, padding="same")
    np.testing.assert_allclose(exported.call(x), expected + weights["bias"], rtol=1e-5, atol=1e-5)


def test_weights_on_several_devices():
    """The artifact is for one device all the same."""
    apply, variables, weights = linen()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    exported = export_model(apply, everywhere, f"b, 37, {CHANNELS}", platforms=["cpu"])
    assert exported.nr_devices == 1
    x = inputs()[0]
    same(exported.call(x), by_hand(weights, x))


@pytest.mark.parametrize(
    ("shapes", "settings", "message"),
    [
        ([3], {}, r"an input must be a shape.*got 3"),
        (["b, ?, 3"], {}, r"input 'b, \?, 3': syntax error"),
        ([("b, t, 3", "flot")], {}, r"input \('b, t, 3', 'flot'\).*flot"),
        ([("b, t, 3", "int32")], {}, "inputs must be of dtype float32"),
        (["b, t, c"], {}, "number of channels of inputs must be known"),
        (["b, 12, 3"], {"constraints": ["b >"]}, r"constraints \['b >'\]: .*parsing error"),
        (["b, t, 3"], {}, "L=t must be at least 4 .*such as 't >= 4'"),
        (["b, t, 3"], {"constraints": ["t >= 3"]}, "such as 't >= 4'"),
        (["b, 3, 3"], {}, "the output would have no steps"),
        (["b, 12, 3"], {"platforms": ["gpu"]}, r"platforms must be some of.*got \['gpu'\]"),
        (["b, 12, 3"], {"implementation": "native"}, "implementation must be None or of.*'native'"),
        (["b, 12, 3"], {"platforms": []}, r"platforms must be some of.*got \[\]"),
    ],
)
def test_errors(shapes, settings, message):
    layer = fsc.SeparableConv1D(5, 4)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 9, 3)))
    with pytest.raises((TypeError, ValueError), match=message):
        export_model(layer.apply, variables, *shapes, **settings)


def test_too_short_an_input_is_refused():
    layer = fsc.SeparableConv1D(5, 4)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 9, 3)))
    exported = export_model(layer.apply, variables, "b, t, 3", constraints=["t >= 4"])
    assert exported.call(jnp.ones((1, 4, 3))).shape == (1, 1, 5)
    with pytest.raises(ValueError, match="constraint t >= 4"):
        exported.call(jnp.ones((1, 3, 3)))


@pytest.fixture(scope="module")
def page():
    """What the blocks of the page leave behind; those with TensorFlow, and without ONNX."""
    text = pathlib.Path(__file__).parents[2].joinpath("docs", "guides", "export.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"__name__": "docs.export"}
    for block in blocks:
        if "tensorflow" not in block and "jax2onnx" not in block:
            exec(block, names)
    return names, [block for block in blocks if "tensorflow" in block]


def test_page(page):
    names, _ = page
    assert names["reloaded"].platforms == PLATFORMS


def operations_of(interpreter):
    """Return the names of the operations of a model, and of what types each works."""
    types = {each["index"]: each["dtype"] for each in interpreter.get_tensor_details()}
    told = interpreter._get_ops_details()
    names = [operation["op_name"] for operation in told]
    return names, [(op["op_name"], *(types[i] for i in op["inputs"][:2])) for op in told]


def test_page_litert(page):
    """Depthwise stays depthwise, and the numbers stay."""
    tf = peers.tf()
    names, (block, *_) = page
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(block, names)
        # The interpreter's successor is a package of its own.
        interpreter = tf.lite.Interpreter(model_content=names["lite"])
    operations, _ = operations_of(interpreter)
    assert operations.count("DEPTHWISE_CONV_2D") == operations.count("FULLY_CONNECTED") == 2
    assert not {"MUL", "CONV_2D"} & set(operations)
    (x,), (y,) = interpreter.get_input_details(), interpreter.get_output_details()
    for B in (1, 3):
        inputs = np.random.default_rng(B).standard_normal((B, 40, 12)).astype(np.float32)
        interpreter.resize_tensor_input(x["index"], inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(x["index"], inputs)
        interpreter.invoke()
        actual = interpreter.get_tensor(y["index"])
        expected = names["network"].apply(names["variables"], inputs)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_page_litert_integers(page, capfd):
    """Both stages stay in int8; a network with scales of its own keeps them."""
    tf = peers.tf()
    names, (real, converted, own) = page
    kind = tf.lite.experimental.OpResolverType.BUILTIN_REF
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in (real, converted, own):
            exec(block, names)
        first, second = (
            tf.lite.Interpreter(model_content=names[name], experimental_op_resolver_type=kind)
            for name in ("integers", "own_scales")
        )
    for interpreter, pointwise in ((first, "FULLY_CONNECTED"), (second, "CONV_2D")):
        _, typed = operations_of(interpreter)
        for stage in ("DEPTHWISE_CONV_2D", pointwise):
            assert typed.count((stage, np.int8, np.int8)) == 2
        assert not [op for op in typed if op[1] in (np.float32, np.float64)]
    layers, details = names["layers"], second.get_tensor_details()
    found = {tuple(each["quantization_parameters"]["scales"]) for each in details}
    for layer in layers:
        for scale in ("x_scale", "hidden_scale", "depthwise_scale", "pointwise_scale"):
            wanted = np.atleast_1d(layer.scales[scale]).ravel()
            assert any(len(f) == len(wanted) and np.allclose(f, wanted, 1e-6) for f in found), scale
    second.allocate_tensors()
    (x,), (y,) = second.get_input_details(), second.get_output_details()
    (x_scale, x_zero), (y_scale, y_zero) = x["quantization"], y["quantization"]
    rows = names["x"][:, :40]
    expected = np.asarray(names["small"].apply(names["whole"], rows))
    for row, wanted in zip(rows, expected, strict=True):
        given = np.clip(np.rint(row / x_scale) + x_zero, -128, 127).astype(np.int8)
        second.set_tensor(x["index"], given[None])
        second.invoke()
        real = (second.get_tensor(y["index"])[0].astype(np.float32) - y_zero) * y_scale
        # Steps between the layers may be one apart, and so a few of the output's.
        assert np.abs(real - wanted).max() < 3 * y_scale
    capfd.readouterr()  # the converter talks
