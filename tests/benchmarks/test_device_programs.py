"""The programs that the suite for accelerators times, on the CPU: numbers, donation, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import candidates, summary, timing, workloads
from benchmarks.case import Case
from benchmarks.device import calls, ceilings, in_jax, report, sampling
from benchmarks.peers import in_jax as layers
from tests import peers

PROGRAMS = summary.PROGRAMS


def workload(**sizes):
    """All sizes differ, so that a swapped axis cannot pass."""
    made = workloads.Workload("made-0", 6, 11, 5, 7, 3, 1, 1, 1, "same", 0, "here")
    return made._replace(**sizes)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(calls, "BATCH_SECONDS", 1e-4)


# --- Numbers


@pytest.mark.parametrize("batch", [6, 3])
@pytest.mark.parametrize("dtype", sampling.DTYPES)
def test_all_candidates_compute_the_layer(batch, dtype, quick):
    w = workload(batch=batch)
    for program in PROGRAMS:
        for name in candidates.CANDIDATES:
            if name in ("triton", "mosaic"):
                with pytest.raises(NotImplementedError, match="cannot run here"):
                    in_jax.build("cpu", w, dtype, program, name)
                continue
            made = in_jax.build("cpu", w, dtype, program, name)
            (each,) = made.values()
            assert list(made) == [name]
            assert each.facts["compile_seconds"] > 0
            assert each.facts["temporary_bytes"] >= 0
            numbers = each.read(each.run())
            assert len(numbers) == (1 if program == "forward" else 5)
            assert sampling.mistakes(w, dtype, "cpu", numbers) == []


@pytest.mark.parametrize("dtype", sampling.DTYPES)
def test_the_peers_on_pytorch_compute_the_layer(dtype, quick, monkeypatch):
    peers.torch()
    from benchmarks.device import in_torch

    monkeypatch.setattr(timing, "VISIT_SECONDS", 1e-3)
    assert tuple(in_torch.MODULES) == report.TORCH
    w = workload(strides=2, padding="causal")
    for program in PROGRAMS:
        for name in report.TORCH:
            if (dtype, name) == ("bfloat16", "torch_nlc"):
                with pytest.raises(NotImplementedError, match="may never return"):
                    in_torch.build("cpu", w, dtype, program, name)
                continue
            (each,) = in_torch.build("cpu", w, dtype, program, name).values()
            assert each.facts["failures"] == {}
            assert sampling.mistakes(w, dtype, "cpu", each.read(each.run())) == []
    with pytest.raises(NotImplementedError, match="PyTorch has no tpu here"):
        in_torch.describe("tpu")


def test_what_pytorch_cannot_compute_is_declined_and_what_fails_is_not(quick, monkeypatch):
    torch = peers.torch()
    from benchmarks.device import in_torch

    def failing(error):
        def way(*_):
            raise error

        return way

    case, ways = in_torch.torch_ncl.ways_of(workload(batch=2))
    no_room = failing(torch.OutOfMemoryError("no room\nand more"))
    no_kernel = failing(NotImplementedError("no kernel"))
    broken = failing(RuntimeError("CUDA error: an illegal access"))

    def build(**failing):
        monkeypatch.setattr(in_torch.torch_ncl, "ways_of", lambda w: (case, failing))
        return in_torch.build("cpu", workload(), "float32", "forward", "torch_ncl")["torch_ncl"]

    told = "^a: OutOfMemoryError: no room; b: NotImplementedError: no kernel$"
    with pytest.raises(NotImplementedError, match=told):
        build(a=no_room, b=no_kernel)
    with pytest.raises(RuntimeError, match="b: RuntimeError: CUDA error") as caught:
        build(a=no_room, b=broken)
    assert not isinstance(caught.value, NotImplementedError)
    made = build(a=broken, b=next(iter(ways.values())))
    assert made.facts["failures"] == {"a": "RuntimeError: CUDA error: an illegal access"}


def right(w, dtype="float32"):
    """Return what a right program is read as."""
    expected = sampling.expected(w, dtype)
    return {name: np.stack([array, array]) for name, array in expected.items()}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", ["y", "dx", "d_depthwise_kernel", "d_pointwise_kernel", "d_bias"])
def test_wrong_numbers_are_named(name, side):
    w = workload()
    numbers = right(w)
    assert sampling.mistakes(w, "float32", "cpu", numbers) == []
    numbers[name][side].flat[3] += 1e-3 * np.abs(numbers[name]).max()
    (found,) = sampling.mistakes(w, "float32", "cpu", numbers)
    assert found.startswith(f"{name} is off by 1.0e-03 (allowed: ")
    assert sampling.mistakes(w, "float32", "gpu", numbers) == []  # TF32 would be as far off.
    numbers[name][side].flat[3] += 0.1 * np.abs(numbers[name]).max()
    assert len(sampling.mistakes(w, "bfloat16", "tpu", numbers)) == 1


@pytest.mark.parametrize("wrong", [0, 3, 5])
def test_every_copy_is_compared(wrong):
    w = workload()
    case = Case(sampling.distinct(w))
    y = np.tile(case.operands().dy, (3, 1, 1))
    y[wrong, 2, 4] += 1.0

    def read(results):
        return sampling.read(
            case, 3, results, lambda tiles: tiles.min(0), lambda tiles: tiles.max(0)
        )

    low, high = read([y])["y"]
    off = np.zeros_like(low)
    off[wrong % 2, 2, 4] = 1.0
    np.testing.assert_allclose(low, case.operands().dy, rtol=1e-6)
    np.testing.assert_allclose(high - low, off, atol=1e-6)
    bias = read([y, y, np.ones((3, 5)), np.ones((1, 5, 7)), np.full(7, 6.0)])["d_bias"]
    np.testing.assert_array_equal(bias, np.full((2, 7), 2.0))  # The sum over three copies.


# --- Donation


@pytest.mark.parametrize("program", PROGRAMS)
def test_results_are_written_into_those_of_the_call_before(program):
    w = workload()
    function = layers.functions(candidates.layer_of("stock", w))[program]
    operands = tuple(map(jnp.asarray, Case(w).operands()))[: 4 if program == "forward" else 5]
    results = jax.tree.map(jnp.asarray, function(*operands))
    call = in_jax.donating(function)
    lowered = call.lower(operands, results)
    assert lowered.as_text().count("tf.aliasing_output") == len(results)
    sizes = lowered.compile().memory_analysis()
    assert sizes.alias_size_in_bytes == sum(result.nbytes for result in results)
    places = {result.unsafe_buffer_pointer() for result in results}
    for _ in range(2):
        before, results = results, call(operands, results)
        assert all(result.is_deleted() for result in before)
        assert {result.unsafe_buffer_pointer() for result in results} == places
    assert not any(operand.is_deleted() for operand in operands)
    np.testing.assert_allclose(results[0], function(*operands)[0], rtol=1e-4, atol=1e-5)


# --- What cannot be had


def test_a_candidate_may_decline(monkeypatch, quick):
    layer_of = candidates.layer_of

    def some(name, w):
        if name == "shifted_sum":
            raise NotImplementedError("not these taps")
        return layer_of(name, w)

    monkeypatch.setattr(candidates, "layer_of", some)
    made = in_jax.build("cpu", workload(), "float32", "forward", "stock")
    assert "calls" in made["stock"].facts
    with pytest.raises(NotImplementedError, match="not these taps"):
        in_jax.build("cpu", workload(), "float32", "forward", "shifted_sum")


def test_candidates_of_a_row_read_the_same_arrays():
    w = workload()
    case = Case(sampling.distinct(w))
    few = in_jax._operands(case, 3, "float32", "cpu")
    assert in_jax._operands(Case(sampling.distinct(w)), 3, "float32", "cpu") is few
    assert in_jax._operands(case, 3, "bfloat16", "cpu").x.dtype == jnp.bfloat16


def test_a_sound_process_computes(monkeypatch):
    in_jax.probe("cpu")
    monkeypatch.setattr(jax, "device_put", lambda array, device: 0 * array)
    with pytest.raises(ArithmeticError):
        in_jax.probe("cpu")


def test_a_lack_of_memory_is_an_answer():
    def huge(x):
        return (jnp.broadcast_to(x, (2**50, *x.shape)),)

    with pytest.raises(NotImplementedError, match="does not fit beside the others: RESOURCE_EXH"):
        in_jax.compiled(huge, (jnp.ones(3),), lambda results: {})


@pytest.mark.parametrize(
    "message",
    [
        "INTERNAL: no such algorithm",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem",
        "RESOURCE_EXHAUSTED: Shared memory size limit exceeded",
    ],
)
def test_what_does_not_compile_fails(message, monkeypatch):
    def refused(self):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refused)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        in_jax.compiled(lambda x: (x,), (jnp.ones(3),), lambda results: {})


@pytest.mark.parametrize("copy", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_wrong_in_any_copy(value, copy):
    w = workload()
    case = Case(sampling.distinct(w))
    y = np.tile(sampling.expected(w, "float32")["y"].astype(np.float32), (3, 1, 1))
    y[2 * copy, 1, 2] = value

    def side(take):
        return lambda tiles: np.asarray(take(jnp.asarray(tiles), 0))

    numbers = sampling.read(case, 3, [y], side(jnp.min), side(jnp.max))
    (found,) = sampling.mistakes(w, "float32", "gpu", numbers)
    assert found.startswith(f"y is off by {value}")


# --- Time


def test_calls_are_started_in_a_row_and_waited_for_once(monkeypatch):
    now, done = [0.0], []

    def start():
        done.append("start")
        now[0] += 0.001

    def wait():
        done.append("wait")
        now[0] += 0.002
        return "results"

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    made = calls.program(start, wait, None, {"way": "a"})
    assert made.facts["way"] == "a"
    assert made.facts["launch_milliseconds"] == pytest.approx(1.0)
    assert made.facts["calls"] == 32  # 16 calls and the wait last 18 milliseconds of 20.
    done.clear()
    assert made.run() == "results"
    assert done == ["start"] * 32 + ["wait"]


# --- Ceilings


def test_ceilings_are_of_the_dtype(quick, monkeypatch):
    monkeypatch.setitem(ceilings.SIZES, "cpu", ceilings.Sizes(1, (64,)))
    made = ceilings.build("cpu", "bfloat16")
    assert made.keys() == {"copy", "matmul 64"}
    (copied,), (product,) = made["copy"].run(), made["matmul 64"].run()
    assert (copied.dtype, copied.nbytes) == (jnp.bfloat16, 2**20)
    assert (product.dtype, product.shape) == (jnp.bfloat16, (64, 64))
