import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv.constraints import MaxNorm, NonNeg, Stacked

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 11, 3)), jnp.float32)
BALL = MaxNorm(0.5, axis=[0, 1])
# The layers, with F and K.
BOTH = pytest.mark.parametrize(
    ("class_name", "sizes"), [("SeparableConv1D", (5, 4)), ("DepthwiseConv1D", (4,))]
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same", "strides": 2, "activation": "gelu", "use_bias": False},
        {"padding": "causal", "dilation_rate": (2,), "depth_multiplier": 2, "dtype": jnp.bfloat16},
        {"trainable": False, "implementation": "grouped_conv", "bias_initializer": "ones"},
        {"data_format": "channels_first", "activation": "softmax", "param_dtype": jnp.bfloat16},
    ],
)
@BOTH
def test_exactly_the_numbers_of_linen(class_name, sizes, options):
    layer = getattr(fsc.nnx, class_name)(3, *sizes, **options, rngs=nnx.Rngs(1))
    linen = getattr(fsc, class_name)(*sizes, **options)
    x = X.swapaxes(1, 2) if options.get("data_format") == "channels_first" else X
    names = [f"{weight}_kernel" for weight in ("depthwise", "pointwise")[: len(sizes)]]
    names += ["bias"] if options.get("use_bias", True) else []
    weights = {name: getattr(layer, name)[...] for name in names}
    collection = "params" if options.get("trainable", True) else "non_trainable"
    shapes = linen.init(jax.random.key(0), x)[collection]
    assert jax.tree.map(lambda w: (w.shape, w.dtype), dict(shapes)) == jax.tree.map(
        lambda w: (w.shape, w.dtype), weights
    )
    y = layer(x)
    expected = linen.apply({collection: weights}, x)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


@BOTH
def test_gradients_and_losses_are_exactly_those_of_linen(class_name, sizes):
    options = {
        "depthwise_regularizer": "l2",
        "bias_regularizer": "l1",
        "activity_regularizer": "l2",
        "bias_initializer": "ones",
    }
    layer = getattr(fsc.nnx, class_name)(3, *sizes, **options, rngs=nnx.Rngs(1))
    linen = getattr(fsc, class_name)(*sizes, **options)
    params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))

    def loss(layer):
        return jnp.sum(layer(X) ** 2) + fsc.nnx.regularization_loss(layer)

    def linen_loss(params):
        y, recorded = linen.apply({"params": params}, X, mutable=["losses"])
        return jnp.sum(y**2) + fsc.regularization_loss(recorded)

    value, grads = nnx.value_and_grad(loss)(layer)
    expected, expected_grads = jax.value_and_grad(linen_loss)(params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert float(value) != pytest.approx(float(jnp.sum(layer(X) ** 2)))
    for name, gradient in expected_grads.items():
        np.testing.assert_allclose(grads[name][...], gradient, rtol=1e-6)


def test_activity_losses_of_all_calls_are_taken_once():
    layer = fsc.nnx.SeparableConv1D(3, 5, 4, activity_regularizer="l1", rngs=nnx.Rngs(1))
    a, b = layer(X), layer(2 * X)
    expected = 0.01 * (jnp.abs(a).sum() + jnp.abs(b).sum()) / 2
    np.testing.assert_allclose(fsc.nnx.regularization_loss(layer), expected, rtol=1e-6)
    assert fsc.nnx.regularization_loss(layer) == 0


class Model(nnx.Module):
    def __init__(self, rngs):
        options = {"padding": "same", "depthwise_constraint": "non_neg"}
        self.first = fsc.nnx.SeparableConv1D(
            3, 6, 4, pointwise_constraint=BALL, **options, rngs=rngs
        )
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.fixed = fsc.nnx.SeparableConv1D(6, 6, 3, trainable=False, **options, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.fixed(self.norm(self.first(x))))


def test_optimizer_with_the_projection():
    model = Model(nnx.Rngs(0))
    constraints = fsc.nnx.constraints_of(model)
    assert constraints["first"]["pointwise_kernel"] == BALL
    assert constraints["first"]["bias"] is None
    assert "fixed" not in constraints
    tx = optax.chain(optax.adam(0.3), fsc.keep_params_constrained(constraints))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    fixed = model.fixed.depthwise_kernel[...].copy()

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(X) - 3.0) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(15)]
    assert losses[-1] < losses[0]
    norms = np.linalg.norm(np.asarray(model.first.pointwise_kernel[...], np.float64)[0], axis=0)
    assert (norms <= 0.5 * (1 + 1e-6)).all()
    assert norms.max() > 0.49
    assert (model.first.depthwise_kernel[...] >= 0).all()
    np.testing.assert_array_equal(model.fixed.depthwise_kernel[...], fixed)


def test_stacked_by_vmap():
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return fsc.nnx.SeparableConv1D(
            3,
            5,
            4,
            depthwise_constraint="non_neg",
            pointwise_regularizer=lambda w: jnp.sqrt((w**2).sum()),
            rngs=nnx.Rngs(key),
        )

    stack = make(jax.random.split(jax.random.key(0), 6))
    assert stack.pointwise_kernel.shape == (6, 1, 3, 5)
    assert fsc.nnx.constraints_of(stack)["depthwise_kernel"] == Stacked(NonNeg(), 0)
    slices = np.asarray(stack.pointwise_kernel[...], np.float64).reshape(6, -1)
    expected = np.linalg.norm(slices, axis=1).sum()
    np.testing.assert_allclose(fsc.nnx.regularization_loss(stack), expected, rtol=1e-5)
    y = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(stack, X)
    assert y.shape == (6, 2, 8, 5)


def test_no_second_compilation():
    layer = fsc.nnx.SeparableConv1D(3, 5, 4, activity_regularizer="l2", rngs=nnx.Rngs(0))
    traces = []

    @nnx.jit
    def call(layer, x):
        traces.append(x.shape)
        return layer(x).sum() + fsc.nnx.regularization_loss(layer)

    call(layer, X)
    call(layer, X + 1)
    assert len(traces) == 1
