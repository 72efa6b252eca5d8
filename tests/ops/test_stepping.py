"""A chunk of streams as one call: what it gives, its derivatives, and where it is none."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from flax_sepconv import ops
from flax_sepconv.ops import native
from tests import oracle
from tests.streams import assert_close, cuts, operands

NONE = np.int64(0)  # no activation

with_native = pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
C, F, K = 36, 70, 5


def started(dtype="float32", K=K, M=1, D=1, B=3, C=C, F=F, L=23):
    """Return a chunk, the state behind some steps, and weights."""
    arrays = [jnp.asarray(a, dtype) for a in operands(K, M, B, L, C, F)]
    _, state = ops.separable_conv1d_step(arrays[0][:, :9], None, *arrays[1:], dilation_rate=D)
    return arrays[0][:, 9:], state, *arrays[1:]


def stock(x, state, k, w, b=None, D=1):
    """Compute a step by the operations of `lax`."""
    joined = jnp.concatenate([state.history, x], 1)
    h = lax.conv_general_dilated(
        joined,
        k.reshape(len(k), 1, -1),
        (1,),
        "VALID",
        rhs_dilation=(D,),
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=x.shape[2],
        precision="highest",
    )
    y = jnp.matmul(h, w[0], precision="highest")
    return (y if b is None else y + b), state.replace(history=joined[:, x.shape[1] :])


def calls(function, *arguments):
    """Name the native calls of a compiled program, and whether it moves steps beside them."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    named = re.findall('custom_call_target="flax_sepconv_(.*?)"', text)
    return named, bool(re.search(r"\b(concatenate|copy|fusion)\(", text))


@with_native
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("T", [1, 3])
def test_a_step_is_one_call_and_nothing_beside_it(dtype, T):
    x, *others = started(dtype)
    assert calls(ops.separable_conv1d_step, x[:, :T], *others) == (["separable_step"], False)


@with_native
def test_what_else_a_step_may_be_is_composed():
    x, state, *weights = started()
    whole = functools.partial(ops.separable_conv1d, padding="causal", initial_state=state)
    n = jnp.array([1, 0, 3])
    for step in (
        lambda x, *w: ops.separable_conv1d_step(x, state, *w, lengths=n),
        lambda x, *w: whole(x, *w),
        lambda x, *w: ops.separable_conv1d_step(x, None, *w),
    ):
        assert calls(step, x, *weights)[0] == ["separable_output"]
    by_taps = functools.partial(ops.separable_conv1d_step, implementation="shifted_sum")
    assert calls(by_taps, x, state, *weights)[0] == []
    by_name = functools.partial(ops.separable_conv1d_step, implementation="native")
    assert calls(by_name, x, state, *weights)[0] == ["separable_step"]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("M", "D", "C", "F", "sizes"),
    [
        (1, 1, C, F, (1,)),
        (1, 1, 64, 16, (2, 8, 1)),
        (1, 3, C, F, (1, 20)),
        (1, 2, 17, 19, (9, 1)),
        (2, 1, C, F, (1, 2)),
        (1, 1, 3, 2, (1, 4)),
        (1, 1, 300, 700, (7,)),
    ],
)
def test_streams_of_steps(dtype, M, D, C, F, sizes):
    tolerance = {"float64": 1e-14, "float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}[dtype]
    with jax.enable_x64(dtype == "float64"):
        x, *weights = (np.asarray(a, jnp.dtype(dtype)) for a in operands(K, M, 3, 23, C, F))
        state = ops.initial_state(x.shape, weights[0].shape, dilation_rate=D, dtype=dtype)
        step = jax.jit(functools.partial(ops.separable_conv1d_step, dilation_rate=D))
        outputs = []
        for first, last in cuts(23, sizes):
            y, state = step(x[:, first:last], state, *weights)
            assert y.dtype == state.dtype == dtype
            outputs.append(np.asarray(y, np.float64))
        exact = [np.asarray(a, np.float64) for a in (x, *weights)]
        whole = oracle.separable(*exact, D=D, padding="causal")
        assert_close(np.concatenate(outputs, 1), whole, tolerance)
        np.testing.assert_array_equal(state.history, x[:, 23 - D * (K - 1) :])


@pytest.mark.parametrize("T", [1, 14])
def test_a_step_without_a_bias(T):
    x, *others, _ = started()
    y, after = ops.separable_conv1d_step(x[:, :T], *others)
    reference, expected = stock(x[:, :T], *others)
    assert_close(y, reference)
    np.testing.assert_array_equal(after.history, expected.history)


def test_derivatives_of_both_results():
    """To the second order, by each operand alone and by all, with cotangents of both results."""
    arguments = started(C=4, F=3, K=3)
    rng = np.random.default_rng(1)
    draw = functools.partial(jax.tree.map, lambda a: rng.standard_normal(a.shape).astype("f"))
    tangents = draw(arguments)
    cotangents = draw(jax.eval_shape(ops.separable_conv1d_step, *arguments))

    def judged(step, which):
        def some(*moved):
            given = dict(zip(which, moved, strict=True))
            return step(*(given.get(i, a) for i, a in enumerate(arguments)))

        def pullback(*moved):
            return jax.vjp(some, *moved)[1](cotangents)

        primals, dots = ([each[i] for i in which] for each in (arguments, tangents))
        return jax.jvp(some, primals, dots), jax.jvp(pullback, primals, dots)

    for which in ([0], [1], [2], [3], [4], [0, 1], range(5)):
        ours, theirs = (
            jax.tree.leaves(jax.jit(judged, static_argnums=(0, 1))(step, tuple(which)))
            for step in (ops.separable_conv1d_step, stock)
        )
        assert len(ours) == len(theirs)
        for actual, reference in zip(ours, theirs, strict=True):
            assert_close(actual, reference, 3e-6)


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1), (3,)])
def test_it_is_transposed(which):
    """By the steps before and the chunk, together too, and by the weights."""
    arguments = started(C=4, F=3, K=3)[:4]

    def linear(step, *some):
        given = dict(zip(which, some, strict=True))
        return step(*(given.get(i, a) for i, a in enumerate(arguments)))

    of_some = [arguments[i] for i in which]
    ours, theirs = (functools.partial(linear, s) for s in (ops.separable_conv1d_step, stock))
    cotangents = theirs(*of_some)
    found = jax.linear_transpose(ours, *of_some)(cotangents)
    jax.tree.map(
        functools.partial(assert_close, tolerance=3e-6),
        found,
        jax.linear_transpose(theirs, *of_some)(cotangents),
    )


def test_it_is_mapped():
    x, state, k, w, b = started()
    chunks = jnp.stack([x, 2 * x], 1)
    states = jax.tree.map(lambda a: jnp.stack([a, 3 * a]), state)
    together = jax.vmap(ops.separable_conv1d_step, in_axes=(1, 0, None, None, None))
    for axes, given in (((1, 0), (chunks, states)), ((None, 0), (x, states))):
        of_rows = jax.vmap(ops.separable_conv1d_step, in_axes=(*axes, None, None, None))
        reference = jax.vmap(stock, in_axes=(*axes, None, None, None))(*given, k, w, b)
        jax.tree.map(assert_close, of_rows(*given, k, w, b), reference)
    if native.ABSENCE is None:
        assert calls(together, chunks, states, k, w, b)[0] == ["separable_step"]
    kernels = jnp.stack([k, -k])
    by_kernel = jax.vmap(ops.separable_conv1d_step, in_axes=(None, None, 0, None, None))
    reference = jax.vmap(stock, in_axes=(None, None, 0, None, None))(x, state, kernels, w, b)
    jax.tree.map(assert_close, by_kernel(x, state, kernels, w, b), reference)


def test_it_is_scanned():
    x, state, *weights = started()

    def body(state, step):
        y, state = ops.separable_conv1d_step(step[:, None], state, *weights)
        return state, y[:, 0]

    last, y = jax.jit(lambda x, state: lax.scan(body, state, x.swapaxes(0, 1)))(x, state)
    reference, final = stock(x, state, *weights)
    assert_close(y.swapaxes(0, 1), reference)
    np.testing.assert_array_equal(last.history, final.history)


def test_exports_do_without_it():
    x, *others = started()
    exported = jax.export.export(
        jax.jit(
            lambda x, history, *w: ops.separable_conv1d_step(
                x, others[0].replace(history=history), *w
            )[0]
        ),
        platforms=("cpu", "cuda", "tpu"),
    )(x, others[0].history, *others[1:])
    assert "flax_sepconv_" not in exported.mlir_module()
    y = jax.export.deserialize(exported.serialize()).call(x, others[0].history, *others[1:])
    assert_close(y, stock(x, *others)[0])


@pytest.mark.parametrize(("kind", "is_set"), [("Auto", False), ("Auto", True), ("Explicit", True)])
def test_divided_streams(kind, is_set):
    n = jax.device_count()
    x, state, *weights = started(B=2 * n)
    mesh = jax.make_mesh((n,), ("d",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    divided = jax.sharding.NamedSharding(mesh, P("d"))
    with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
        x, state = (jax.device_put(a, divided) for a in (x, state))
        y, after = jax.jit(ops.separable_conv1d_step)(x, state, *weights)
        assert y.sharding.spec[0] == after.history.sharding.spec[0] == "d"
    jax.tree.map(
        lambda a, b: assert_close(np.asarray(a), np.asarray(b)),
        (y, after),
        jax.tree.map(np.asarray, stock(*map(_here, (x, state)), *weights)),
    )


def _here(tree):
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), tree)


@with_native
def test_shapes_that_do_not_belong_together_are_refused():
    x, state, k, w, b = started()
    good = (state.history, x, k, w[0], b)
    out = [jax.ShapeDtypeStruct(s, "float32") for s in ((*x.shape[:2], F), state.history.shape)]
    bad = {
        "history": (state.history[:, 1:], *good[1:]),
        "batch": (state.history[1:], *good[1:]),
        "weights": (*good[:3], w[0, 1:], b),
        "bias": (*good[:4], b[1:]),
    }
    native.step(out, 1, good, NONE)
    for wrong in bad.values():
        with pytest.raises(Exception, match="shapes that do not belong together"):
            jax.block_until_ready(native.step(out, 1, wrong, NONE))
    with pytest.raises(Exception, match="operands of two types"):
        jax.block_until_ready(native.step(out, 1, (*good[:4], b.astype("bfloat16")), NONE))
