import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.core import freeze
from flax.training import train_state

import flax_sepconv as fsc
from flax_sepconv.constraints import MaxNorm, MinMaxNorm, NonNeg, Stacked, UnitNorm

MAX = 0.7
BALL = MaxNorm(MAX, axis=[0, 1])
CONSTRAINTS = {"a": {"w": BALL, "b": None}, "c": NonNeg()}


def norms(w, axis=(0, 1)):
    return np.sqrt((np.asarray(w, np.float64) ** 2).sum(axis))


def tree(seed=0, dtype=jnp.float32, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"a": {"w": (1, 6, 5), "b": (5,)}, "c": (4, 3)}
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.standard_normal(shape), dtype),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def assert_feasible(params):
    assert (norms(params["a"]["w"]) <= MAX * (1 + 1e-6)).all()
    assert (np.asarray(params["c"]) >= 0).all()


def run(tx, params, steps=6, scale=1.0):
    """Take jitted, donating steps on random gradients, and return the parameters of each."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, params)
    state, dtype, seen = tx.init(params), params["c"].dtype, []
    for seed in range(steps):
        params, state = step(params, state, tree(seed + 1, dtype, scale))
        seen.append(jax.tree.map(np.asarray, params))
    return seen


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bounds_hold_after_apply_updates(dtype, scale):
    """Also where the update that lands on the bound is far larger than the weight."""
    tx = optax.chain(optax.sgd(0.5), fsc.keep_params_constrained(CONSTRAINTS))
    for params in run(tx, tree(dtype=dtype, scale=10.0), scale=scale):
        assert_feasible(params)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lands_on_the_projection(dtype):
    """The result is the constraint's own, up to the last place, for constraints of every kind."""
    params = {name: jnp.asarray(tree()["a"]["w"], dtype) for name in "mnuxf"}
    constraints = {
        "m": BALL,
        "n": NonNeg(),
        "u": UnitNorm(axis=1),
        "x": MinMaxNorm(0.9, 1.1, 0.7, axis=1),
        "f": lambda w: jnp.clip(w, -0.25, 0.5),
    }
    tx = optax.chain(optax.sgd(1.0), fsc.keep_params_constrained(constraints))
    grads = {name: jnp.asarray(tree(1)["a"]["w"], dtype) for name in params}
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    landed = optax.apply_updates(params, updates)
    for name, constraint in constraints.items():
        target = np.asarray(constraint(params[name] - grads[name]), np.float64)
        # The update is rounded too, to the spacing of numbers of the weight's size.
        atol = float(jnp.finfo(dtype).eps) * np.abs(np.asarray(params[name], np.float64))
        error = np.abs(np.asarray(landed[name], np.float64) - target)
        assert (error <= atol + float(jnp.finfo(dtype).eps) * np.abs(target)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_feasible_weights_do_not_drift(dtype):
    """Zero updates leave bfloat16 weights alone and shrink float32 by Keras' epsilon at most."""
    params = tree(dtype=dtype)
    params = run(optax.chain(optax.sgd(1.0), fsc.keep_params_constrained(CONSTRAINTS)), params, 1)[
        0
    ]
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = fsc.keep_params_constrained(CONSTRAINTS)
    after = params
    for _ in range(100):
        updates, _ = tx.update(zeros, tx.init(after), after)
        after = optax.apply_updates(after, updates)
    np.testing.assert_array_equal(after["c"], params["c"])
    np.testing.assert_allclose(
        np.asarray(after["a"]["w"], np.float32),
        np.asarray(params["a"]["w"], np.float32),
        rtol=0 if dtype == jnp.bfloat16 else 100 * 2e-7 / MAX,
    )


def test_unconstrained_weights_get_the_very_update():
    params, grads = tree(), tree(1)
    plain, _ = optax.adam(0.1).update(grads, optax.adam(0.1).init(params), params)
    tx = optax.chain(optax.adam(0.1), fsc.keep_params_constrained(CONSTRAINTS))
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["a"]["b"], plain["a"]["b"])
    nothing = fsc.keep_params_constrained(jax.tree.map(lambda _: None, params))
    updates, _ = nothing.update(grads, nothing.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, grads)


def test_inside_multi_transform():
    labels = {"a": "adam", "c": "sgd"}
    tx = optax.multi_transform(
        {
            "adam": optax.chain(optax.adam(0.3), fsc.keep_params_constrained(CONSTRAINTS)),
            "sgd": optax.chain(optax.sgd(0.3), fsc.keep_params_constrained(CONSTRAINTS)),
        },
        labels,
    )
    for params in run(tx, tree()):
        assert_feasible(params)


@pytest.mark.parametrize(
    "mask", [{"a": True, "c": False}, {"a": {"w": True, "b": False}, "c": False}]
)
def test_inside_masked(mask):
    tx = optax.chain(optax.sgd(0.3), optax.masked(fsc.keep_params_constrained(CONSTRAINTS), mask))
    params = run(tx, tree())[-1]
    assert (norms(params["a"]["w"]) <= MAX * (1 + 1e-6)).all()
    assert (np.asarray(params["c"]) < 0).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_inside_multi_steps(dtype):
    inner = optax.chain(optax.adam(0.3), fsc.keep_params_constrained(CONSTRAINTS))
    seen = run(
        optax.MultiSteps(inner, every_k_schedule=3).gradient_transformation(), tree(dtype=dtype)
    )
    for params in seen[2:]:
        assert_feasible(params)
    # Between the steps nothing moves.
    jax.tree.map(np.testing.assert_array_equal, seen[2], seen[4])
    assert (np.asarray(seen[2]["c"]) != np.asarray(seen[5]["c"])).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_inside_apply_if_finite(dtype):
    inner = optax.chain(optax.sgd(0.3), fsc.keep_params_constrained(CONSTRAINTS))
    tx = optax.apply_if_finite(inner, max_consecutive_errors=5)
    for params in run(tx, tree(dtype=dtype)):
        assert_feasible(params)
    params = run(tx, tree(dtype=dtype), 1)[0]
    broken = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    updates, _ = tx.update(broken, tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, optax.apply_updates(params, updates), params)


def test_mixed_update_dtypes():
    """float32 updates of bfloat16 weights, and the other way round."""
    tx = fsc.keep_params_constrained(CONSTRAINTS)
    for p, u in [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)]:
        params = tree(dtype=p, scale=10.0)
        updates, _ = jax.jit(tx.update)(tree(1, u), tx.init(params), params)
        assert updates["a"]["w"].dtype == np.float32
        assert_feasible(optax.apply_updates(params, updates))


class Deep(nn.Module):
    """Layers stacked by scan (along axis 1) and by vmap (axis 0), one inside the other."""

    @nn.compact
    def __call__(self, x):
        layer = nn.vmap(
            Layer,
            variable_axes={"params": 0, "losses": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=0,
            axis_size=2,
        )

        def body(module, x, _):
            return module(x).sum(0), None

        scan = nn.scan(
            body, variable_axes={"params": 1, "losses": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = scan(layer(), x, None)
        return Layer()(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return fsc.SeparableConv1D(
            4,
            3,
            padding="same",
            depthwise_constraint="non_neg",
            pointwise_constraint=BALL,
            depthwise_regularizer="l2",
            name="conv",
        )(x)


def test_train_state_with_stacked_layers():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 4)), jnp.float32)
    model = Deep()
    constraints = fsc.constraints_of(model, jax.random.key(0), x)
    stacked = constraints["VmapLayer_0"]["conv"]
    assert stacked == {
        "bias": None,
        "depthwise_kernel": Stacked(Stacked(NonNeg(), 0), 1),
        "pointwise_kernel": Stacked(Stacked(BALL, 0), 1),
    }
    assert constraints["Layer_0"]["conv"]["pointwise_kernel"] == BALL
    params = model.init(jax.random.key(0), x)["params"]
    assert params["VmapLayer_0"]["conv"]["pointwise_kernel"].shape == (2, 3, 1, 4, 4)
    state = train_state.TrainState.create(
        apply_fn=model.apply,
        params=params,
        tx=optax.chain(optax.adam(0.3), fsc.keep_params_constrained(constraints)),
    )

    def step(state):
        def loss(params):
            y, recorded = state.apply_fn({"params": params}, x, mutable=["losses"])
            return jnp.mean(y**2) + fsc.regularization_loss(recorded)

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    step = jax.jit(step, donate_argnums=0)
    for _ in range(4):
        state = step(state)
    kernels = state.params["VmapLayer_0"]["conv"]
    assert (norms(kernels["pointwise_kernel"], (2, 3)) <= MAX * (1 + 1e-6)).all()
    assert (norms(kernels["pointwise_kernel"], (2, 3)) > MAX / 2).any()
    assert (np.asarray(kernels["depthwise_kernel"]) >= 0).all()
    assert (norms(state.params["Layer_0"]["conv"]["pointwise_kernel"]) <= MAX * (1 + 1e-6)).all()


def test_frozen_and_plain_dicts_fit_each_other():
    tx = fsc.keep_params_constrained(freeze(CONSTRAINTS))
    updates, _ = tx.update(tree(1), tx.init(tree()), tree())
    assert_feasible(optax.apply_updates(tree(), updates))


def test_one_constraint_for_a_subtree():
    tx = fsc.keep_params_constrained({"a": NonNeg(), "c": None})
    updates, _ = tx.update(tree(1), tx.init(tree()), tree())
    after = optax.apply_updates(tree(), updates)
    assert all((np.asarray(leaf) >= 0).all() for leaf in jax.tree.leaves(after["a"]))


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"a": {"w": BALL, "b": None}}, "params have a leaf at 'c'"),
        ({"a": {"w": BALL}, "c": None}, "params have a leaf at 'a/b'"),
        (CONSTRAINTS | {"d": None}, "constraints have an entry at 'd'"),
        ({"a": {"w": BALL, "b": None, "v": BALL}, "c": None}, "constraints have an entry at 'a/v'"),
        (CONSTRAINTS | {"c": {"x": BALL}}, "constraints have an entry at 'c/x'"),
        (CONSTRAINTS | {"c": "max_norm"}, "callables or None, got 'max_norm' at 'c'"),
        (CONSTRAINTS | {"c": 3.0}, "callables or None, got 3.0 at 'c'"),
    ],
)
def test_trees_that_do_not_fit(constraints, message):
    tx = fsc.keep_params_constrained(constraints)
    with pytest.raises(ValueError, match=message):
        tx.init(tree())
    with pytest.raises(ValueError, match=message):
        tx.update(tree(1), optax.EmptyState(), tree())


def test_params_must_be_given():
    tx = fsc.keep_params_constrained(CONSTRAINTS)
    with pytest.raises(ValueError, match="params must be given"):
        tx.update(tree(1), tx.init(tree()))
