"""State dicts and modules of PyTorch: our output beside its own, on the same input."""

import collections
import contextlib
import pathlib
import sys
import zipfile

import hypothesis
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save_file

import flax_sepconv as fsc
from flax_sepconv import interop
from flax_sepconv.interop import (
    InteropError,
    InteropWarning,
    Layer,
    inspecting,
    pytorch,
    pytorch_modules,
    state_dict,
)
from tests import oracle, peers

B, L, C, K, M, F = 2, 13, 4, 3, 3, 5
RELATIVE = 1e-5


def modules(*, linear=False, bias=True, depthwise_bias=True, K=K, M=M, seed=0, **depthwise):
    """Make the two modules with random weights, biases included."""
    torch = peers.torch()
    torch.manual_seed(seed)
    first = torch.nn.Conv1d(C, C * M, K, groups=C, bias=depthwise_bias, **depthwise)
    if linear:
        return first, torch.nn.Linear(C * M, F, bias=bias)
    return first, torch.nn.Conv1d(C * M, F, 1, bias=bias)


def named(**children):
    """Make a module of named modules."""
    parent = peers.torch().nn.Module()
    for name, child in children.items():
        parent.add_module(name, child)
    return parent


def theirs(first, second, x):
    """Run PyTorch, one module or both: (B, L, C) -> (B, steps, F)."""
    torch = peers.torch()
    with torch.no_grad():
        h = first(torch.tensor(x).transpose(1, 2))
        if second is None:
            return h.transpose(1, 2).numpy()
        if isinstance(second, torch.nn.Linear):
            return second(h.transpose(1, 2)).numpy()
        return second(h).transpose(1, 2).numpy()


def inputs(length=L):
    return np.random.default_rng(1).standard_normal((B, length, C)).astype("float32")


def ours(layer, x, **arguments):
    module = getattr(fsc, layer.class_name)(**(layer.arguments() | arguments))
    return np.asarray(module.apply({"params": dict(layer.weights)}, x))


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max()


def written(folder, state, container="pt"):
    """Write a state dict by PyTorch's own means."""
    path = pathlib.Path(folder) / f"state.{container}"
    if container == "pt":
        peers.torch().save(state, path)
    else:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


# State dicts in


@pytest.mark.parametrize("container", ["pt", "safetensors"])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("bias", "depthwise_bias"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_output_of_a_state_dict(tmp_path, container, linear, bias, depthwise_bias):
    first, second = modules(
        linear=linear, bias=bool(bias), depthwise_bias=bool(depthwise_bias), padding=1
    )
    model = named(block=named(sep=named(one=first, two=second), other=modules()[1]))
    path = written(tmp_path, model.state_dict(), container)
    with pytest.warns(InteropWarning, match=r"not converted.*: block\.other \(.*weight \(5, 12"):
        (layer,) = pytorch.read(path, {"a/b": ("block.sep.one", "block.sep.two", M)})
    assert layer.path == "a/b"
    assert layer.sizes == {"K": K, "C": C, "M": M, "F": F}
    assert layer.config is None
    assert ("bias" in layer.weights) == bool(bias or depthwise_bias)
    assert_close(ours(layer, inputs(), padding="same"), theirs(first, second, inputs()))


@pytest.mark.parametrize("names", pytorch.ENDINGS, ids="/".join)
def test_modules_are_found_by_their_endings(tmp_path, names):
    made = modules(M=1)
    pair = named(**dict(zip(names, made, strict=True)))
    lone = modules(M=1, seed=1)[0]
    model = named(encoder=named(**{"0": pair}), head=named(**{names[0]: lone, names[1]: None}))
    model.tail = named(**{names[1]: modules(M=1)[1]})
    with pytest.warns(InteropWarning, match=rf"not converted.*: module\.tail\.{names[1]} "):
        layers = pytorch.read(written(tmp_path, named(module=model).state_dict()))
    assert [layer.path for layer in layers] == ["module/encoder/0", "module/head"]
    assert_close(ours(layers[0], inputs()), theirs(*made, inputs()))
    assert_close(ours(layers[1], inputs()), theirs(lone, None, inputs()))


@pytest.mark.parametrize("container", ["pt", "safetensors"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_depthwise_module_alone(tmp_path, container, bias):
    torch = peers.torch()
    first, second = modules(depthwise_bias=bias)
    path = written(tmp_path, named(a=first, b=torch.nn.BatchNorm1d(C * M), c=second).state_dict())
    with pytest.warns(InteropWarning, match="not converted"):
        (layer,) = pytorch.read(path, {"block/conv": ("a", M)})
    assert_close(ours(layer, inputs()), theirs(first, None, inputs()))
    # And back into such a module.
    back = tmp_path / f"back.{container}"
    pytorch.write(back, [layer])
    tensors = state_dict.tensors_of(back)
    again = modules(depthwise_bias=bias, seed=2)[0]
    again.load_state_dict({k.removeprefix("block.conv.depthwise."): t for k, t in tensors.items()})
    assert_close(theirs(again, None, inputs()), theirs(first, None, inputs()))
    (read,) = pytorch.read(back)
    assert read.path == "block/conv"
    assert read.weights.keys() == layer.weights.keys()
    for name, weight in layer.weights.items():
        np.testing.assert_array_equal(read.weights[name], weight)


def test_modules_that_share_a_name_with_a_depthwise_one(tmp_path):
    """What is named so and has more than one channel a group is not taken."""
    wide = peers.torch().nn.Conv1d(C, C, K)
    assert_refused(written(tmp_path, named(dw=wide).state_dict()), "name them by pairs")


def test_modules_without_a_parent(tmp_path):
    made = modules(M=1)
    model = named(depthwise=made[0], pointwise=made[1])
    (layer,) = pytorch.read(written(tmp_path, model.state_dict()))
    assert layer.path == ""
    assert_close(ours(layer, inputs()), theirs(*made, inputs()))


@pytest.mark.parametrize("key", [None, *state_dict.NESTED])
def test_checkpoints_are_looked_into(tmp_path, key):
    made = modules(M=1)
    model = named(a=named(dw=made[0], pw=made[1]))
    state = model.state_dict()
    if key is not None:
        optimizer = peers.torch().optim.Adam(model.parameters()).state_dict()
        state = {"epoch": 3, "optimizer": optimizer, key: state}
    (layer,) = pytorch.read(written(tmp_path, state))
    assert_close(ours(layer, inputs()), theirs(*made, inputs()))


def test_a_module_may_serve_several_layers(tmp_path):
    first, second = modules()
    third = modules(seed=1)[1]
    model = named(a=first, b=second, c=third)
    pairs = {"one": ("a", "b", M), "two": ("a", "c", M)}
    one, two = pytorch.read(written(tmp_path, model.state_dict()), pairs)
    assert_close(ours(one, inputs()), theirs(first, second, inputs()))
    assert_close(ours(two, inputs()), theirs(first, third, inputs()))


def test_strided_and_shared_tensors(tmp_path):
    """What is saved is a part of a larger storage, transposed, and a parameter."""
    torch = peers.torch()
    first, second = modules(M=1, bias=False, depthwise_bias=False)
    wide = torch.randn(2 * K, 2, C)
    turned = torch.nn.Parameter(torch.randn(C, F, 1).transpose(0, 1))
    state = {"a.dw.weight": wide[::2, 1:].permute(2, 1, 0), "a.pw.weight": turned, "all": wide}
    assert not state["a.dw.weight"].is_contiguous()
    first.weight.data, second.weight.data = state["a.dw.weight"], turned.data
    with pytest.warns(InteropWarning, match="not converted.*: all"):
        (layer,) = pytorch.read(written(tmp_path, state))
    assert all(weight.flags.c_contiguous for weight in layer.weights.values())
    assert_close(ours(layer, inputs()), theirs(first, second, inputs()))


def test_weights_outlive_their_file(tmp_path):
    first, second = modules(M=1, K=1, bias=False, depthwise_bias=False)
    path = written(tmp_path, named(dw=first, pw=second).state_dict())
    (layer,) = pytorch.read(path)
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    for weight in layer.weights.values():
        weight += 1
    taps = first.weight.detach().numpy().reshape(1, C, 1)
    np.testing.assert_array_equal(layer.weights["depthwise_kernel"], taps + 1)


@pytest.mark.parametrize("container", ["pt", "safetensors"])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_dtypes_are_kept(tmp_path, container, name):
    first, second = modules()
    dtype = getattr(peers.torch(), name)
    state = named(a=named(dw=first, pw=second)).to(dtype).state_dict()
    path = written(tmp_path, state, container)
    (layer,) = pytorch.read(path, {"a": ("a.dw", "a.pw", M)})
    expected = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    assert all(weight.dtype == expected for weight in layer.weights.values())
    taps = state["a.dw.weight"].double().numpy().reshape(C, M, K).transpose(2, 0, 1)
    np.testing.assert_array_equal(layer.weights["depthwise_kernel"].astype("float64"), taps)
    weight, b1, b2 = (
        state[f"a.{key}"].double().numpy() for key in ("pw.weight", "dw.bias", "pw.bias")
    )
    folded = b2 + weight[:, :, 0] @ b1
    step = np.spacing(np.abs(folded).astype(expected)).astype("float64")
    # Half a step, and in float64 the order of the sum.
    bound = (4 if name == "float64" else 0.5001) * step
    assert (np.abs(layer.weights["bias"].astype("float64") - folded) <= bound).all()


# State dicts that are none of ours


def assert_refused(path, message, pairs=None):
    with pytest.raises(InteropError, match=message):
        pytorch.read(path, pairs)


def test_nothing_is_guessed(tmp_path):
    first, second = modules(M=1)
    path = written(tmp_path, named(a=first, b=second).state_dict())
    assert_refused(path, r"name them by pairs=.* It has a\.weight \(4, 1, 3\), a\.bias \(4,\)")
    many = {f"n{i}.weight": peers.torch().ones(1) for i in range(50)}
    assert_refused(written(tmp_path, many), r"n19\.weight \(1,\) and 30 more")


def test_pairs_that_do_not_fit(tmp_path):
    first, second = modules()
    path = written(tmp_path, named(a=first, b=second).state_dict())
    for pair in ("ab", (), (3,), ("a", 0.5), ("a", "b", 0.5), ("a", "b", True), 3):
        assert_refused(path, r"pairs\['x'\] must be the names", {"x": pair})
    assert_refused(path, "M must be a positive int, got 0", {"x": ("a", "b", 0)})
    assert_refused(path, "M must be a positive int, got 0", {"x": ("a", 0)})
    assert_refused(path, r"depthwise weight must be .*\(5, 12, 1\)", {"x": ("b",)})
    assert_refused(path, "module 'c' must have a weight.*has nothing of it", {"x": ("a", "c")})
    assert_refused(path, r"depthwise weight must be \(C\*M, 1, K\) with M=5", {"x": ("a", "b", 5)})
    assert_refused(path, r"depthwise weight must be .* got shape \(5, 12, 1\)", {"x": ("b", "a")})
    assert_refused(path, r"pointwise weight must be .* got shape \(12, 1, 3\)", {"x": ("a", "a")})


def test_modules_that_hold_more(tmp_path):
    torch = peers.torch()
    first, second = modules(M=1)
    normed = torch.nn.utils.parametrizations.weight_norm(first)
    path = written(tmp_path, named(dw=normed, pw=second).state_dict())
    assert_refused(
        path, r"layer '': module 'dw' .* weight norm .* parametrizations.weight.original0"
    )
    stacked = torch.nn.Sequential(modules(M=1)[0], torch.nn.BatchNorm1d(C))
    path = written(tmp_path, named(dw=stacked, pw=second).state_dict())
    assert_refused(path, r"module 'dw' must have a weight.* has 0\.weight, 0\.bias, 1\.weight")


def test_weights_that_do_not_fit(tmp_path):
    torch = peers.torch()
    state = dict(named(dw=modules(M=1)[0], pw=modules(M=1)[1]).state_dict())
    for name, tensor, message in (
        ("dw.weight", torch.ones(C, 1, K, 1), r"depthwise weight must be"),
        ("pw.weight", torch.ones(F, C, 2), r"pointwise weight must be"),
        ("pw.weight", torch.ones(F, C + 1, 1), r"axis 1 \(C\*M\) of pointwise_kernel must be 4"),
        ("pw.bias", torch.ones(F + 1), r"axis 0 \(F\) of bias must be 5"),
        ("dw.bias", torch.ones(C + 1), r"depthwise bias must be \(4,\) of float32"),
        ("dw.bias", torch.ones(C).double(), r"depthwise bias must be .* of float64"),
        ("pw.bias", torch.ones(F).half(), r"must have one dtype"),
        ("dw.weight", torch.ones(C, 1, K, dtype=torch.int32), r"dtype of dw\.weight must be one"),
        ("dw.weight", torch.ones(C, 1, K).to_sparse(), r"dw\.weight must be a dense tensor"),
        ("dw.weight", torch.ones(1).expand(10_000, 1, K), r"claims more bytes than its file"),
        ("dw.bias", torch.full((C,), float("inf")), r"not finite in float32"),
    ):
        assert_refused(written(tmp_path, state | {name: tensor}), message)


def test_files_that_are_no_state_dict(tmp_path):
    torch = peers.torch()
    path = tmp_path / "state.pt"
    for content, message in (
        (modules()[0], r"of a whole module, write module\.state_dict\(\)"),
        (torch.ones(3), "has no state dict.*it has Tensor"),
        ({"epoch": 3}, r"has no state dict.*\['epoch'\]"),
        ({"model": {}, "state_dict": {}}, "more than one state dict: state_dict, model"),
    ):
        torch.save(content, path)
        assert_refused(path, message)
    torch.save({"a.weight": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert_refused(path, r"before 1\.6.* write it anew by torch\.save")
    path.write_bytes(b"nothing of this kind")
    assert_refused(path, "neither a file of torch.save nor safetensors")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Opens:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    path = tmp_path / "state.pt"
    peers.torch().save({"a.weight": Opens()}, path)
    assert_refused(path, "holds more than tensors")
    assert not (tmp_path / "opened").exists()


def test_compressed_and_oversized_archives(tmp_path):
    path = written(tmp_path, {"a.weight": peers.torch().zeros(1000)})
    other = tmp_path / "compressed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert_refused(other, "in it is compressed, or larger than the file")


def test_methods_hidden_by_what_was_unpickled(tmp_path):
    first, second = modules(M=1)
    state = collections.OrderedDict(named(dw=first, pw=second).state_dict())
    state.keys = state.get = state._metadata = peers.torch().ones(1)
    (layer,) = pytorch.read(written(tmp_path, state))
    assert_close(ours(layer, inputs()), theirs(first, second, inputs()))


# State dicts out


@pytest.mark.parametrize("container", ["pt", "safetensors"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("path", ["", "block/0"])
def test_pytorch_runs_what_is_written(tmp_path, container, bias, path):
    torch = peers.torch()
    module = fsc.SeparableConv1D(F, K, depth_multiplier=M, use_bias=bias)
    shapes = {"depthwise_kernel": (K, C, M), "pointwise_kernel": (1, C * M, F), "bias": (F,)}
    rng = np.random.default_rng(2)
    weights = {
        name: jnp.asarray(rng.standard_normal(shape), "float32")
        for name, shape in shapes.items()
        if bias or name != "bias"
    }
    layer = Layer(path, {name: np.asarray(weight) for name, weight in weights.items()})
    file = tmp_path / f"out.{container}"
    pytorch.write(file, [layer])
    if container == "pt":
        state = torch.load(file, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(file)
    first, second = modules(bias=bias, depthwise_bias=False)
    model = named(depthwise=first, pointwise=second)
    for name in reversed(path.split("/") if path else []):
        model = named(**{name: model})
    model.load_state_dict(state)
    x = inputs()
    assert_close(np.asarray(module.apply({"params": weights}, x)), theirs(first, second, x))
    (again,) = pytorch.read(file)  # M is found, which no shape says.
    assert again.path == path
    for name, weight in layer.weights.items():
        np.testing.assert_array_equal(again.weights[name], weight)
    depthwise, _, pointwise = pytorch.modules_of(file, path)
    assert torch.equal(depthwise["weight"], first.weight)
    assert pointwise.keys() == ({"weight", "bias"} if bias else {"weight"})


@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_bfloat16_out(tmp_path, container):
    torch = peers.torch()
    weights = {"depthwise_kernel": np.ones((K, C, M)), "pointwise_kernel": np.ones((1, C * M, F))}
    layer = Layer("a", {n: (w * 1.5).astype(ml_dtypes.bfloat16) for n, w in weights.items()})
    file = tmp_path / f"out.{container}"
    pytorch.write(file, [layer])
    depthwise, *_ = pytorch.modules_of(file, "a")
    assert depthwise["weight"].dtype == torch.bfloat16
    assert (depthwise["weight"] == 1.5).all()


@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_order_is_kept(tmp_path, container):
    peers.torch()
    weights = {"depthwise_kernel": np.ones((K, C, M)), "pointwise_kernel": np.ones((1, C * M, F))}
    file = tmp_path / f"out.{container}"
    pytorch.write(file, [Layer(path, weights) for path in "cab"])
    assert [layer.path for layer in pytorch.read(file)] == ["c", "a", "b"]


def test_without_pytorch(tmp_path, monkeypatch):
    weights = {"depthwise_kernel": np.ones((K, C, M)), "pointwise_kernel": np.ones((1, C * M, F))}
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InteropError, match="PyTorch is not installed"):
        pytorch.write(tmp_path / "out.pt", [Layer("a", weights)])
    file = tmp_path / "out.safetensors"
    pytorch.write(file, [Layer("a", weights)])
    assert pytorch.read(file)[0].sizes["M"] == M


def test_names_that_meet_in_a_state_dict():
    weights = {"depthwise_kernel": np.ones((K, C, 1)), "pointwise_kernel": np.ones((1, C, F))}
    with pytest.raises(InteropError, match=r"layer 'a\.b' has the name of another one"):
        pytorch.to_state_dict([Layer("a/b", weights), Layer("a.b", weights)])


@pytest.mark.parametrize("text", ["{", "[]", '{"a.depthwise": "2"}', '{"a.depthwise": 0}'])
def test_multipliers_that_are_none(tmp_path, text):
    weights = {"depthwise_kernel": np.ones((K, C, M)), "pointwise_kernel": np.ones((1, C * M, F))}
    file = tmp_path / "out.safetensors"
    tensors = pytorch.to_state_dict([Layer("a", weights)])
    save_file(tensors, file, metadata={"flax_sepconv_depth_multipliers": text})
    with pytest.raises(InteropError, match=r"JSON|positive int"):
        pytorch.read(file)


def test_layers_that_are_not_there(tmp_path):
    path = written(tmp_path, named(dw=modules(M=1)[0], pw=modules(M=1)[1]).state_dict())
    with pytest.raises(InteropError, match="has no layer 'x'"):
        pytorch.modules_of(path, "x")


# Modules

EXACT = (
    {},
    {"padding": "valid", "dilation": 3},
    {"stride": 2},
    {"padding": 1},
    {"K": 5, "padding": 4, "dilation": 2},
    {"K": 4, "padding": 3, "dilation": 2},
    {"padding": "same"},
    {"K": 4, "padding": "same"},
    {"K": 4, "padding": "same", "dilation": 3},
    {"K": 1, "padding": 0, "stride": 3},
    {"padding_mode": "reflect"},
    {"stride": 2, "padding": 1},
    {"K": 4, "stride": 3, "padding": 3},
    {"K": 4, "padding": 1},
    {"padding": 5},
    {"K": 5, "padding": 4, "dilation": 2, "padding_mode": "circular"},
    {"K": 4, "padding": "same", "padding_mode": "circular"},
    {"K": 5, "stride": 2, "padding": 2, "padding_mode": "reflect"},
    {"K": 4, "padding": "same", "dilation": 3, "padding_mode": "reflect"},
)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("given", EXACT, ids=str)
@pytest.mark.parametrize("linear", [False, True])
def test_output_of_modules(given, linear):
    first, second = modules(linear=linear, **given)
    layer = pytorch_modules.from_modules(first, second, path="encoder/sep")
    assert layer.config["name"] == "sep"
    for length in (L, L + 1):
        assert_close(ours(layer, inputs(length)), theirs(first, second, inputs(length)))


@pytest.mark.parametrize("activation", [None, "ReLU"])
def test_one_module_alone(activation):
    nn = peers.torch().nn
    first = modules(padding="same", dilation=2)[0]
    given = first
    if activation is not None:
        given = nn.Sequential(first, getattr(nn, activation)(), nn.Dropout(), nn.Flatten())
    left = pytest.warns(InteropWarning, match="not converted: .*Flatten")
    with left if activation else contextlib.nullcontext():
        layer = pytorch_modules.from_modules(given, path="a/conv")
    expected = theirs(first, None, inputs())
    assert_close(ours(layer, inputs()), np.maximum(expected, 0) if activation else expected)
    assert fsc.DepthwiseConv1D.from_keras_config(layer.config).dilation_rate == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stride": 2, "padding": 1}, "stride=2, padding=1)"),
        ({"padding": 5}, "padding=5)"),
        ({"padding": 1, "padding_mode": "circular"}, "padding=1, padding_mode='circular')"),
        ({"K": 4, "padding": "same", "padding_mode": "reflect"}, "'same', padding_mode='reflect')"),
    ],
    ids=str,
)
def test_paddings_that_keras_has_not_are_kept_in_files(tmp_path, given, told):
    first, second = modules(**given)
    layer = pytorch_modules.from_modules(first, second, path="encoder/sep")
    interop.save(tmp_path / "w.safetensors", [layer])
    (back,) = interop.load(tmp_path / "w.safetensors")
    assert back.arguments() == layer.arguments()
    assert inspecting.torch_call(back).endswith(told)
    assert_close(ours(back, inputs()), theirs(first, second, inputs()))
    module = fsc.SeparableConv1D(**back.arguments())
    with pytest.raises(ValueError, match=r"padding must be one of .* for Keras"):
        module.to_keras_config()


def test_activation_of_modules():
    torch = peers.torch()
    first, second = modules()
    layer = pytorch_modules.from_modules(first, second, "gelu")
    expected = torch.nn.functional.gelu(torch.tensor(theirs(first, second, inputs())))
    assert_close(ours(layer, inputs()), expected.numpy())
    with pytest.raises(InteropError, match="activation"):
        pytorch_modules.from_modules(first, second, torch.nn.GELU())


@pytest.mark.parametrize("given", [{}, {"dilation": 2}, {"stride": 2}], ids=str)
def test_causal_modules(given):
    torch = peers.torch()
    first, second = modules(K=4, **given)
    layer = pytorch_modules.from_modules(first, second, padding="causal")
    x = inputs()
    zeros = 3 * given.get("dilation", 1)
    padded = torch.nn.functional.pad(torch.tensor(x), (0, 0, zeros, 0)).numpy()
    assert_close(ours(layer, x), theirs(first, second, padded))


CONVOLUTIONS = {
    "K": st.integers(1, 6),
    "stride": st.integers(1, 4),
    "dilation": st.integers(1, 3),
    "padding": st.integers(0, 6),
}


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(given=st.fixed_dictionaries(CONVOLUTIONS), length=st.integers(11, 30))
def test_padding_holds_where_it_is_said_to(given, length):
    """Distinct inputs and taps show it; numbers are given where no name has PyTorch's outputs."""
    if given["stride"] > 1:
        given["dilation"] = 1
    torch = peers.torch()
    reach = given["dilation"] * (given["K"] - 1)
    hypothesis.assume(length + 2 * given["padding"] > reach)
    x = torch.arange(1.0, length + 1, dtype=torch.float64)[None, None]
    taps = torch.arange(1.0, given["K"] + 1, dtype=torch.float64)[None, None] ** 2
    steps = {"stride": given["stride"], "dilation": given["dilation"]}
    expected = torch.nn.functional.conv1d(x, taps, padding=given["padding"], **steps).numpy()[0, 0]

    def agrees(padding):
        S, D = given["stride"], given["dilation"]
        if oracle.window(length, given["K"], S, D, padding)[1] != len(expected):
            return False
        kernel = taps.numpy()[0, 0][:, None, None]
        found = oracle.depthwise(x.numpy()[0].T[None], kernel, S, D, padding)
        return np.array_equal(found[0, :, 0], expected)

    asked = (given["K"], given["stride"], given["dilation"], given["padding"])
    assert agrees(pytorch_modules.padding_of(*asked))
    at_this_length = pytorch_modules.padding_of(*asked, length=length)
    assert agrees(at_this_length)
    if isinstance(at_this_length, tuple):
        assert not any(agrees(other) for other in ("valid", "same"))


def test_padding_by_hand():
    """What the error advises gives PyTorch's output."""
    first, second = modules(padding=1, padding_mode="replicate")
    with pytest.raises(InteropError, match=r"'replicate'.*'edge'.*padding='valid'"):
        pytorch_modules.from_modules(first, second)
    layer = pytorch_modules.from_modules(first, second, padding="valid")
    x = jnp.pad(inputs(12), ((0, 0), (1, 1), (0, 0)), mode="edge")
    assert_close(ours(layer, x), theirs(first, second, inputs(12)))


def test_padding_that_keras_has_too():
    first, second = modules(stride=2, padding=1)
    layer = pytorch_modules.from_modules(first, second, length=13)
    assert layer.arguments()["padding"] == "same"
    assert_close(ours(layer, inputs(13)), theirs(first, second, inputs(13)))


def test_channels_first():
    first, second = modules(padding=1)
    layer = pytorch_modules.from_modules(first, second)
    y = ours(layer, inputs().transpose(0, 2, 1), data_format="channels_first")
    assert_close(y.transpose(0, 2, 1), theirs(first, second, inputs()))


def test_modules_are_copied():
    first, second = modules(M=1, K=1)
    layer = pytorch_modules.from_modules(first, second)
    before = layer.weights["depthwise_kernel"].copy()
    with peers.torch().no_grad():
        first.weight += 1
    np.testing.assert_array_equal(layer.weights["depthwise_kernel"], before)


def test_modules_that_are_no_layer():
    nn = peers.torch().nn
    first, second = modules()
    for depthwise, pointwise, message in (
        (nn.Conv1d(C, 2 * C, K, groups=2), second, "groups of depthwise must be its in_channels 4"),
        (nn.Linear(C, C), second, "depthwise must be a torch.nn.Conv1d, got Linear"),
        (nn.Conv1d(C, C * M, K, groups=C, padding=3, padding_mode="circular"), second, "'wrap'"),
        (first, nn.Conv1d(C * M, F, 3), r"kernel_size of pointwise must be 1, got \(3,\)"),
        (first, nn.Conv1d(C * M, F, 1, stride=2), "stride of pointwise must be 1"),
        (first, nn.Conv1d(C * M, F, 1, padding=1), "padding of pointwise must be 0"),
        (first, nn.Conv1d(C * M, 2 * C, 1, groups=2), "groups of pointwise must be 1"),
        (first, nn.ReLU(), "pointwise must be a torch.nn.Conv1d or a torch.nn.Linear, got ReLU"),
        (first, nn.Conv1d(C, F, 1), r"axis 1 \(C\*M\) of pointwise_kernel must be 4\*3 = 12"),
        (modules(stride=2, dilation=2)[0], second, "must not both differ from 1"),
        (modules()[0].to("meta"), second, "depthwise weight must be a dense tensor"),
    ):
        with pytest.raises(InteropError, match=message):
            pytorch_modules.from_modules(depthwise, pointwise)
    for padding in ("reflect", -1.5):
        with pytest.raises(InteropError, match="padding must be an int"):
            pytorch_modules.padding_of(3, 1, 1, padding)
    with pytest.raises(InteropError, match="needs stride 1"):
        pytorch_modules.padding_of(3, 2, 1, "same")


# Damage


@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_every_prefix_is_refused(tmp_path, container):
    path = written(tmp_path, named(dw=modules(M=1)[0], pw=modules(M=1)[1]).state_dict(), container)
    whole = path.read_bytes()
    pytorch.read(path)
    for length in range(0, len(whole), 1 if container == "safetensors" else 3):
        path.write_bytes(whole[:length])
        with pytest.raises(InteropError):
            pytorch.read(path)


@pytest.mark.filterwarnings("ignore::flax_sepconv.interop.InteropWarning")
@pytest.mark.parametrize("container", ["pt", "safetensors"])
@hypothesis.settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path, container, data):
    state = named(dw=modules(M=1)[0], pw=modules(M=1)[1]).state_dict()
    path = written(tmp_path, state, container)
    content = bytearray(path.read_bytes())
    end = data.draw(st.sampled_from([min(500, len(content)), len(content)]))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    a, b, c = (data.draw(st.integers(0, len(content))) for _ in range(3))
    if data.draw(st.booleans()):
        content = content[:a] + content[b:c] + content[a:]
    path.write_bytes(content)
    try:
        pytorch.read(path)
    except InteropError:
        hypothesis.event("refused")
