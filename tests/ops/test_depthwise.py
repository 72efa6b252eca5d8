"""Every case x every lowering x every transformation, against NumPy float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from flax_sepconv import ops
from tests import oracle
from tests.cases import CASES, LOWERINGS, Case
from tests.conftest import DEVICES

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
some_cases = pytest.mark.parametrize(
    "case",
    [Case(2, 11, 3, 4, M=2), Case(2, 13, 3, 4, S=3, D=2, padding="valid")],
    ids=lambda case: case.id,
)
every_lowering = pytest.mark.parametrize("lowering", LOWERINGS)
# Rules of derivatives and of `vmap` are the primitive's, the same ones for every lowering.
but_fft = [name for name in LOWERINGS if name != "fft"]
most_lowerings = pytest.mark.parametrize("lowering", but_fft)
# So where a rule meets every case, the lowerings take turns.
every_case_in_turn = pytest.mark.parametrize(
    ("case", "lowering"),
    [
        pytest.param(case, lowering, id=f"{case.id}-{lowering}")
        for case, lowering in zip(CASES, itertools.cycle(but_fft))
    ],
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def operation(case, lowering):
    return functools.partial(ops.depthwise_conv1d, implementation=lowering, **case.settings)


def setup(case, lowering):
    """Return the operation, its arguments, a cotangent, and the oracle's output and gradients."""
    x, k = case.arrays()
    expected = oracle.depthwise(x, k, **case.oracle)
    y = np.random.default_rng(1).standard_normal(expected.shape)
    return operation(case, lowering), x, k, y, expected


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


def matrix_of(case, k):
    """Return the matrix A(x) -> h(k) = A k for the flattened kernel, by the oracle."""
    x, _ = case.arrays()
    columns = [
        oracle.depthwise(x, unit.reshape(k.shape), **case.oracle).ravel() for unit in np.eye(k.size)
    ]
    return np.stack(columns, 1)


@every_lowering
@every_case
def test_output_and_both_gradients(case, lowering):
    f, x, k, y, expected = setup(case, lowering)

    @jax.jit
    def run(x, k, y):
        actual, vjp = jax.vjp(f, x, k)
        return actual, vjp(y)

    actual, gradients = run(x, k, y)
    close(actual, expected)
    assert actual.dtype == np.float64
    for gradient, by_hand in zip(
        gradients, oracle.depthwise_vjp(x, k, y, **case.oracle), strict=True
    ):
        close(gradient, by_hand)
        assert gradient.dtype == np.float64


@every_case_in_turn
def test_forward_mode_and_linearization(case, lowering):
    f, x, k, _, expected = setup(case, lowering)
    dx, dk = case.arrays(seed=2)
    tangent = oracle.depthwise(dx, k, **case.oracle) + oracle.depthwise(x, dk, **case.oracle)

    @jax.jit
    def run(x, k, dx, dk):
        return jax.jvp(f, (x, k), (dx, dk)), jax.linearize(f, x, k)[1](dx, dk)

    (out, out_tangent), linear = run(x, k, dx, dk)
    close(out, expected)
    close(out_tangent, tangent)
    close(linear, tangent)


@every_case_in_turn
def test_linear_transpose(case, lowering):
    f, x, k, y, _ = setup(case, lowering)
    dx, dk = oracle.depthwise_vjp(x, k, y, **case.oracle)

    @jax.jit
    def run(x, k, y):
        def transpose_x(y):
            return jax.linear_transpose(lambda x: f(x, k), x)(y)[0]

        # The transposes are linear too, and transpose back to the operation.
        (back,) = jax.linear_transpose(transpose_x, y)(x)
        return transpose_x(y), jax.linear_transpose(lambda k: f(x, k), k)(y)[0], back

    of_x, of_k, back = run(x, k, y)
    close(of_x, dx)
    close(of_k, dk)
    close(back, oracle.depthwise(x, k, **case.oracle))


@every_case_in_turn
def test_hessians(case, lowering):
    f, x, k, y, expected = setup(case, lowering)

    def loss(k):
        return jnp.sum(y * f(x, k) ** 3)

    A = matrix_of(case, k)
    by_hand = A.T @ (6 * y.ravel() * expected.ravel() * A.T).T
    shape = k.shape + k.shape
    both = jax.jit(lambda k: (jax.hessian(loss)(k), jax.jacrev(jax.jacrev(loss))(k)))(k)
    for hessian in both:  # forward over reverse, and reverse twice
        np.testing.assert_allclose(hessian, by_hand.reshape(shape), atol=1e-9)


@every_lowering
@some_cases
def test_finite_differences_to_second_order(case, lowering):
    f, x, k, _, _ = setup(case, lowering)
    check_grads(f, (x, k), order=2, modes=("fwd", "rev"))


@most_lowerings
@some_cases
@pytest.mark.parametrize("x_axis", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("k_axis", [None, 0, 1, 3])
def test_vmap_of_output(case, lowering, x_axis, k_axis):
    if x_axis is None and k_axis is None:
        return
    f, x, k, _, _ = setup(case, lowering)
    N = 5
    x, k = np.stack([x] * N) * np.arange(1, N + 1)[:, None, None, None], np.stack([k] * N)
    k = k + np.arange(N)[:, None, None, None]
    xs = [x[0]] * N if x_axis is None else x
    ks = [k[0]] * N if k_axis is None else k
    expected = [oracle.depthwise(a, b, **case.oracle) for a, b in zip(xs, ks, strict=True)]
    x = x[0] if x_axis is None else np.moveaxis(x, 0, x_axis)
    k = k[0] if k_axis is None else np.moveaxis(k, 0, k_axis)
    close(jax.vmap(f, in_axes=(x_axis, k_axis))(x, k), expected)


@every_lowering
@some_cases
@pytest.mark.parametrize("mapped", ["x", "k", "y", "xk", "xy", "ky", "xky"])
def test_vmap_of_gradients(case, lowering, mapped):
    f, x, k, y, _ = setup(case, lowering)
    N, rng = 4, np.random.default_rng(3)

    def gradients(x, k, y):
        return jax.vjp(f, x, k)[1](y)

    operands = {"x": x, "k": k, "y": y}
    stacked = {
        name: rng.standard_normal((N, *a.shape)) if name in mapped else a
        for name, a in operands.items()
    }
    axes = tuple(0 if name in mapped else None for name in operands)
    dx, dk = jax.vmap(gradients, in_axes=axes)(*stacked.values())
    for n in range(N):
        each = [a[n] if name in mapped else a for name, a in stacked.items()]
        expected = oracle.depthwise_vjp(*each, **case.oracle)
        close(dx[n], expected[0])
        close(dk[n], expected[1])


@most_lowerings
@some_cases
def test_nested_vmap(case, lowering):
    f, x, k, _, _ = setup(case, lowering)
    xs, ks = np.stack([x, 2 * x, -x]), np.stack([k, k + 1])
    table = jax.vmap(jax.vmap(f, in_axes=(None, 0)), in_axes=(0, None))(xs, ks)
    for i, j in np.ndindex(3, 2):
        close(table[i, j], oracle.depthwise(xs[i], ks[j], **case.oracle))


@every_lowering
def test_scan_and_remat(lowering):
    case = Case(2, 9, 3, 4, padding="causal")
    f, x, _, _, _ = setup(case, lowering)
    kernels = np.random.default_rng(4).standard_normal((3, 4, 3, 1))

    def loop(x, kernels):
        return jax.lax.scan(lambda x, k: (jax.checkpoint(f)(x, k), None), x, kernels)[0]

    expected = functools.reduce(lambda x, k: oracle.depthwise(x, k, **case.oracle), kernels, x)
    close(jax.jit(loop)(x, kernels), expected)
    y, dks = np.ones_like(x), []
    for n in reversed(range(3)):
        before = functools.reduce(
            lambda x, k: oracle.depthwise(x, k, **case.oracle), kernels[:n], x
        )
        y, dk = oracle.depthwise_vjp(before, kernels[n], y, **case.oracle)
        dks.insert(0, dk)
    gradients = jax.jit(jax.grad(lambda *a: loop(*a).sum(), argnums=(0, 1)))(x, kernels)
    close(gradients[0], y)
    close(gradients[1], np.stack(dks))


@every_lowering
@pytest.mark.parametrize("M", [1, 2])
@pytest.mark.parametrize("axis", ["batch", "channels"])
def test_shard_map(lowering, M, axis):
    """Gradients of replicated kernels are summed over the devices, as `shard_map` asks for."""
    case = Case(DEVICES, 9, 2 * DEVICES, 4, M=M)
    f, x, k, y, expected = setup(case, lowering)
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    x_spec = P("d") if axis == "batch" else P(None, None, "d")
    k_spec = P() if axis == "batch" else P(None, "d")

    def step(x, k, y):
        out, vjp = jax.vjp(f, x, k)
        return (out, *vjp(y))

    out, dx, dk = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(x_spec, k_spec, x_spec),
            out_specs=(x_spec, x_spec, k_spec),
        )
    )(x, k, y)
    close(out, expected)
    dx_by_hand, dk_by_hand = oracle.depthwise_vjp(x, k, y, **case.oracle)
    close(dx, dx_by_hand)
    close(dk, dk_by_hand)


@pytest.mark.parametrize("axis", ["batch", "channels", "channels of x"])
def test_sharding_in_types(axis):
    """On a mesh of explicit axes the shifted sum keeps the sharding of its operands."""
    case = Case(DEVICES, 9, 2 * DEVICES, 4, M=2)
    f, x, k, y, expected = setup(case, "shifted_sum")
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spec = P("d", None, None) if axis == "batch" else P(None, None, "d")
        x = jax.reshard(jnp.asarray(x), spec)
        k = jax.reshard(jnp.asarray(k), P(None, "d", None) if axis == "channels" else P())
        y = jax.reshard(jnp.asarray(y), spec)
        out, vjp = jax.vjp(jax.jit(f), x, k)
        assert jax.typeof(out).sharding.spec == spec
        close(out, expected)
        for actual, by_hand in zip(
            vjp(y), oracle.depthwise_vjp(x, k, y, **case.oracle), strict=True
        ):
            close(actual, by_hand)


@pytest.mark.parametrize(
    ("lowering", "M"), [("grouped_conv", 1), ("grouped_conv", 2), ("shifted_sum", 2)]
)
def test_batch_sharding_needs_only_the_sum_of_kernel_gradients(lowering, M):
    """Under automatic partitioning nothing is gathered.

    XLA's grouped convolution with M > 1 is left out: its input gradient gathers the batch.
    """
    case = Case(DEVICES, 9, 6, 4, M=M)
    f, x, k, y, _ = setup(case, lowering)
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    by_batch = jax.NamedSharding(mesh, P("d"))
    x, y = jax.device_put(x, by_batch), jax.device_put(y, by_batch)
    k = jax.device_put(k, jax.NamedSharding(mesh, P()))
    step = jax.jit(lambda x, k, y: jax.vjp(f, x, k)[1](y))
    hlo = step.lower(x, k, y).compile().as_text()
    assert "all-gather" not in hlo
    assert "all-to-all" not in hlo
    assert hlo.count("all-reduce(") == 1


@every_lowering
def test_named_lowering_runs(lowering):
    f, x, k, y, _ = setup(CASES[0], lowering)
    compiled = jax.jit(lambda x, k, y: jax.vjp(f, x, k)[1](y)).lower(x, k, y)
    convolutions = compiled.as_text().count("stablehlo.convolution")
    assert convolutions == (2 if lowering == "grouped_conv" else 0)
    calls = compiled.as_text().count("@flax_sepconv_")
    assert calls == (2 if lowering == "native" else 0)
