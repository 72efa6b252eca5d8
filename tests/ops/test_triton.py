"""The Triton kernels: interpreted on CPU against NumPy float64, and compiled for an H100.

Interpretation moves what is addressed outside an array into it, or drops it; a GPU would not. So
every address is checked here.
"""

import os
import pathlib
import re
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sepconv.ops import triton
from flax_sepconv.ops.geometry import resolve
from flax_sepconv.ops.triton import blocks, tiles
from tests import oracle
from tests.cases import Case

ROOT = pathlib.Path(__file__).parents[2]

# Several tiles of steps, of channels and of filters, and a rest of each; and the reach of taps
# across them. With F up to 128 the gradients are one kernel, beyond that two.
FUSED = {
    "many taps": (Case(2, 150, 35, 31, padding="same"), 5),
    "many taps, dilated": (Case(5, 170, 34, 31, D=3, padding="causal"), 17),
    "two multipliers": (Case(3, 140, 37, 4, M=2, D=3, padding="same"), 50),
    "two kernels": (Case(2, 130, 33, 4, padding="causal"), 131),
    "two kernels, two multipliers": (Case(1, 70, 18, 5, M=2, padding="valid"), 69),
    "no taps to loop over": (Case(2, 67, 40, 1, M=2, D=3, padding="same"), 7),
    "more channels than filters": (Case(2, 71, 130, 3, padding="valid"), 16),
    "whole tiles": (Case(1, 128, 64, 2, padding="same"), 32),
    "zeros beyond the taps": (Case(2, 45, 35, 4, D=2, padding=(9, 70)), 5),
    "one of each": (Case(1, 1, 1, 3, padding="causal"), 1),
}
DEPTHWISE = {name: case for name, (case, _) in FUSED.items()} | {
    "strided": Case(2, 131, 5, 4, M=2, S=2, padding="same"),
    "strided and dilated": Case(3, 77, 6, 5, M=1, S=3, D=2, padding="causal"),
    "three multipliers": Case(2, 40, 70, 4, M=3, D=2, padding="valid"),
}


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch):
    """Fail where a kernel addresses what an array does not have; let few programs do much each."""
    real = blocks._backend()
    outside = []

    def check(access, reference, mask):
        inside = True
        for index, size in zip(reference.transforms[-1].indices, reference.ref.shape, strict=True):
            inside = inside & (index >= 0) & (index < size)
        all_inside = (inside if mask is None else inside | ~mask).all()
        shape = reference.ref.shape
        jax.debug.callback(lambda fine: fine or outside.append((access, shape)), all_inside)

    def load(reference, mask=None, other=None):
        check("load", reference, mask)
        return real.load(reference, mask=mask, other=other)

    def store(reference, value, mask=None):
        check("store", reference, mask)
        real.store(reference, value, mask=mask)

    guarded = types.SimpleNamespace(load=load, store=store, CompilerParams=real.CompilerParams)
    monkeypatch.setattr(blocks, "_backend", lambda: guarded)
    monkeypatch.setattr(tiles, "MULTIPROCESSORS", 3)
    yield
    jax.effects_barrier()
    assert not outside


def draw(case, F, dtypes=("float32",) * 3):
    """Return x, both kernels, the bias and a cotangent, and the geometry."""
    rng = np.random.default_rng(3)
    geometry = resolve(case.L, case.K, case.S, case.D, case.padding)
    x = rng.standard_normal((case.B, case.L, case.C))
    k = rng.standard_normal((case.K, case.C, case.M)) / np.sqrt(case.K)
    w = rng.standard_normal((case.C * case.M, F)) / np.sqrt(case.C)
    b, dy = rng.standard_normal(F), rng.standard_normal((case.B, geometry.output_length, F))
    each = (dtypes[0], dtypes[1], dtypes[2], dtypes[2], dtypes[0])
    return *(jnp.asarray(a, t) for a, t in zip((x, k, w, b, dy), each, strict=True)), geometry


def assert_close(got, want, dtype, tolerance=2e-6):
    assert got.dtype == dtype
    assert got.shape == want.shape
    scale = np.abs(want).max()
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_contractions(name):
    case = DEPTHWISE[name]
    x, k, *_, geometry = draw(case, F=1)
    steps = geometry.output_length
    dh = jnp.asarray(
        np.random.default_rng(5).standard_normal((case.B, steps, case.C * case.M)), "f"
    )
    settings = case.S, case.D, case.padding
    dx, dk = oracle.depthwise_vjp(x, k, dh, *settings)
    h = triton.output(x, k, geometry, "float32", interpret=True)
    assert_close(h, oracle.depthwise(x, k, *settings), "float32")
    assert_close(triton.input_gradient(dh, k, geometry, "float32", interpret=True), dx, "float32")
    assert_close(triton.kernel_gradient(x, dh, geometry, "float32", interpret=True), dk, "float32")


@pytest.mark.parametrize("name", FUSED)
def test_fused_output(name):
    case, F = FUSED[name]
    x, k, w, b, _, geometry = draw(case, F)
    y = triton.separable_output(x, k, w, b, geometry, "float32", interpret=True)
    want = oracle.separable(x, k, w[None], b, case.S, case.D, case.padding)
    assert_close(y, want, "float32")


def test_fused_output_strided_and_without_bias():
    case = Case(2, 70, 9, 4, M=2, S=3, padding="same")
    x, k, w, _, _, geometry = draw(case, F=6)
    y = triton.separable_output(x, k, w, None, geometry, "float32", interpret=True)
    assert_close(y, oracle.separable(x, k, w[None], None, 3, 1, "same"), "float32")


def gradients_of(case, arrays):
    """Return the gradients from the oracle, the pointwise kernel's as a matrix."""
    x, k, w, dy = arrays
    dx, dk, dw, db = oracle.separable_vjp(x, k, w[None], dy, case.S, case.D, case.padding)
    return dx, dk, dw[0], db


@pytest.mark.parametrize("name", FUSED)
def test_fused_gradients(name):
    case, F = FUSED[name]
    x, k, w, _, dy, geometry = draw(case, F)
    got = triton.separable_gradients(x, k, w, dy, geometry, bias=True, interpret=True)
    for gradient, want in zip(got, gradients_of(case, (x, k, w, dy)), strict=True):
        assert_close(gradient, want, "float32")


@pytest.mark.parametrize(
    "dtypes",
    [
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "float16", "float16"),
        ("bfloat16", "float32", "bfloat16"),
        ("float32", "bfloat16", "bfloat16"),
    ],
    ids="-".join,
)
def test_other_dtypes(dtypes):
    case = Case(2, 70, 20, 3, padding="same")
    x, k, w, b, dy, geometry = draw(case, 33, dtypes)
    wide = [np.asarray(a, np.float64) for a in (x, k, w, b)]
    y = triton.separable_output(x, k, w, b, geometry, "float32", interpret=True)
    want = oracle.separable(wide[0], wide[1], wide[2][None], wide[3], padding="same")
    assert_close(y, want, "float32", 1e-2)
    got = triton.separable_gradients(x, k, w, dy, geometry, bias=True, interpret=True)
    wanted = gradients_of(case, (*wide[:3], np.asarray(dy, np.float64)))
    for gradient, want, like in zip(got, wanted, (x, k, w, w), strict=True):
        assert_close(gradient, want, like.dtype, 1e-2)


def test_h_is_rounded_once_between_the_stages():
    """The fused output of bfloat16 is that of the two stages one after the other."""
    case = Case(2, 90, 20, 5, padding="same")
    x, k, w, _, _, geometry = draw(case, 33, ("bfloat16",) * 3)
    h = triton.output(x, k, geometry, "bfloat16", interpret=True)
    y = triton.separable_output(x, k, w, None, geometry, "float32", interpret=True)
    wide_h, wide_w = (np.asarray(a, np.float64) for a in (h, w))
    assert_close(y, wide_h @ wide_w, "float32")


def test_float32_is_rounded_only_where_asked():
    x, k, w, b, dy, geometry = draw(Case(1, 9, 4, 3), 140)

    def precisions(precision):
        def both(*operands):
            options = {"precision": precision, "interpret": True}
            y = triton.separable_output(*operands, b, geometry, "float32", **options)
            return y, triton.separable_gradients(*operands, dy, geometry, bias=True, **options)

        return set(re.findall(r"precision=\(?(Precision\.\w+)", str(jax.make_jaxpr(both)(x, k, w))))

    assert precisions(None) == precisions("highest") == {"Precision.HIGHEST"}
    assert precisions("default") == {"Precision.DEFAULT"}
    with jax.default_matmul_precision("tensorfloat32"):
        assert precisions(None) == precisions("high")
        assert precisions("highest") == {"Precision.HIGHEST"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtypes": ("float64",) * 3}, "got float64"),
        ({"M": 3}, "depth_multiplier 1 or 2; got 3"),
        ({"B": 0}, r"no empty arrays; got shape \(0, 9, 4\)"),
        ({"S": 2}, "strides=1; got 2"),
    ],
)
def test_declined(change, reason):
    dtypes = change.pop("dtypes", ("float32",) * 3)
    with jax.enable_x64(True):
        x, k, w, b, dy, geometry = draw(
            Case(**{"B": 2, "L": 9, "C": 4, "K": 3} | change), 5, dtypes
        )
        if "S" not in change:  # An output alone may have strides.
            with pytest.raises(NotImplementedError, match=reason):
                triton.separable_output(x, k, w, b, geometry, "float32", interpret=True)
        with pytest.raises(NotImplementedError, match=reason):
            triton.separable_gradients(x, k, w, dy, geometry, bias=True, interpret=True)


def test_plans_cover_every_step_once():
    """Chunks make up the sequence, and each slot has room for what its chunk meets."""
    for L, K, D in ((1, 1, 1), (64, 4, 1), (1000, 31, 3), (50, 31, 16), (5000, 87, 1)):
        for padding in ("same", "causal"):
            geometry = resolve(L, K, 1, D, padding)
            plan = tiles.gradient_plan(geometry, 2, 100, 300, 1, 2)
            assert (plan.chunks - 1) * plan.chunk < L <= plan.chunks * plan.chunk
            assert plan.chunk + geometry.reach <= plan.held
            assert (plan.splits - 1) * plan.share < 2 * plan.chunks <= plan.splits * plan.share


LOWERED = """
    import functools
    import jax
    from flax_sepconv.ops import triton
    from flax_sepconv.ops.geometry import resolve

    def functions(B, L, C, F, K, M, D, dtype, typed=jax.ShapeDtypeStruct):
        geometry = resolve(L, K, 1, D, "same")
        x, k, w, b, dy, h = (
            typed(shape, dtype)
            for shape in ((B, L, C), (K, C, M), (C * M, F), (F,), (B, L, F), (B, L, C * M))
        )
        options = {"geometry": geometry, "dtype": dtype}
        fused = functools.partial(triton.separable_gradients, geometry=geometry, bias=True)
        return {
            "output": (functools.partial(triton.output, **options), (x, k)),
            "input_gradient": (functools.partial(triton.input_gradient, **options), (h, k)),
            "kernel_gradient": (functools.partial(triton.kernel_gradient, **options), (x, h)),
            "separable_output": (
                functools.partial(triton.separable_output, **options), (x, k, w, b)
            ),
            "separable_gradients": (fused, (x, k, w, dy)),
        }
"""


def run(program, **environment):
    """Run a program in a process of its own, without any GPU; return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOWERED) + textwrap.dedent(program)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"} | environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_lowers_to_triton():
    """Every function is one kernel, but for float32 gradients of many filters: two."""
    printed = run("""
        from jax.export import DisabledSafetyCheck, export

        check = DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
        for F, M, dtype in ((256, 1, "bfloat16"), (96, 2, "float16"), (300, 1, "float32")):
            for name, (function, operands) in functions(8, 500, 96, F, 9, M, 2, dtype).items():
                program = export(jax.jit(function), platforms=["cuda"], disabled_checks=[check])
                print(name, F, program(*operands).mlir_module().count("__gpu$xla.gpu.triton"))
    """)
    counts = dict(line.rsplit(" ", 1) for line in printed.splitlines())
    assert len(counts) == 15
    assert {name for name, count in counts.items() if count != "1"} == {"separable_gradients 300"}
    assert counts["separable_gradients 300"] == "2"


@pytest.mark.usefixtures("other_compilers")
def test_compiles_for_an_h100_without_spilling():
    pytest.importorskip("jax_cuda12_plugin", reason="compiles with jax-cuda12-plugin")
    printed = run("""
        import pathlib
        import numpy as np
        from jax.experimental import topologies
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        description = pathlib.Path("benchmarks/aot/h100.txtpb").read_text()
        topology = topologies.get_topology_desc(
            platform="cuda", topology="1x1x1", target_config=description
        )
        device = NamedSharding(Mesh(np.array(topology.devices[:1]), "d"), PartitionSpec())
        typed = functools.partial(jax.ShapeDtypeStruct, sharding=device)
        options = {"xla_gpu_fail_ptx_compilation_on_register_spilling": True}
        for F, M, dtype in ((512, 1, "bfloat16"), (256, 2, "bfloat16"), (256, 1, "float32")):
            for function, operands in functions(8, 500, 256, F, 9, M, 1, dtype, typed).values():
                lowered = jax.jit(function).lower(*operands)
                print("__gpu$xla.gpu.triton" in lowered.compile(options).as_text())
    """)
    assert printed.splitlines() == ["True"] * 15
