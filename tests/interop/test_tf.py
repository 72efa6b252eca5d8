"""TF1 checkpoints: what is read from them computes what TensorFlow computed."""

import contextlib
import pathlib
import warnings

import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv import interop
from flax_sepconv.interop import InteropError, checking, tf_checkpoint
from tests import peers

B, L, C = 2, 19, 3
X = np.random.default_rng(0).standard_normal((B, L, C)).astype("float32")

# TF1's layers by scope. B, L, C, K, M and F all differ.
LAYERS = {
    "same": {"filters": 7, "kernel_size": 4, "depth_multiplier": 5, "padding": "same"},
    "strided": {"filters": 5, "kernel_size": 4, "strides": 3, "padding": "same"},
    "encoder/block_1/deep": {
        "filters": 4,
        "kernel_size": 5,
        "dilation_rate": 2,
        "depth_multiplier": 6,
        "activation": "tanh",
    },
    "encoder/no_bias": {"filters": 8, "kernel_size": 4, "use_bias": False, "activation": "relu"},
    "causal": {"filters": 5, "kernel_size": 7, "padding": "causal", "dilation_rate": 3},
    "alone": {"kernel_size": 3, "depth_multiplier": 2},
}


def tf1_layer(tf, x, scope, **arguments):
    names = ("depthwise", "pointwise", "bias")
    random = {f"{name}_initializer": tf.compat.v1.random_normal_initializer() for name in names}
    if "filters" not in arguments:  # TF1 has no such layer: it is one of its operations.
        K, M = arguments["kernel_size"], arguments["depth_multiplier"]
        with tf.compat.v1.variable_scope(scope, initializer=random["bias_initializer"]):
            kernel = tf.compat.v1.get_variable("depthwise_kernel", (K, C, M))
            bias = tf.compat.v1.get_variable("bias", (C * M,))
        y = tf.nn.depthwise_conv2d(x[:, None], kernel[None], (1, 1, 1, 1), "VALID")
        return y[:, 0] + bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return tf.compat.v1.layers.separable_conv1d(x, name=scope, **arguments, **random)


def other_layers(tf, x):
    """Build layers that are not to be found."""
    v1 = tf.compat.v1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = v1.layers.conv1d(x, 6, 3, name="ordinary")
        square = v1.layers.separable_conv2d(x[:, None], 6, (1, 3), name="encoder/two_dimensional")
    return tf.reduce_sum(flat) + tf.reduce_sum(square)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A trained graph of TF1: the folder of its checkpoint, and the outputs by scope."""
    tf = peers.tf()
    v1 = tf.compat.v1
    folder = tmp_path_factory.mktemp("graph")
    with tf.Graph().as_default(), v1.Session() as session:
        x = tf.constant(X)
        outputs = {scope: tf1_layer(tf, x, scope, **given) for scope, given in LAYERS.items()}
        loss = sum(map(tf.reduce_sum, outputs.values())) + other_layers(tf, x)
        average = tf.train.ExponentialMovingAverage(0.9)
        steps = [
            v1.train.AdamOptimizer(0.01).minimize(loss),
            v1.train.MomentumOptimizer(0.01, 0.9).minimize(loss),
            average.apply(v1.trainable_variables()),
        ]
        session.run(v1.global_variables_initializer())
        session.run(steps)
        saver = v1.train.Saver()
        saver.save(session, str(folder / "model.ckpt"), global_step=99)
        session.run(steps)
        saver.save(session, str(folder / "model.ckpt"), global_step=100)
        return folder, session.run(outputs)


def assert_same_output(layer, y, x=X, **given):
    """Compare our layer, with what was read and what the source does not tell, to TensorFlow."""
    module = getattr(fsc, layer.class_name)(**layer.arguments() | given)
    ours = module.apply({"params": dict(layer.weights)}, x)
    assert np.abs(y).max() > 0.1
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("given", [".", "model.ckpt-100", "model.ckpt-100.index"])
def test_graph_of_tf1(graph, given):
    folder, outputs = graph
    layers = {layer.path: layer for layer in tf_checkpoint.read(folder / given)}
    assert layers.keys() == LAYERS.keys()
    for scope, layer in layers.items():
        assert layer.config is None
        assert_same_output(layer, outputs[scope], **LAYERS[scope])


def test_what_the_graph_kept_beside_is_passed_over(graph):
    names = dict(peers.tf().train.list_variables(str(graph[0] / "model.ckpt-100")))
    for slot in ("Adam", "Adam_1", "Momentum", "ExponentialMovingAverage"):
        assert f"encoder/no_bias/pointwise_kernel/{slot}" in names
    assert {"ordinary/kernel", "alone/depthwise_kernel"} <= names.keys()
    assert len(names["encoder/two_dimensional/pointwise_kernel"]) == 4


def test_an_older_checkpoint_of_the_folder_can_be_named(graph):
    older, newer = (tf_checkpoint.read(graph[0] / f"model.ckpt-{step}") for step in (99, 100))
    kernels = [layers[0].weights["depthwise_kernel"] for layers in (older, newer)]
    assert np.abs(kernels[0] - kernels[1]).min() > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(tmp_path, dtype):
    tf = peers.tf()
    prefix = str(tmp_path / "model.ckpt")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf1_layer(tf, tf.constant(X, dtype), "block/conv", **LAYERS["same"])
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, prefix)
    (layer,) = tf_checkpoint.read(pathlib.Path(prefix))
    assert layer.dtype == dtype
    for name, weight in layer.weights.items():
        assert weight.flags.writeable
        np.testing.assert_array_equal(weight, tf.train.load_variable(prefix, f"block/conv/{name}"))


def test_sharded(tmp_path):
    tf = peers.tf()
    v1 = tf.compat.v1
    two = v1.ConfigProto(device_count={"CPU": 2})
    outputs = {}
    with tf.Graph().as_default(), v1.Session(config=two) as session:
        for device, (scope, given) in enumerate(list(LAYERS.items())[:2]):
            with tf.device(f"/cpu:{device}"):
                outputs[scope] = tf1_layer(tf, tf.constant(X), scope, **given)
        session.run(v1.global_variables_initializer())
        v1.train.Saver(sharded=True).save(session, str(tmp_path / "model.ckpt"))
        outputs = session.run(outputs)
    shards = sorted(path.name for path in tmp_path.glob("*.data*"))
    assert shards == [f"model.ckpt.data-0000{i}-of-00002" for i in range(2)]
    layers = tf_checkpoint.read(tmp_path)
    assert [layer.path for layer in layers] == ["same", "strided"]
    for layer in layers:
        assert_same_output(layer, outputs[layer.path], **LAYERS[layer.path])
    (tmp_path / shards[1]).unlink()
    with pytest.raises(InteropError, match="data-00001-of-00002 does not exist"):
        tf_checkpoint.read(tmp_path)


def test_partitioned(tmp_path):
    tf = peers.tf()
    v1 = tf.compat.v1
    given = {
        # Its slices start beyond what is written in one byte, and beyond what is in two.
        "rows": LAYERS["same"] | {"kernel_size": 20_000},
        "columns": LAYERS["encoder/no_bias"] | {"depth_multiplier": 50},
    }
    outputs = {}
    with tf.Graph().as_default(), v1.Session() as session:
        for axis, scope in enumerate(given):
            parts = v1.fixed_size_partitioner(3, axis)
            with v1.variable_scope("in", partitioner=parts):
                outputs[scope] = tf1_layer(tf, tf.constant(X), scope, **given[scope])
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
        names = {variable.op.name for variable in v1.global_variables()}
        outputs = session.run(outputs)
    assert {"in/rows/depthwise_kernel/part_2", "in/columns/pointwise_kernel/part_2"} <= names
    layers = {layer.path: layer for layer in tf_checkpoint.read(tmp_path)}
    for scope, y in outputs.items():
        assert_same_output(layers[f"in/{scope}"], y, **given[scope])


def test_index_of_several_blocks(tmp_path):
    """More names than one block of the index takes, and of many letters not shared."""
    rng = np.random.default_rng(0)
    scopes = [rng.bytes(60).hex() for _ in range(1300)]
    names = [f"{scope}/{name}" for scope in scopes for name in ("depthwise_kernel", "kernel")]
    names += [f"{scopes[-1]}/pointwise_kernel", f"{scopes[7]}/pointwise_kernel"]
    arrays = [np.full((1, 1, 1), i, "float32") for i in range(len(names))]
    peers.tf().raw_ops.SaveV2(
        prefix=str(tmp_path / "many"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=arrays,
    )
    assert (tmp_path / "many.index").stat().st_size > 1 << 18
    found = {layer.path: layer.weights for layer in tf_checkpoint.read(tmp_path / "many")}
    assert found.keys() == set(scopes)
    with_both = {path for path, weights in found.items() if "pointwise_kernel" in weights}
    assert with_both == {scopes[7], scopes[-1]}
    assert found[scopes[7]]["depthwise_kernel"] == 2 * 7
    assert found[scopes[7]]["pointwise_kernel"] == len(names) - 1
    assert found[scopes[-1]]["depthwise_kernel"] == 2 * 1299


def test_objects_of_two_names_and_one_weight(tmp_path):
    """Weights that layers share are read once, and are of each of them."""
    tf = peers.tf()
    one, other = tf.Module(), tf.Module()
    one.depthwise_kernel = other.depthwise_kernel = tf.Variable(np.ones((4, 3, 2), "float32"))
    one.pointwise_kernel = tf.Variable(np.ones((1, 6, 5), "float32"))
    other.pointwise_kernel = tf.Variable(np.ones((1, 6, 7), "float32"))
    tf.train.Checkpoint(one=one, other=other).write(str(tmp_path / "two"))
    a, b = tf_checkpoint.read(tmp_path / "two")
    assert {(a.path, a.sizes["F"]), (b.path, b.sizes["F"])} == {("one", 5), ("other", 7)}
    assert a.weights["depthwise_kernel"] is b.weights["depthwise_kernel"]


def test_first_format(tmp_path):
    tf = peers.tf()
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        tf1_layer(tf, tf.constant(X), "conv", **LAYERS["same"])
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(write_version=v1.train.SaverDef.V1)
        saver.save(session, str(tmp_path / "model.ckpt"))
    for path in (tmp_path, tmp_path / "model.ckpt"):
        with pytest.raises(InteropError, match=r"model\.ckpt .*first format, V1"):
            tf_checkpoint.read(path)


@pytest.fixture(scope="module")
def save():
    """What saves one layer's variables under a prefix; and its output."""
    tf = peers.tf()
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        output = tf1_layer(tf, tf.constant(X), "conv", **LAYERS["same"])
        start, saver = v1.global_variables_initializer(), v1.train.Saver()
    session = v1.Session(graph=graph)
    session.run(start)
    y = session.run(output)

    def run(prefix, **more):
        with graph.as_default():
            saver.save(session, prefix, write_meta_graph=False, **more)
        return y

    return run


# By the prefix that TensorFlow got, below a folder: what people may give for it.
NAMES = {
    "dir/": ["dir", "dir/", "dir/.index", "dir/.data-00000-of-00001"],
    "dir/.": ["dir", "dir/.", "dir/..index", "dir/..data-00000-of-00001"],
    "dir/.hidden": ["dir", "dir/.hidden", "dir/.hidden.index"],
    "dir/-3": ["dir", "dir/-3", "dir/-3.index", "dir/-3.data-00000-of-00001"],
    'dir/a "b\\ü*[1]': ["dir", 'dir/a "b\\ü*[1]', 'dir/a "b\\ü*[1].index'],
    "dir/model.index": ["dir", "dir/model.index", "dir/model.index.index"],
    "dir/m.data-00000-of-00001": ["dir", "dir/m.data-00000-of-00001"],
    "dir.v1/model": ["dir.v1", "dir.v1/model", "dir.v1/model.index"],
    "dir": ["dir", "dir.index", "."],
}


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("prefix", NAMES)
def test_names_of_checkpoints(save, tmp_path, monkeypatch, prefix, state):
    """Each of its names finds the checkpoint, with the state file and without it."""
    (tmp_path / prefix.partition("/")[0]).mkdir()
    y = save(f"{tmp_path}/{prefix}", write_state=state)
    for name in NAMES[prefix]:
        (layer,) = interop.load(f"{tmp_path}/{name}")
        assert_same_output(layer, y, **LAYERS["same"])
    monkeypatch.chdir(tmp_path)  # Relative, and of a folder without a name.
    for name in NAMES[prefix]:
        assert interop.load(name)[0].path == "conv"
    if "/" in prefix:
        monkeypatch.chdir(tmp_path / NAMES[prefix][0])
        assert interop.load(".")[0].path == "conv"


def test_a_state_file_with_a_whole_path(save, tmp_path):
    """As TensorFlow writes it of a prefix that is one; and the check reads it by TensorFlow."""
    y = save(f"{tmp_path}/", write_state=False)
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{tmp_path}/"\n')
    (layer,) = interop.load(tmp_path)
    assert_same_output(layer, y, **LAYERS["same"])
    dest = tmp_path / "copy.safetensors"
    interop.save(dest, [layer])
    sides = checking.Side(tmp_path, "tf-checkpoint"), checking.Side(dest, "safetensors")
    assert checking.differences(*sides)["conv"] < checking.TOLERANCE


def test_folders_with_several_checkpoints(save, tmp_path):
    for name in ("a", "", "b"):
        save(f"{tmp_path}/{name}", write_state=False)
    with pytest.raises(InteropError, match=r"no file 'checkpoint'.*one of \.index, a\.index, b\."):
        interop.load(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/a"')
    with pytest.raises(InteropError, match=r"names '/elsewhere/a', which.* there is \.index, a\.i"):
        interop.load(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "b"')
    assert interop.load(tmp_path)[0].path == "conv"
    (tmp_path / "sub").mkdir()
    save(f"{tmp_path}/sub", write_state=False)
    save(f"{tmp_path}/sub/", write_state=False)
    with pytest.raises(InteropError, match=r"sub is a folder with a checkpoint.*sub\.index too"):
        interop.load(tmp_path / "sub")


def test_an_index_of_another_name_is_not_taken_for_the_first_format(save, tmp_path):
    save(f"{tmp_path}/model", write_state=False)
    other = (tmp_path / "model.index").rename(tmp_path / "model.idx")
    with pytest.raises(InteropError, match=r"is the index of a checkpoint, but not named so"):
        interop.load(other)


@pytest.mark.parametrize("scope", ["", "Adam/"])
def test_variables_of_keras_optimizers_by_name(tmp_path, scope):
    tf, keras = peers.tf(), peers.tf_keras()
    model = keras.Sequential([keras.layers.SeparableConv1D(5, 4, name="conv")])
    y = model(X).numpy()
    optimizer = keras.optimizers.Adam()
    with tf.name_scope(scope) if scope else contextlib.nullcontext():
        optimizer.build(model.trainable_variables)
    saver = tf.compat.v1.train.Saver([*model.variables, *optimizer.variables])
    saver.save(None, str(tmp_path / "model.ckpt"))
    names = dict(tf.train.list_variables(str(tmp_path)))
    assert {f"{scope}m/conv/depthwise_kernel", f"{scope}v/conv/bias"} <= names.keys()
    (layer,) = tf_checkpoint.read(tmp_path)
    assert layer.path == "conv"
    assert_same_output(layer, y)
