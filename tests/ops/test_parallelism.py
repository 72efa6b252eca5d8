"""Ways to divide data and weights: what one device gives, with the fewest collectives there can be.

Gradients leave divided as their arrays came, and scalars do not count.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_sepconv as fsc
from flax_sepconv import ops
from tests.collectives import kinds
from tests.conftest import DEVICES

pytestmark = pytest.mark.skipif(DEVICES != 4, reason="for a mesh of two by two devices")

B, L, C, F, K = 4, 16, 8, 12, 5
GATHER, REDUCE, SCATTER, PERMUTE = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
)
# How x, the kernels and the bias are divided, and the result is wanted; then the collectives of the
# output, and of the output with all gradients. Sums over the same devices are one.
TABLE = {
    "data parallel": (P("d"), (P(), P(), P()), None, {}, {REDUCE: 1}),
    "by filters": (
        P("d"),
        (P(), P(None, None, "m"), P("m")),
        None,
        {},
        # The gradients of x; the kernel's over all devices; of w and the bias over the data.
        {REDUCE: 3},
    ),
    "by channels": (
        P("d", None, "m"),
        (P(None, "m"), P(None, "m"), P()),
        None,
        {REDUCE: 1},
        {REDUCE: 2},
    ),
    "by channels, of x that is whole": (
        P("d"),
        (P(None, "m"), P(None, "m"), P()),
        None,
        {REDUCE: 1},
        {REDUCE: 2, GATHER: 1},
    ),
    "by channels, into filters": (
        P("d", None, "m"),
        (P(None, "m"), P(None, "m"), P()),
        P("d", None, "m"),
        {SCATTER: 1},
        # The cotangent; and the bias is divided for it, and its gradient gathered.
        {SCATTER: 1, GATHER: 2, REDUCE: 1},
    ),
    "by channels, into steps": (
        P("d", None, "m"),
        (P(None, "m"), P(None, "m"), P()),
        P("d", "m", None),
        {SCATTER: 1},
        {SCATTER: 1, GATHER: 1, REDUCE: 2},
    ),
    "fully sharded by channels": (
        P("d"),
        (P(None, "d"), P(None, "d"), P("d")),
        None,
        {GATHER: 3},
        {GATHER: 3, SCATTER: 3},
    ),
    "fully sharded by filters": (
        P("d"),
        (P(None, "d"), P(None, None, "d"), P("d")),
        None,
        {GATHER: 3},
        {GATHER: 3, SCATTER: 3},
    ),
    "fully sharded, and by filters": (
        P("d"),
        (P(None, "d"), P(None, "d", "m"), P("m")),
        None,
        {GATHER: 2},
        {GATHER: 2, SCATTER: 2, REDUCE: 2},
    ),
    "fully sharded, and by channels": (
        P("d", None, "m"),
        (P(None, "m"), P(None, "m", "d"), P("d")),
        None,
        {GATHER: 2, REDUCE: 1},
        {GATHER: 2, SCATTER: 2, REDUCE: 2},
    ),
    "fully sharded over both axes": (
        P(("d", "m")),
        (P(None, ("d", "m")), P(None, ("d", "m")), P(("d", "m"))),
        None,
        {GATHER: 3},
        {GATHER: 3, SCATTER: 3},
    ),
    "data and steps": (P("d", "m"), (P(), P(), P()), None, {PERMUTE: 2}, {PERMUTE: 4, REDUCE: 1}),
    "data and steps, fully sharded": (
        P("d", "m"),
        (P(None, "d"), P(None, "d"), P()),
        None,
        {PERMUTE: 2, GATHER: 2},
        # What is scattered over the data is summed over the steps before.
        {PERMUTE: 4, GATHER: 2, SCATTER: 2, REDUCE: 2},
    ),
}


def arrays():
    rng = np.random.default_rng(0)
    shapes = (B, L, C), (K, C, 1), (1, C, F), (F,)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def place(mesh, values, specs):
    return [
        jax.device_put(value, NamedSharding(mesh, spec))
        for value, spec in zip(values, specs, strict=True)
    ]


def functions(out, lengths=None):
    """Return the output, and it with all gradients."""

    def output(x, *weights):
        return ops.separable_conv1d(x, *weights, padding="same", lengths=lengths, out_sharding=out)

    def loss(*operands):
        y = output(*operands)
        return jnp.sum(jnp.sin(y)), y

    return output, jax.grad(loss, (0, 1, 2, 3), has_aux=True)


@pytest.mark.parametrize("name", TABLE)
def test_collectives_on_explicit_axes(name):
    x_spec, weight_specs, out, *wanted = TABLE[name]
    expected = jax.jit(functions(None)[1])(*arrays())
    mesh = jax.make_mesh((2, 2), ("d", "m"))
    with jax.set_mesh(mesh):
        operands = place(mesh, arrays(), (x_spec, *weight_specs))
        programs = [jax.jit(each).lower(*operands).compile() for each in functions(out)]
        got = programs[1](*operands)
    assert [kinds(program) for program in programs] == wanted
    for gradient, operand in zip(got[0], operands, strict=True):
        assert gradient.sharding.is_equivalent_to(operand.sharding, operand.ndim)
    if out is not None:
        assert got[1].sharding.is_equivalent_to(NamedSharding(mesh, out), 3)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["by channels", "by channels, into steps", "data and steps"])
def test_nothing_stands_behind_ends(name):
    """The bias is added behind a sum over channels, and not to what is behind a sequence."""
    x_spec, weight_specs, out, *_ = TABLE[name]
    n = np.array([3, 0, 16, 9], np.int32)
    expected = jax.jit(functions(None, n)[1])(*arrays())
    mesh = jax.make_mesh((2, 2), ("d", "m"))
    with jax.set_mesh(mesh):
        operands = place(mesh, arrays(), (x_spec, *weight_specs))
        got = jax.jit(functions(out, n)[1])(*operands)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("data parallel", [{}, {REDUCE: 1}]),
        ("by filters", [{}, {REDUCE: 2}]),
        ("by channels", [{REDUCE: 1}, {REDUCE: 2}]),
        ("data and steps", [{PERMUTE: 2}, {PERMUTE: 4, REDUCE: 3}]),
    ],
)
def test_collectives_on_automatic_axes(name, wanted):
    """There XLA divides the pointwise stage, and chooses."""
    x_spec, weight_specs, *_ = TABLE[name]
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(AxisType.Auto, AxisType.Auto))
    specs = (x_spec, *weight_specs)
    operands = place(mesh, arrays(), specs)
    places = tuple(NamedSharding(mesh, spec) for spec in specs)
    output, gradients = functions(None)
    programs = [
        jax.jit(output),
        jax.jit(gradients, out_shardings=(places, NamedSharding(mesh, P(*x_spec[:2])))),
    ]
    if name == "by filters":
        programs[1] = jax.jit(gradients, out_shardings=(places, None))
    compiled = [program.lower(*operands).compile() for program in programs]
    assert [kinds(each) for each in compiled] == wanted
    expected = jax.jit(gradients)(*arrays())
    for ours, theirs in zip(
        jax.tree.leaves(compiled[1](*operands)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["explicit", "auto"])
@pytest.mark.parametrize("module", ["linen", "nnx"])
@pytest.mark.parametrize(
    ("class_name", "sizes"), [("SeparableConv1D", (F, K)), ("DepthwiseConv1D", (K,))]
)
def test_layers_take_a_placement(class_name, sizes, module, kind):
    axis = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(axis, axis))
    x = arrays()[0]
    out = NamedSharding(mesh, P("d", None, "m"))
    options = {"padding": "same", "use_bias": class_name == "DepthwiseConv1D"}
    options["bias_initializer"] = "ones"
    if module == "linen":
        layer = getattr(fsc, class_name)(*sizes, **options)
        call = functools.partial(layer.apply, layer.init(jax.random.key(0), x))
    else:
        rngs = fsc.nnx.nnx.Rngs(0)
        call = getattr(fsc.nnx, class_name)(C, *sizes, **options, rngs=rngs)
    expected = call(x)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: call(x, out_sharding=out))(place(mesh, [x], [P("d")])[0])
    assert y.sharding.is_equivalent_to(out, 3)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [P("d"), P("d", None, "m"), P(("d", "m"))], ids=str)
def test_streams(spec):
    """The state is divided as the batch and the channels of the chunks are; two sums are one."""
    x, *weights = arrays()

    def in_chunks(x):
        step = functools.partial(ops.separable_conv1d_step, strides=2)
        first, state = step(x[:, :6], None, *weights)
        second, state = step(x[:, 6:], state, *weights)
        return first, second, state

    expected = jax.jit(in_chunks)(x)
    mesh = jax.make_mesh((2, 2), ("d", "m"))
    with jax.set_mesh(mesh):
        compiled = jax.jit(in_chunks).lower(place(mesh, [x], [spec])[0]).compile()
        got = compiled(place(mesh, [x], [spec])[0])
    assert kinds(compiled) == ({REDUCE: 1} if len(spec) == 3 else {})
    assert got[2].history.sharding.is_equivalent_to(NamedSharding(mesh, spec), 3)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
