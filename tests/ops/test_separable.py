"""Both stages as one primitive: every transformation of it, against NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flax_sepconv import ops
from tests import oracle
from tests.cases import Case

F = 5
every_case = pytest.mark.parametrize(
    "case",
    [Case(2, 9, 3, 4, M=2), Case(3, 13, 4, 3, S=3, D=2, padding="valid")],
    ids=lambda case: case.id,
)
# Which of x, the depthwise kernel, the pointwise kernel and the bias are not constants.
every_choice = pytest.mark.parametrize("chosen", ["x", "k", "w", "b", "xk", "wb", "xkw", "xkwb"])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(case, seed=0):
    """Return x, both kernels and a bias, by name."""
    x, k = case.arrays(seed=seed)
    rng = np.random.default_rng(seed + 1)
    w, b = rng.standard_normal((1, case.C * case.M, F)), rng.standard_normal(F)
    return {"x": x, "k": k, "w": w, "b": b}


def draw_cotangent(case):
    steps = oracle.window(case.L, case.K, case.S, case.D, case.padding)[1]
    return np.random.default_rng(9).standard_normal((case.B, steps, F))


def operation(case, constants=(), **settings):
    """Return the operation as a function of the arguments, by position, that are no constants."""
    f = functools.partial(ops.separable_conv1d, **case.settings, **settings)
    constants = dict(constants)
    names = [name for name in "xkwb" if name not in constants]

    def g(*some):
        full = constants | dict(zip(names, some, strict=False))
        return f(*(full[name] for name in "xkwb" if name in full))

    return g


def divide(arrays, chosen):
    """Return the chosen arrays, and the others by name."""
    others = {name: array for name, array in arrays.items() if name not in chosen}
    return [arrays[name] for name in chosen], others


def output(case, x, k, w, b):
    return oracle.separable(x, k, w, b, **case.oracle)


def tangent(case, arrays, moved):
    """Sum what each moved argument gives: the operation is linear in x, k, w, and shifted by b."""
    still = arrays | {"b": np.zeros(F)}
    terms = [output(case, **(still | {name: moved[name]})) for name in moved if name != "b"]
    return sum(terms) + np.zeros_like(draw_cotangent(case)) + moved.get("b", 0)


def gradients(case, arrays, y):
    """Return the oracle's gradients, by name."""
    x, k, w, _ = arrays.values()
    return dict(zip("xkwb", oracle.separable_vjp(x, k, w, y, **case.oracle), strict=True))


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


@every_case
@every_choice
def test_both_modes(case, chosen):
    arrays, y = draw(case), draw_cotangent(case)
    some, others = divide(arrays, chosen)
    moved, _ = divide(draw(case, seed=5), chosen)
    f = operation(case, others)
    expected = tangent(case, arrays, dict(zip(chosen, moved, strict=True)))
    out, actual = jax.jvp(f, some, moved)
    close(out, output(case, **arrays))
    close(actual, expected)
    close(jax.linearize(jax.jit(f), *some)[1](*moved), expected)
    for name, actual in zip(chosen, jax.jit(lambda *a: jax.vjp(f, *a)[1](y))(*some), strict=True):
        close(actual, gradients(case, arrays, y)[name])


@every_case
@pytest.mark.parametrize("bias", [True, False])
def test_finite_differences_to_second_order(case, bias):
    arrays = list(draw(case).values())
    check_grads(operation(case), arrays[: 4 if bias else 3], order=2, modes=("fwd", "rev"))


@pytest.mark.parametrize("name", "xkwb")
def test_hessian(name):
    """Of sum(c y^3): A' (6 c y) A, where A is the matrix of what is linear in one argument."""
    case = Case(2, 7, 2, 3, M=2)
    arrays, c = draw(case), draw_cotangent(case)
    (some,), others = divide(arrays, name)
    f = operation(case, others)
    units = np.eye(some.size).reshape(-1, *some.shape)
    A = np.stack([tangent(case, arrays, {name: unit}).ravel() for unit in units], 1)
    diagonal = 6 * (c * output(case, **arrays)).ravel()
    expected = (A.T @ (diagonal[:, None] * A)).reshape(some.shape * 2)

    def loss(a):
        return (c * f(a) ** 3).sum()

    np.testing.assert_allclose(jax.jit(jax.hessian(loss))(some), expected, atol=1e-9)
    np.testing.assert_allclose(jax.jacrev(jax.jacrev(loss))(some), expected, atol=1e-9)


@every_case
@pytest.mark.parametrize("chosen", ["x", "k", "w", "wb"])
def test_linear_transpose(case, chosen):
    """And back: the transpose of the transpose is the operation."""
    arrays, y = draw(case), draw_cotangent(case)
    some, others = divide(arrays, chosen)
    if "b" not in chosen:
        others["b"] = np.zeros(F)
    transpose = jax.linear_transpose(operation(case, others), *some)
    for name, actual in zip(chosen, transpose(y), strict=True):
        close(actual, gradients(case, arrays, y)[name])
    back = jax.linear_transpose(transpose, y)(tuple(some))
    close(back[0], output(case, **(arrays | others)))


@every_case
@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_gradient_is_differentiable(case, bias):
    """<W, gradient of w> + <V, gradient of b> is <y, operation(x, k, W, V)>."""
    x, k, w, b = draw(case).values()
    y, weights = draw_cotangent(case), [w, b][: 2 if bias else 1]
    W, V = np.sin(w), np.cos(b) if bias else np.zeros(F)

    def pointwise_gradient(x, k, y):
        return jax.vjp(functools.partial(operation(case), x, k), *weights)[1](y)

    def paired(x, k, y):
        return sum((a * b).sum() for a, b in zip((W, V), pointwise_gradient(x, k, y), strict=False))

    expected = *oracle.separable_vjp(x, k, W, y, **case.oracle)[:2], output(case, x, k, W, V)
    for actual, wanted in zip(jax.grad(paired, (0, 1, 2))(x, k, y), expected, strict=True):
        close(actual, wanted)
    check_grads(pointwise_gradient, (x, k, y), order=2, modes=("fwd", "rev"))
    for position, wanted in enumerate(expected):
        operands = [x, k, y]

        def linear(a, position=position, operands=operands):
            return pointwise_gradient(*operands[:position], a, *operands[position + 1 :])[0]

        if position < 2 or not bias:
            close(jax.linear_transpose(linear, operands[position])(W)[0], wanted)


@every_choice
@pytest.mark.parametrize("axis", [1, -1])
def test_vmap(chosen, axis):
    """Over each argument alone, and over several, of the output and all gradients."""
    case, N = Case(2, 9, 3, 4, M=2), 4
    arrays, y = draw(case), draw_cotangent(case)
    drawn = [draw(case, seed=20 + n) for n in range(N)]
    each = [arrays | {name: other[name] for name in chosen} for other in drawn]
    axes = [(axis if name in chosen else None) for name in "xkwb"]

    def step(*arrays):
        out, vjp = jax.vjp(operation(case), *arrays)
        return (out, *vjp(y))

    stacked = [
        np.stack([one[name] for one in each], axis) if name in chosen else arrays[name]
        for name in "xkwb"
    ]
    results = jax.jit(jax.vmap(step, in_axes=axes, out_axes=1))(*stacked)
    for n, one in enumerate(each):
        expected = output(case, **one), *gradients(case, one, y).values()
        for actual, wanted in zip(results, expected, strict=True):
            close(actual[:, n], wanted)


@pytest.mark.parametrize("name", "xkwb")
def test_operands_and_result_of_different_dtypes(name):
    """Tangents take the dtype of what they are of, in both modes and in second derivatives."""
    case = Case(2, 9, 3, 4, M=2)
    low = {name: jnp.asarray(a, jnp.bfloat16) for name, a in draw(case).items()}
    arrays = {name: np.asarray(a).astype(np.float64) for name, a in low.items()}
    c = draw_cotangent(case).astype(np.float32)
    (some,), others = divide(low, name)
    f = operation(case, others, preferred_element_type=jnp.float32)
    gradient = jax.grad(lambda a: (c * f(a) ** 2).sum())
    out, first = jax.jvp(f, [some], [some])
    second = jax.jit(lambda a: jax.jvp(gradient, [a], [a])[1])(some)
    assert (out.dtype, first.dtype, second.dtype) == (np.float32, np.float32, jnp.bfloat16)
    moved = tangent(case, arrays, {name: arrays[name]})
    twice = gradients(case, arrays, 2 * c * moved)[name]
    for actual, expected in ((out, output(case, **arrays)), (first, moved), (second, twice)):
        error = np.abs(np.asarray(actual).astype(np.float64) - expected).max()
        assert error <= 2 * float(jnp.finfo(jnp.bfloat16).eps) * np.abs(expected).max()
