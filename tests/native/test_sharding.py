"""The native kernels on several devices: right numbers, and nothing gathered."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.config import use_shardy_partitioner
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flax_sepconv import ops
from flax_sepconv.ops import native
from flax_sepconv.ops.native import library
from tests import oracle
from tests.cases import Case
from tests.conftest import DEVICES

pytestmark = [
    pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE)),
    pytest.mark.skipif(DEVICES != 4, reason="for a mesh of two by two devices"),
]

COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter", "all-reduce")
# Specs of x (and of what else has a batch, or channels), of kernels, and whether a sum is due.
DIVISIONS = {
    "batch": (P("r"), P(), True),
    "batch by all": (P(("r", "c")), P(), True),
    "channels": (P(None, None, "r"), P(None, "r"), False),
    "channels by all": (P(None, None, ("r", "c")), P(None, ("r", "c")), False),
    "both": (P("r", None, "c"), P(None, "c"), True),
}
every_division = pytest.mark.parametrize("division", DIVISIONS)
every_multiplier = pytest.mark.parametrize("M", [1, 3])


def mesh_of(kind=AxisType.Auto):
    return jax.make_mesh((2, 2), ("r", "c"), axis_types=(kind, kind))


def place(mesh, *pairs):
    return [jax.device_put(array, jax.NamedSharding(mesh, spec)) for array, spec in pairs]


def collectives(text):
    """Count the collective operations of a compiled program."""
    counts = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: count for name, count in counts.items() if count}


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def setup(case):
    """Return x, k, a cotangent and the oracle's output and gradients."""
    x, k = case.arrays(np.float32)
    h = oracle.depthwise(x, k, **case.oracle)
    y = np.random.default_rng(1).standard_normal(h.shape).astype(np.float32)
    return x, k, y, (h, *oracle.depthwise_vjp(x, k, y, **case.oracle))


def contractions(case, implementation="native"):
    """Return the three contractions as functions of their two operands."""
    f = functools.partial(ops.depthwise_conv1d, implementation=implementation, **case.settings)

    def input_gradient(y, k):
        x = jax.ShapeDtypeStruct((case.B, case.L, case.C), y.dtype)
        return jax.linear_transpose(lambda x: f(x, k), x)(y)[0]

    def kernel_gradient(x, y):
        k = jax.ShapeDtypeStruct((case.K, case.C, case.M), y.dtype)
        return jax.linear_transpose(lambda k: f(x, k), k)(y)[0]

    return f, input_gradient, kernel_gradient


@every_division
@every_multiplier
@pytest.mark.parametrize(("implementation", "shardy"), [(None, True), ("native", False)])
def test_depthwise_gathers_nothing(division, M, implementation, shardy):
    """Only the kernel gradient of a divided batch takes a collective: one sum."""
    case = Case(4, 150, 8, 5, M=M)
    spec, kernel_spec, summed = DIVISIONS[division]
    *arrays, expected = setup(case)
    x, k, y = place(mesh_of(), *zip(arrays, (spec, kernel_spec, spec), strict=True))
    functions = contractions(case, implementation)
    due = ({}, {}, {"all-reduce": 1} if summed else {})
    with use_shardy_partitioner(shardy):
        for f, operands, wanted, by_hand in zip(
            functions, ((x, k), (y, k), (x, y)), due, expected, strict=True
        ):
            compiled = jax.jit(f).lower(*operands).compile()
            text = compiled.as_text()
            assert text.count('custom_call_target="flax_sepconv_') == 1
            assert collectives(text) == wanted
            close(compiled(*operands), by_hand)


@pytest.mark.parametrize(
    ("C", "specs", "out_spec"),
    [
        (4, (P(None, "r"), P(), P(None, "r")), None),
        (4, (P("r", "c"), P(), P("r", "c")), None),
        (4, (P(None, ("r", "c")), P("c"), P()), P(None, "r")),
        (4, (P(), P("r"), P()), P("c")),
        (4, (P(), P(None, None, "r"), P(None, None, "r")), None),
        (4, (P(("c", "r")), P(None, "r"), P("r", None, "c")), P(None, None, "c")),
        (4, (P("r", None, "c"), P(None, "r"), P("c", None, "r")), None),
        (4, (P(None, None, "c"), P(), P(None, None, ("r", "c"))), P("c", "r")),
        # Fewer channels than devices, but as many lanes.
        (2, (P(None, None, "r"), P(None, "r"), P(None, None, ("r", "c"))), None),
        (3, (P("r"), P(), P("r", None, ("c",))), None),
    ],
    ids=str,
)
def test_other_divisions_give_right_numbers(C, specs, out_spec):
    """Length, taps or multipliers are divided, or the operands are at odds."""
    mesh, case = mesh_of(), Case(4, 16, C, 4, M=4)
    *arrays, expected = setup(case)
    x, k, y = place(mesh, *zip(arrays, specs, strict=True))
    out = None if out_spec is None else jax.NamedSharding(mesh, out_spec)
    for f, operands, by_hand in zip(
        contractions(case), ((x, k), (y, k), (x, y)), expected, strict=True
    ):
        close(jax.jit(f, out_shardings=out)(*operands), by_hand)


def setup_separable(case, F=6):
    """Return x, k, the pointwise kernel and a cotangent, and the oracle's output and gradients."""
    x, k = case.arrays(np.float32)
    rng = np.random.default_rng(2)
    w = rng.standard_normal((1, case.C * case.M, F)).astype(np.float32)
    y = oracle.separable(x, k, w, **case.oracle)
    cotangent = rng.standard_normal(y.shape).astype(np.float32)
    gradients = oracle.separable_vjp(x, k, w, cotangent, **case.oracle)
    return x, k, w, cotangent, (y, *gradients[:3])


def separable_step(case, implementation):
    f = functools.partial(ops.separable_conv1d, implementation=implementation, **case.settings)

    def step(x, k, w, cotangent):
        y, vjp = jax.vjp(f, x, k, w)
        return (y, *vjp(cotangent))

    return step


@every_division
@every_multiplier
def test_separable_takes_only_sums(division, M):
    """Channels are contracted over by the second stage, so that their division takes sums too."""
    case = Case(4, 40, 8, 5, M=M)
    spec, kernel_spec, _ = DIVISIONS[division]
    *arrays, expected = setup_separable(case)
    specs = (spec, kernel_spec, kernel_spec, P(spec[0]))
    operands = place(mesh_of(), *zip(arrays, specs, strict=True))
    compiled = jax.jit(separable_step(case, None)).lower(*operands).compile()
    assert 'custom_call_target="flax_sepconv_' in compiled.as_text()
    assert collectives(compiled.as_text()).keys() <= {"all-reduce"}
    for actual, by_hand in zip(compiled(*operands), expected, strict=True):
        close(actual, by_hand)


def full(spec):
    """Name all three axes, as `reshard` asks for."""
    return P(*spec, *[None] * (3 - len(spec)))


@every_division
@every_multiplier
def test_depthwise_on_explicit_axes(division, M):
    """Types tell how every result is divided."""
    case = Case(4, 20, 8, 5, M=M)
    specs = [full(spec) for spec in DIVISIONS[division][:2]]
    *arrays, expected = setup(case)
    f = functools.partial(ops.depthwise_conv1d, **case.settings)

    @jax.jit
    def step(x, k, y):
        h, vjp = jax.vjp(f, x, k)
        return (h, *vjp(y))

    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        operands = [*map(jax.reshard, map(jnp.asarray, arrays), (*specs, specs[0]))]
        results = step(*operands)
        text = step.lower(*operands).compile().as_text()
        for name in library.TARGETS[:3]:
            assert f"flax_sepconv_{name}" in text
        assert [jax.typeof(a).sharding.spec for a in results] == [specs[0], *specs]
        for actual, by_hand in zip(results, expected, strict=True):
            close(actual, by_hand)


@every_division
@every_multiplier
def test_separable_on_explicit_axes(division, M):
    spec, kernel_spec, _ = DIVISIONS[division]
    case = Case(4, 20, 8, 5, M=M)
    *arrays, expected = setup_separable(case)
    specs = full(spec), full(kernel_spec), full(P()), P(spec[0], None, None)
    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        operands = map(jax.reshard, map(jnp.asarray, arrays), specs)
        results = jax.jit(separable_step(case, None))(*operands)
        for actual, by_hand in zip(results, expected, strict=True):
            close(actual, by_hand)


def test_shard_map_over_all_axes_but_those_of_one_device():
    """There is nothing left for XLA to divide: the kernels are called."""
    mesh = jax.make_mesh((4, 1), ("r", "c"), axis_types=(AxisType.Auto, AxisType.Auto))
    case = Case(4, 20, 8, 5)
    x, k, _, expected = setup(case)
    f = functools.partial(ops.depthwise_conv1d, implementation="native", **case.settings)
    divided = jax.shard_map(
        f, mesh=mesh, in_specs=(P("r"), P()), out_specs=P("r"), axis_names={"r"}
    )
    close(jax.jit(divided)(x, k), expected[0])


def test_shard_map_over_some_axes():
    """XLA divides by the other axes there; a named lowering says that it cannot."""
    case = Case(4, 20, 8, 5, M=2)
    *arrays, expected = setup_separable(case)
    specs = (P("r", None, "c"), P(None, "c"), P(None, "c"), P("r"))
    operands = place(mesh_of(), *zip(arrays, specs, strict=True))

    def program(implementation):
        step = jax.shard_map(
            separable_step(case, implementation),
            mesh=mesh_of(),
            in_specs=(P("r"), P(), P(), P("r")),
            out_specs=(P("r"), P("r"), P(), P()),
            axis_names={"r"},
        )
        return jax.jit(step).lower(*operands)

    assert "flax_sepconv_" not in program(None).as_text()
    for actual, by_hand in zip(program(None).compile()(*operands), expected, strict=True):
        close(actual, by_hand)
    with pytest.raises(NotImplementedError, match="in a shard_map over some axes of a mesh"):
        program("native")
