"""Steps that are divided among devices: what one device gives, and nothing sent but the halo."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_sepconv as fsc
from flax_sepconv import ops
from tests.collectives import collectives
from tests.conftest import DEVICES

pytestmark = pytest.mark.skipif(DEVICES != 4, reason="for a mesh of four devices")

B, C, F = 2, 6, 5
SPEC = P(None, "s")


def operands(L, K, M=1, C=C, dtype="float32", ragged=False, packed=False):
    """Return x, the weights and what limits rows."""
    rng = np.random.default_rng(0)
    x, k, w = (
        (rng.standard_normal(shape) / math.sqrt(shape[0])).astype(jnp.dtype(dtype))
        for shape in ((B, L, C), (K, C, M), (1, C * M, F))
    )
    limits = {}
    if ragged:
        limits["lengths"] = np.array([L - 5, L // 3], np.int32)
    if packed:
        limits["segment_ids"] = np.sort(rng.integers(0, 7, (B, L)), axis=1).astype(np.int32)
    return x, (k, w, np.linspace(-1, 1, F).astype(x.dtype)), limits


def loss_and_gradients(call):
    """Return a function of x, weights and limits: the output, and gradients by x and weights."""

    def loss(x, weights, limits):
        y = call(x, *weights, **limits)
        return jnp.sum(jnp.sin(y.astype(jnp.promote_types(y.dtype, "float32")))), y

    return jax.grad(loss, (0, 1), has_aux=True)


def inside_shard_map(call, mesh):
    """Let each device call with its own steps."""

    def divided(x, *weights, **limits):
        specs = {"lengths": P(), "segment_ids": SPEC}
        return jax.shard_map(
            lambda x, weights, limits: call(x, *weights, **limits, axis_name="s"),
            mesh=mesh,
            in_specs=(SPEC, P(), {name: specs[name] for name in limits}),
            out_specs=SPEC,
        )(x, weights, limits)

    return divided


@contextlib.contextmanager
def placed(kind, call, arrays):
    """Divide the steps on a mesh; yield the call, and what it is called with."""
    x, weights, limits = arrays
    explicit = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((4,), ("s",), axis_types=(explicit,))
    specs = {"lengths": P(), "segment_ids": SPEC}
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, SPEC))
        weights = jax.device_put(weights, NamedSharding(mesh, P()))
        limits = {
            name: jax.device_put(limit, NamedSharding(mesh, specs[name]))
            for name, limit in limits.items()
        }
        call = inside_shard_map(call, mesh) if kind == "shard_map" else call
        yield call, (x, weights, limits)


def check(kind, call, arrays, tolerance=1e-5):
    """Compare with one device, and return the compiled program."""
    expected = jax.jit(loss_and_gradients(call))(*arrays)
    with placed(kind, call, arrays) as (divided, on_mesh):
        compiled = jax.jit(loss_and_gradients(divided)).lower(*on_mesh).compile()
        got = compiled(*on_mesh)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        ours, theirs = (np.asarray(each, np.float32) for each in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max(), rtol=0)
    return compiled


every_kind = pytest.mark.parametrize("kind", ["auto", "explicit", "shard_map"])

# Of arrays and of calls.
CASES = {
    "same": ({"L": 48, "K": 6}, {"padding": "same"}),
    "causal, dilated": ({"L": 48, "K": 4}, {"padding": "causal", "dilation_rate": 3}),
    "strides": ({"L": 48, "K": 7, "M": 2}, {"padding": "same", "strides": 3}),
    "fewer taps than strides": ({"L": 48, "K": 2}, {"padding": "same", "strides": 4}),
    "three multipliers": ({"L": 32, "K": 5, "M": 3}, {"padding": "same"}),
    "one channel": ({"L": 32, "K": 5, "M": 3, "C": 1}, {"padding": "same"}),
    "beyond the neighbour": ({"L": 32, "K": 20}, {"padding": "causal"}),
    "lengths": ({"L": 48, "K": 5, "ragged": True}, {"padding": "same"}),
    "lengths, strides": ({"L": 48, "K": 6, "ragged": True}, {"padding": "same", "strides": 3}),
    "segments": ({"L": 32, "K": 5, "packed": True}, {"padding": "same"}),
    "segments and lengths": (
        {"L": 32, "K": 5, "packed": True, "ragged": True},
        {"padding": "causal"},
    ),
    "16 bits": ({"L": 48, "K": 5, "dtype": "bfloat16"}, {"padding": "same"}),
    "grouped_conv": ({"L": 48, "K": 5}, {"padding": "same", "implementation": "grouped_conv"}),
    "shifted_sum": (
        {"L": 48, "K": 5, "packed": True},
        {"padding": "causal", "implementation": "shifted_sum"},
    ),
}


# What differs from the explicit kind is how the call comes to be a device's.
INSIDE = ("same", "lengths, strides", "segments and lengths", "16 bits")


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in CASES for kind in ("auto", "explicit")]
    + [(name, "shard_map") for name in INSIDE],
)
def test_one_halo_forward_and_one_back(name, kind):
    shape, settings = CASES[name]
    arrays = operands(**shape)
    call = functools.partial(ops.separable_conv1d, **settings)
    compiled = check(kind, call, arrays, 2e-2 if "dtype" in shape else 1e-5)
    sent = collectives(compiled)
    assert sent.keys() <= {"collective-permute", "all-reduce"}
    # D * (K - 1) steps of x; back as many, but for XLA's own division: those of the cotangent that
    # these meet, or, where these are more, x once more and the gradient.
    S, M = settings.get("strides", 1), shape.get("M", 1)
    reach = (shape["K"] - 1) * settings.get("dilation_rate", 1)
    back = min(M / S, 2) if kind == "auto" else 1
    halo = reach * arrays[0][:, 0].nbytes
    ids = reach * B * 4 * (2 if kind == "auto" else 1) if shape.get("packed") else 0
    # What strides skip at an end may be part of the last shard.
    spared = S * B * C * max(M, 1) * 4 if S > 1 else 0
    _, size = sent.get("collective-permute", (0, 0))
    assert size <= 1.1 * halo * (1 + back) + ids + spared


@every_kind
@pytest.mark.parametrize(("L", "K", "S"), [(32, 5, 1), (48, 17, 2)])
def test_valid_rows_have_other_shards_than_their_results(kind, L, K, S):
    """Each device is further from its output steps than the one before."""
    arrays = operands(L, K)
    check(kind, functools.partial(ops.separable_conv1d, strides=S), arrays)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ({"L": 48, "K": 8}, {}),  # 41 output steps
        ({"L": 40, "K": 3}, {"padding": "same", "strides": 3}),
        ({"L": 48, "K": 6, "ragged": True}, {"strides": 5, "padding": "same"}),
    ],
)
def test_xla_divides_what_no_number_of_devices_divides(shape, settings):
    """In the middle of a program, where shards may be of unequal length."""

    def twice(x, kernel, *rest, **limits):
        h = jax.lax.with_sharding_constraint(
            ops.depthwise_conv1d(x, kernel, **limits, **settings), NamedSharding(mesh, SPEC)
        )
        return ops.depthwise_conv1d(jnp.sin(h), kernel, padding="causal").sum((1, 2))

    mesh = jax.make_mesh((4,), ("s",), axis_types=(AxisType.Auto,))
    x, weights, limits = operands(**shape)
    expected = jax.jit(loss_and_gradients(lambda *a, **n: _unconstrained(settings, *a, **n)))(
        x, weights, limits
    )
    x = jax.device_put(x, NamedSharding(mesh, SPEC))
    compiled = jax.jit(loss_and_gradients(twice)).lower(x, weights, limits).compile()
    assert "all-gather" not in collectives(compiled)
    got = compiled(x, weights, limits)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


def _unconstrained(settings, x, kernel, *rest, **limits):
    h = ops.depthwise_conv1d(x, kernel, **limits, **settings)
    return ops.depthwise_conv1d(jnp.sin(h), kernel, padding="causal").sum((1, 2))


@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_batch_and_steps_are_divided_together(kind):
    axis = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((2, 2), ("d", "s"), axis_types=(axis, axis))
    x, weights, limits = operands(32, 5, ragged=True)
    call = functools.partial(ops.separable_conv1d, padding="same")
    expected = jax.jit(loss_and_gradients(call))(x, weights, limits)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P("d", "s")))
        got = jax.jit(loss_and_gradients(call))(x, weights, limits)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_axes_divide_steps_in_any_order(kind):
    """Also another one than the mesh has them in, by which `lax.ppermute` counts."""
    axis = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((2, 2), ("s", "t"), axis_types=(axis, axis))
    x, weights, limits = operands(32, 5)
    call = functools.partial(ops.separable_conv1d, padding="same")
    expected = jax.jit(loss_and_gradients(call))(x, weights, limits)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P(None, ("t", "s"))))
        got = jax.jit(loss_and_gradients(call))(x, weights, limits)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


def test_an_automatic_axis_may_be_named():
    """Then the steps are divided by a `shard_map`, and XLA divides the batch."""
    mesh = jax.make_mesh((2, 2), ("d", "s"), axis_types=(AxisType.Auto, AxisType.Auto))
    x, weights, limits = operands(32, 5, packed=True, ragged=True)
    call = functools.partial(ops.separable_conv1d, padding="causal")
    expected = jax.jit(loss_and_gradients(call))(x, weights, limits)
    x = jax.device_put(x, NamedSharding(mesh, P("d", "s")))
    named = loss_and_gradients(functools.partial(call, axis_name="s"))
    compiled = jax.jit(named).lower(x, weights, limits).compile()
    assert "all-gather" not in collectives(compiled)
    got = compiled(x, weights, limits)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.parametrize("transform", ["jvp", "hessian", "vmap", "checkpoint", "eager"])
@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_transformations(kind, transform):
    x, (kernel, *_), _ = operands(16, 4)

    def loss(kernel, x):
        return jnp.sin(ops.depthwise_conv1d(x, kernel, padding="same")).sum()

    transformed = {
        "jvp": lambda k, x: jax.jvp(loss, (k, x), (k, x))[1],
        "hessian": jax.hessian(loss),
        "vmap": jax.vmap(jax.grad(loss), in_axes=(0, None)),
        "checkpoint": jax.grad(jax.checkpoint(loss), 1),
        "eager": jax.grad(loss, (0, 1)),
    }[transform]
    compiled = transformed if transform == "eager" else jax.jit(transformed)
    kernel = np.stack([kernel, 2 * kernel]) if transform == "vmap" else kernel
    expected = compiled(kernel, x)
    with placed(kind, None, (x, (kernel,), {})) as (_, (x, (kernel,), _)):
        got = compiled(kernel, x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


def test_a_divided_axis_is_mapped_over():
    """Also where the same call was traced before without."""
    x, (kernel, *_), _ = operands(16, 4)
    call = functools.partial(ops.depthwise_conv1d, padding="same")
    xs = np.stack([x, -x, 2 * x, x])
    expected = jax.vmap(call, (0, None))(xs, kernel)
    with jax.set_mesh(jax.make_mesh((2, 2), ("d", "s"))):
        alone = call(jax.device_put(x, P(None, "s", None)), kernel)
        got = jax.vmap(call, (0, None))(jax.device_put(xs, P("d", None, "s", None)), kernel)
    np.testing.assert_allclose(alone, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("module", ["linen", "nnx"])
def test_layers_by_type(module):
    """An activity loss is of the whole output."""
    settings = {"padding": "same", "activity_regularizer": "l2"}
    x, _, _ = operands(16, 4)
    mesh = jax.make_mesh((4,), ("s",))
    if module == "linen":
        layer = fsc.SeparableConv1D(F, 4, **settings)
        variables = layer.init(jax.random.key(0), x)

        def call(x):
            return fsc.regularization_loss(layer.apply(variables, x, mutable=["losses"])[1])
    else:
        layer = fsc.nnx.SeparableConv1D(C, F, 4, **settings, rngs=nnx.Rngs(0))

        def call(x):
            layer(x)
            return fsc.nnx.regularization_loss(layer)

    expected = call(x)
    with jax.set_mesh(mesh):
        got = call(jax.device_put(x, P(None, "s", None)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("module", ["linen", "nnx"])
def test_layers_take_the_axis(module):
    """An activation of zeros that is not zero is masked, and activity losses are added."""
    settings = {"padding": "same", "activation": "sigmoid", "activity_regularizer": "l2"}
    x, _, limits = operands(16, 4, ragged=True)
    n = limits["lengths"]
    mesh = jax.make_mesh((4,), ("s",), axis_types=(AxisType.Auto,))
    if module == "linen":
        layer = fsc.SeparableConv1D(F, 4, **settings)
        variables = layer.init(jax.random.key(0), x)

        def call(x, n, **named):
            y, changed = layer.apply(variables, x, n, mutable=["losses"], **named)
            return y, fsc.regularization_loss(changed)
    else:
        graph, state = nnx.split(fsc.nnx.SeparableConv1D(C, F, 4, **settings, rngs=nnx.Rngs(0)))

        def call(x, n, **named):
            model = nnx.merge(graph, state, copy=True)
            return model(x, n, **named), fsc.nnx.regularization_loss(model)

    divided = jax.shard_map(
        functools.partial(call, axis_name="s"),
        mesh=mesh,
        in_specs=(SPEC, P()),
        out_specs=(SPEC, P()),
    )
    for ours, theirs in zip(jax.jit(divided)(x, n), jax.jit(call)(x, n), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_long_sequence_takes_a_share_of_the_memory():
    """A million steps, over as many devices as there are; on eight it is 1/8.

    With jaxlib 0.10.0, whose program for one device has one buffer less, it is 1/5.7.
    """

    def step(weights, x):
        def loss(weights):
            h = x
            for kernel, w in weights:
                h = jax.nn.relu(ops.separable_conv1d(h, kernel, w, padding="same"))
            return (h**2).mean()

        value, gradients = jax.value_and_grad(loss)(weights)
        return jax.tree.map(lambda a, b: a - 0.1 * b, weights, gradients), value

    def size_and_value(devices):
        mesh = jax.make_mesh((devices,), ("s",), devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            x = jax.device_put(np.ones((1, 1_000_000, 4), np.float32), P(None, "s", None))
            weights = [(jnp.ones((31, 4, 1)) / 31, jnp.eye(4)[None])] * 2
            compiled = jax.jit(step).lower(weights, x).compile()
            memory = compiled.memory_analysis()
            size = memory.temp_size_in_bytes + memory.argument_size_in_bytes
            return size, float(compiled(weights, x)[1])

    (whole, expected), (share, value) = size_and_value(1), size_and_value(DEVICES)
    assert share < whole / (0.7 * DEVICES)
    assert value == pytest.approx(expected, rel=1e-5)


def rows(**settings):
    """Call with steps that are divided on an explicit mesh, 18 or another number of them."""
    L = settings.pop("L", 16)
    with jax.set_mesh(jax.make_mesh((2,), ("s",), devices=jax.devices()[:2])):
        x = jax.device_put(np.ones((1, L, 2), np.float32), P(None, "s", None))
        return ops.depthwise_conv1d(x, np.ones((3, 2, 1), np.float32), **settings)


def mapped(axis_name):
    """Name what `jax.vmap` maps over."""
    call = functools.partial(ops.depthwise_conv1d, padding="same", axis_name=axis_name)
    kernel = np.ones((3, 2, 1), np.float32)
    return jax.vmap(lambda x: call(x, kernel), axis_name=axis_name)(np.ones((2, 16, 2)))


def test_a_gradient_is_compiled_once(caplog):
    """Also outside of `jit`."""
    x, weights, _ = operands(16, 4)
    call = functools.partial(ops.separable_conv1d, padding="same")
    gradient = jax.grad(lambda *arrays: call(*arrays).sum(), (0, 1))
    with jax.set_mesh(jax.make_mesh((4,), ("s",))):
        x = jax.device_put(x, P(None, "s", None))
        gradient(x, *weights)
        with jax.log_compiles():
            gradient(x, *weights)
    assert "Compiling" not in caplog.text


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: rows(padding="same", strides=6, L=14),
            ValueError,
            "the 14 steps of x are divided among 2 devices.*the output's 3 must be a multiple",
        ),
        (lambda: rows(axis_name="t"), ValueError, "axis_name='t' must be an axis of a"),
        (lambda: rows(axis_name=3), TypeError, "axis_name must be the name of a mesh axis.*got 3"),
        (lambda: rows(axis_name=("s", "s")), ValueError, "must name each mesh axis once, got"),
        (lambda: mapped(axis_name="v"), ValueError, "axis_name='v' must be an axis of a"),
        (lambda: rows(out_sharding="s"), TypeError, "out_sharding must be a NamedSharding or"),
        (
            lambda: rows(out_sharding=P(None, None, None, "s")),
            ValueError,
            r"an entry for each axis of the result \(1, 14, 2\) at most, got",
        ),
    ],
)
def test_what_cannot_be_is_said(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_placement_needs_a_mesh():
    x, (kernel, *_), _ = operands(16, 4)
    with pytest.raises(ValueError, match="needs a mesh: set one with"):
        ops.depthwise_conv1d(x, kernel, out_sharding=P(None, "s"))


@pytest.mark.parametrize("own", [True, False], ids=["named", "by type"])
def test_streams_have_whole_chunks(own):
    x, weights, _ = operands(16, 4)
    with jax.set_mesh(jax.make_mesh((4,), ("s",))):
        x = jax.device_put(x, P(None, "s", None))

        def call(x):
            named = {"axis_name": "s"} if own else {}
            return ops.separable_conv1d(x, *weights, padding="causal", return_state=True, **named)[
                0
            ]

        divided = jax.shard_map(call, in_specs=SPEC, out_specs=SPEC) if own else call
        with pytest.raises(ValueError, match=r"do not go together|must not be divided"):
            divided(x)


@pytest.mark.parametrize("implementation", ["grouped_conv", "shifted_sum", None])
def test_float64(implementation):
    """XLA divides in threads that do not know of `jax.enable_x64`."""
    with jax.enable_x64(True):
        arrays = operands(32, 5, dtype="float64", ragged=True)
        call = functools.partial(
            ops.separable_conv1d, padding="same", implementation=implementation
        )
        check("auto", call, arrays, 1e-12)
