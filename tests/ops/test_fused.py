"""Lowerings that compute both stages and all gradients together, through the layer, interpreted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv import ops
from flax_sepconv.ops.lowerings import LOWERINGS
from flax_sepconv.ops.mosaic import forward as mosaic_forward
from flax_sepconv.ops.mosaic import gradients as mosaic_gradients
from tests import oracle
from tests.cases import Case

F = 7
# The Mosaic kernels take whole tiles of 128 channels.
CASES = {
    "triton": Case(2, 19, 5, 4, M=2, D=2, padding="causal"),
    "mosaic": Case(2, 37, 128, 3, D=2, padding="causal"),
}


@pytest.fixture(params=CASES)
def implementation(request, monkeypatch):
    """Let a lowering run on CPU, by interpretation."""
    from flax_sepconv.ops import triton

    lowering = LOWERINGS[request.param]
    monkeypatch.setattr(lowering, "declines", lambda context: None)
    for module, names in {
        triton: triton.__all__,
        mosaic_forward: ("separable",),
        mosaic_gradients: ("gradients",),
    }.items():
        for name in names:
            interpreted = functools.partial(getattr(module, name), interpret=True)
            monkeypatch.setattr(module, name, interpreted)
    yield request.param
    jax.clear_caches()


def draw(case, dtype="float32"):
    """Return x, both kernels, the bias and a cotangent."""
    x, k = case.arrays(np.float32)
    rng = np.random.default_rng(1)
    w = rng.standard_normal((1, case.C * case.M, F)) / np.sqrt(case.C)
    steps = oracle.window(case.L, case.K, case.S, case.D, case.padding)[1]
    b, dy = rng.standard_normal(F), rng.standard_normal((case.B, steps, F))
    return [jnp.asarray(array, dtype) for array in (x, k, w, b, dy)]


def layer(case, implementation):
    return functools.partial(
        ops.separable_conv1d, implementation=implementation, precision="highest", **case.settings
    )


def primitives(function, *operands):
    """Name the primitives of a traced function, those of results with the result."""

    def name(equation):
        asked = equation.params.get("contraction", equation.params.get("stages"))
        result = getattr(asked, "result", None)
        return f"{equation.primitive.name}:{result}" if result else equation.primitive.name

    return [name(equation) for equation in jax.make_jaxpr(function)(*operands).eqns]


def assert_close(got, want, tolerance=3e-6):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("bfloat16", 2e-2)])
def test_value_and_all_gradients(implementation, dtype, tolerance):
    case = CASES[implementation]
    *arguments, dy = draw(case, dtype)
    y, pull_back = jax.vjp(layer(case, implementation), *arguments)
    *wide, cotangent = (np.asarray(array, np.float64) for array in (*arguments, dy))
    settings = (case.S, case.D, case.padding)
    expected = oracle.separable(*wide, *settings)
    gradients = oracle.separable_vjp(*wide[:3], cotangent, *settings)
    for got, want, like in zip(
        (y, *pull_back(dy)), (expected, *gradients), (y, *arguments), strict=True
    ):
        assert got.dtype == like.dtype == dtype
        assert_close(got, want, tolerance)


def test_gradients_are_one_operation(implementation):
    case = CASES[implementation]
    *arguments, dy = draw(case)

    def backward(dy, *arguments):
        return jax.vjp(layer(case, implementation), *arguments)[1](dy)

    names = primitives(backward, dy, *arguments)
    assert names.count("separable_conv1d:xkw") == 1
    assert not {"depthwise_conv1d:x", "depthwise_conv1d:k", "dot_general"} & set(names)


@pytest.mark.parametrize("chosen", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_some_gradients_without_bias(implementation, chosen):
    case = CASES[implementation]
    x, k, w, _, dy = draw(case)
    f, reference = layer(case, implementation), layer(case, "shifted_sum")

    def loss(f, *arguments):
        return jnp.vdot(f(*arguments), dy)

    got = jax.jit(jax.grad(functools.partial(loss, f), argnums=chosen))(x, k, w)
    want = jax.grad(functools.partial(loss, reference), argnums=chosen)(x, k, w)
    for g, e in zip(got, want, strict=True):
        assert g.shape == e.shape
        assert_close(g, e, 1e-5)


def test_vmap(implementation):
    case = CASES[implementation]
    *arguments, _ = draw(case)
    x = jnp.stack([arguments[0], 2 * arguments[0]])
    got = jax.vmap(layer(case, implementation), in_axes=(0, None, None, None))(x, *arguments[1:])
    want = layer(case, "shifted_sum")(x, *arguments[1:])
    assert_close(got, want, 1e-5)


@pytest.mark.parametrize("implementation", ["triton"], indirect=True)
def test_every_other_derivative_is_composed(implementation):
    case = CASES["triton"]
    *arguments, dy = draw(case)
    dots = tuple(jnp.cos(argument) for argument in arguments)

    def hessian_vector(f):
        gradient = jax.grad(lambda *a: jnp.vdot(jnp.sin(f(*a)), dy), argnums=(0, 1, 2, 3))
        return jax.jvp(gradient, tuple(arguments), dots)[1]

    f, reference = layer(case, implementation), layer(case, "shifted_sum")
    forward = jax.jvp(f, tuple(arguments), dots)[1]
    assert_close(forward, jax.jvp(reference, tuple(arguments), dots)[1], 1e-5)
    for got, want in zip(hessian_vector(f), hessian_vector(reference), strict=True):
        assert_close(got, want, 1e-5)
    per_example = jax.vmap(jax.grad(lambda x, k: f(x, k, *arguments[2:]).sum(), 1), (0, None))
    expected = jax.vmap(jax.grad(lambda x, k: reference(x, k, *arguments[2:]).sum(), 1), (0, None))
    assert_close(per_example(*arguments[:2]), expected(*arguments[:2]), 1e-5)


@pytest.mark.parametrize("implementation", ["triton"], indirect=True)
def test_what_is_not_fused_runs_stage_by_stage(implementation):
    """Strides in the gradients, three multipliers anywhere."""
    case = Case(2, 19, 3, 4, M=3, S=2, padding="same")
    *arguments, dy = draw(case)
    got = jax.vjp(layer(case, implementation), *arguments)[1](dy)
    want = jax.vjp(layer(case, "shifted_sum"), *arguments)[1](dy)
    for g, e in zip(got, want, strict=True):
        assert_close(g, e, 1e-5)


@pytest.mark.parametrize("implementation", ["mosaic"], indirect=True)
def test_mosaic_has_no_depthwise_stage_alone(implementation):
    x, k, *_ = draw(CASES["mosaic"])
    with pytest.raises(NotImplementedError, match="computes both stages together"):
        ops.depthwise_conv1d(x, k, implementation=implementation)


@pytest.mark.parametrize("name", CASES)
def test_not_on_cpu(name):
    *arguments, _ = draw(CASES[name])
    with pytest.raises(
        NotImplementedError, match=f"implementation='{name}' cannot run here: it is"
    ):
        layer(CASES[name], name)(*arguments)
