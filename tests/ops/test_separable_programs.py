"""Both stages as one primitive: the programs that it makes, on one device and on several."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flax_sepconv.ops import native
from tests.cases import Case
from tests.conftest import DEVICES
from tests.ops.test_separable import F, close, draw, draw_cotangent, gradients, operation, output

CASE = Case(2, 9, 3, 4, M=2)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_empty_batch():
    case = Case(0, 9, 3, 4, M=2)
    arrays = draw(case)
    y, vjp = jax.vjp(jax.jit(operation(case)), *arrays.values())
    assert y.shape == (0, 9, F)
    for gradient, array in zip(vjp(y), arrays.values(), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros_like(array))


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    """The batch is divided; gradients of replicated weights are the sums over devices."""
    case = Case(DEVICES, 9, 3, 4, M=2)
    arrays, y = draw(case), draw_cotangent(case)
    divided = functools.partial(
        jax.shard_map,
        mesh=jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,)),
        in_specs=(P("d"), P(), P(), P()),
        check_vma=check_vma,
    )
    whole = divided(operation(case), out_specs=P("d"))

    def inside(x, k, w, b):
        out, vjp = jax.vjp(operation(case), x, k, w, b)
        ones = vjp(jnp.ones_like(out))
        return (out, *(ones if check_vma else (ones[0], *jax.lax.psum(ones[1:], "d"))))

    close(jax.jit(whole)(*arrays.values()), output(case, **arrays))
    results = jax.jit(lambda *a: jax.vjp(whole, *a)[1](y))(*arrays.values())
    for actual, wanted in zip(results, gradients(case, arrays, y).values(), strict=True):
        close(actual, wanted)
    specs = (P("d"), P("d"), P(), P(), P())
    _, *results = jax.jit(divided(inside, out_specs=specs))(*arrays.values())
    for actual, wanted in zip(results, gradients(case, arrays, 0 * y + 1).values(), strict=True):
        close(actual, wanted)


def equations(jaxpr):
    """Yield the equations of a program and of those within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if isinstance(value, ClosedJaxpr):
                yield from equations(value.jaxpr)


def value_and_gradients(implementation=None):
    f = operation(CASE, implementation=implementation)
    return jax.jit(jax.value_and_grad(lambda *a: (f(*a) ** 2).sum(), (0, 1, 2, 3)))


STAGES = ["depthwise_conv1d k", "depthwise_conv1d x"]


@pytest.mark.parametrize(
    ("implementation", "expected"),
    [
        (None, ["separable_conv1d xkw", "separable_conv1d y"]),
        ("native", ["separable_conv1d xkw", "separable_conv1d y"]),
        ("grouped_conv", [*["conv_general_dilated"] * 3, *["dot_general"] * 3]),
        ("shifted_sum", [*STAGES, "depthwise_conv1d y", *["dot_general"] * 3]),
    ],
)
def test_depthwise_output_is_no_residual(implementation, expected, monkeypatch):
    """Where both stages are one primitive; they are two where a lowering has them as two.

    What tools look for is traced as XLA's own operations, and differentiated by JAX.
    """
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    jaxpr = jax.make_jaxpr(value_and_gradients(implementation))(*draw(CASE).values())
    found = [
        f"{equation.primitive.name} {getattr(asked, 'result', '')}".strip()
        for equation in equations(jaxpr.jaxpr)
        for asked in [equation.params.get("contraction", equation.params.get("stages"))]
    ]
    kinds = ("conv1d ", "conv_general", "dot")
    assert sorted(name for name in found if any(kind in name for kind in kinds)) == expected


def native_calls(text):
    return re.findall('custom_call_target="flax_sepconv_(.*?)"', text)


@pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_calls_of_the_compiled_program(dtype):
    arrays = [jnp.asarray(a, dtype) for a in draw(CASE).values()]
    text = value_and_gradients().lower(*arrays).compile().as_text()
    assert sorted(native_calls(text)) == ["separable_gradients", "separable_output"]


@pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
@pytest.mark.parametrize("asked", [(0,), (1,), (2,), (3,), (0, 1), (0, 3), (1, 2)])
def test_what_is_not_asked_for_is_not_computed(asked):
    f = operation(CASE)
    step = jax.jit(jax.grad(lambda *a: (f(*a) ** 2).sum(), asked))
    lowered = step.lower(*draw(CASE).values())
    (results,) = re.findall(
        r"@flax_sepconv_separable_gradients\(.*?-> \((.*?)\)", lowered.as_text()
    )
    empty = [part.strip().startswith("tensor<0x") for part in results.split(",")]
    pointwise = not {2, 3} & set(asked)
    assert empty == [0 not in asked, 1 not in asked, pointwise, pointwise]
    assert sorted(native_calls(lowered.compile().as_text()))[0] == "separable_gradients"


@pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
def test_calls_inside_shard_map():
    """Every device runs the same program on what it holds, so that both stages stay together."""
    case = Case(DEVICES, 9, 3, 4, M=2)
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    specs = (P("d"), P(), P(), P())
    whole = jax.shard_map(operation(case), mesh=mesh, in_specs=specs, out_specs=P("d"))
    text = jax.jit(whole).lower(*draw(case).values()).compile().as_text()
    assert native_calls(text) == ["separable_output"]


@pytest.mark.parametrize("implementation", [None, "shifted_sum"])
def test_without_jit(implementation):
    """Both primitives: the second implementation binds the depthwise one alone."""
    arrays = draw(CASE)
    with jax.disable_jit():
        y = operation(CASE, implementation=implementation)(*arrays.values())
    close(y, output(CASE, **arrays))
