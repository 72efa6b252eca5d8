"""The native kernels in programs: where they are absent, exported, transformed, compiled once."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv import ops
from flax_sepconv.ops import native
from flax_sepconv.ops.native import library
from tests import oracle
from tests.cases import Case

needs_library = pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
CASE = Case(4, 21, 6, 5, M=2)
F = 7
REASON = "a reason that a test gives"


@pytest.fixture
def arrays():
    x, k = CASE.arrays(np.float32)
    rng = np.random.default_rng(1)
    w = rng.standard_normal((1, CASE.C * CASE.M, F)).astype(np.float32)
    return x, k, w, rng.standard_normal(F).astype(np.float32)


def gradients(implementation):
    """Return a fresh function: the operation's output and the gradients of its sum."""
    f = functools.partial(ops.separable_conv1d, implementation=implementation, **CASE.settings)

    def step(*arrays):
        y, vjp = jax.vjp(f, *arrays)
        return (y, *vjp(jnp.ones_like(y)))

    return step


def right(actual, arrays):
    """Compare with the oracle's output and the gradients of its sum."""
    y = oracle.separable(*arrays, **CASE.oracle)
    by_hand = (y, *oracle.separable_vjp(*arrays[:3], np.ones_like(y), **CASE.oracle))
    for a, b in zip(actual, by_hand, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def lowered(implementation, arrays, *platforms):
    traced = jax.jit(gradients(implementation)).trace(*arrays)
    return traced.lower(lowering_platforms=platforms or ("cpu",))


def test_library_is_there_where_a_compiler_is():
    """Whoever can build it and has not must hear of it, rather than skip its tests."""
    compilers = [name for name in ("c++", "g++", "clang++") if shutil.which(name)]
    assert native.ABSENCE is None or not compilers


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr(native, "ABSENCE", REASON)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("contraction", ["output", "input_gradient", "kernel_gradient"])
def test_selection_says_what_is_absent(contraction):
    shapes = (8, 64, 3), (5, 3, 1)
    selection = ops.select_implementation(*shapes, platform="cpu", contraction=contraction)
    assert selection.name == "shifted_sum"
    assert REASON in selection.reason


@pytest.mark.usefixtures("absent")
def test_absent_and_named_is_an_error(arrays):
    message = f"implementation='native' cannot run here: {REASON}"
    with pytest.raises(NotImplementedError, match=message):
        lowered("native", arrays)
    first = jax.jit(lambda x, k: ops.depthwise_conv1d(x, k, implementation="native"))
    with pytest.raises(NotImplementedError, match=message):
        first.lower(*arrays[:2])


@pytest.mark.usefixtures("absent")
def test_absent_and_not_named_is_done_without(arrays):
    program = lowered(None, arrays)
    assert "flax_sepconv_" not in program.as_text()
    right(program.compile()(*arrays), arrays)


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_other_platforms(platform, arrays):
    message = f"implementation='native' cannot run here: it is for CPUs.* lowered for {platform}"
    with pytest.raises(NotImplementedError, match=message):
        lowered("native", arrays, platform)
    assert "flax_sepconv_" not in lowered(None, arrays, platform).as_text()


@needs_library
def test_one_program_for_several_platforms(arrays):
    """Only the branch for CPUs has the calls: of the output, and of all gradients."""
    text = lowered(None, arrays, "cpu", "cuda", "tpu").as_text()
    assert text.count("@flax_sepconv_") == 2


def types(arrays, batch=CASE.B):
    x, *rest = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays)
    return x.update(shape=(batch, *x.shape[1:])), *rest


@pytest.mark.parametrize("symbolic", [False, True])
def test_export_does_without(arrays, symbolic):
    (batch,) = jax.export.symbolic_shape("B") if symbolic else (CASE.B,)
    export = jax.export.export(jax.jit(gradients(None)), platforms=("cpu", "cuda", "tpu"))
    exported = export(*types(arrays, batch))
    assert "flax_sepconv_" not in exported.mlir_module()
    right(jax.export.deserialize(exported.serialize()).call(*arrays), arrays)


@needs_library
@pytest.mark.parametrize("symbolic", [False, True])
def test_export_of_the_named_lowering(arrays, symbolic):
    """JAX asks whether the caller knows that the program needs the library."""
    (batch,) = jax.export.symbolic_shape("B") if symbolic else (CASE.B,)
    step = jax.jit(gradients("native"))
    with pytest.raises(ValueError, match="@flax_sepconv_output"):
        jax.export.export(step, platforms=("cpu",))(*types(arrays, batch))
    known = [
        jax.export.DisabledSafetyCheck.custom_call(f"flax_sepconv_{name}")
        for name in library.TARGETS
    ]
    export = jax.export.export(step, platforms=("cpu",), disabled_checks=known)
    exported = export(*types(arrays, batch))
    assert "@flax_sepconv_output" in exported.mlir_module()
    right(jax.export.deserialize(exported.serialize()).call(*arrays), arrays)
    with pytest.raises(NotImplementedError, match="lowered for cuda"):
        jax.export.export(step, platforms=("cpu", "cuda"), disabled_checks=known)(*types(arrays))


@needs_library
@pytest.mark.parametrize("jit", [True, False])
def test_no_second_compilation(arrays, jit, caplog):
    step = jax.jit(gradients("native")) if jit else gradients("native")
    jax.clear_caches()
    with jax.log_compiles():
        step(*arrays)
        assert "Compiling" in caplog.text
        caplog.clear()
        step(*(2 * array for array in arrays))
        assert "Compiling" not in caplog.text


@needs_library
@pytest.mark.parametrize("bias", [True, False])
def test_lowered_programs_count_the_flops_of_calls(arrays, bias, monkeypatch):
    """As many as there are products and sums; the compiled program is that without a count."""
    operands = arrays if bias else arrays[:3]

    def lower(f, *operands):
        def both(*operands):
            y, vjp = jax.vjp(functools.partial(f, implementation="native"), *operands)
            return y, vjp(y)

        return jax.jit(both).lower(*operands)

    def flops(*given):
        return lower(*given).cost_analysis()["flops"]

    def instructions(program):
        lines = program.compile().as_text().split("ENTRY")[1].splitlines()
        return [line.split(" = ")[-1].split("(")[0] for line in lines]

    steps = CASE.B * (CASE.L - CASE.K + 1)
    depthwise, pointwise = (2 * steps * CASE.C * CASE.M * n for n in (CASE.K, F))
    half = [jnp.asarray(a, jnp.bfloat16) for a in arrays[:2]]
    assert flops(ops.depthwise_conv1d, *half) == 3 * depthwise
    # The backward pass makes the depthwise output again.
    total = 4 * depthwise + 3 * pointwise + bias * 2 * steps * F
    told = lower(ops.separable_conv1d, *operands)
    assert told.cost_analysis()["flops"] == total
    monkeypatch.setattr("flax_sepconv.ops.lowerings.native.counted", lambda operand, *_: operand)
    plain = lower(ops.separable_conv1d, *operands)
    assert plain.cost_analysis()["flops"] < total / 2
    assert instructions(told) == instructions(plain)


@needs_library
def test_tables_of_flax_count_flops():
    x = jnp.ones((2, 10, 3))
    options = {"compute_flops": True, "console_kwargs": {"width": 200, "no_color": True}}
    linen = fsc.SeparableConv1D(5, 4).tabulate(jax.random.key(0), x, **options)
    model = nnx.tabulate(fsc.nnx.SeparableConv1D(3, 5, 4, rngs=nnx.Rngs(0)), x, **options)
    for table in (linen, model):
        assert " 826 " in table  # 2 * 2 * 7 * 3 * (4 + 5) + 2 * 7 * 5
