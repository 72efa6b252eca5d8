"""The bytes of real programs whose traffic is known from their shapes."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks.aot import hlo, traffic
from benchmarks.aot.targets import TARGETS
from tests import accelerators

ROOT = pathlib.Path(__file__).parents[2]
ARRAY = 16 * 512 * 1024

PROGRAMS = {
    "copy": (lambda x: x + 1, [(16, 512, 1024)]),
    "matmul": (jnp.matmul, [(4096, 2048), (2048, 1024)]),
    "scan": (functools.partial(lax.map, jnp.sin), [(16, 512, 1024)]),
    "shifts": (lambda x: x[:, :-8] + x[:, 3:-5] + x[:, 8:], [(16, 512, 1024)]),
}
# Bytes in float32, read and written. A scan on CPU and GPU fills its result with zeros at first.
READ = {
    "copy": 4 * ARRAY,
    "matmul": 4 * (4096 * 2048 + 2048 * 1024),
    "scan": 4 * ARRAY,
    "shifts": 4 * ARRAY,
}
WRITTEN = {
    "copy": 4 * ARRAY,
    "matmul": 4 * 4096 * 1024,
    "scan": 4 * ARRAY,
    "shifts": 4 * 16 * 504 * 1024,
}


def moved(sharding=None):
    """Compile the programs; return (launches, read, written) of each."""
    totals = {}
    for name, (function, shapes) in PROGRAMS.items():
        operands = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding) for shape in shapes]
        text = jax.jit(function).lower(*operands).compile().as_text()
        totals[name] = traffic.total(traffic.operations(hlo.parse(text)))
    return totals


def print_moved(target):
    """Compile for an accelerator; in a process that is set up for it."""
    device = jax.sharding.SingleDeviceSharding(TARGETS[target].device())
    print(json.dumps(moved(device)))


def check(totals, *, fills):
    """Compare, leaving room for counters and indices alone."""
    assert totals.keys() == PROGRAMS.keys()
    for name, (launches, read, written) in totals.items():
        assert launches >= 1
        assert read == pytest.approx(READ[name], rel=1e-3), name
        filled = WRITTEN[name] if fills and name == "scan" else 0
        assert written == pytest.approx(WRITTEN[name] + filled, rel=1e-3), name


def test_programs_for_cpu_move_what_they_must():
    check(moved(), fills=True)


@pytest.mark.usefixtures("other_compilers")
@pytest.mark.parametrize("target", ["v5e", "h100"])
def test_programs_for_accelerators_move_what_they_must(target, tmp_path):
    printed = accelerators.printed(target, __name__, "print_moved", tmp_path)
    check(json.loads(printed.splitlines()[-1]), fills=target == "h100")


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: jnp.sort(x, 0), [(256, 512)]),
        (lambda x, y: (x[2:-2] @ y).sum(0), [(260, 512), (512, 128)]),
        (lambda x: jnp.fft.rfft(x), [(256, 512)]),
        (lambda x, y: jnp.concatenate([x, 2 * y]), [(256, 512), (128, 512)]),
    ],
)
def test_without_loops_xla_counts_the_same(function, shapes):
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(function).lower(*operands).compile()
    total = traffic.total(traffic.operations(hlo.parse(compiled.as_text())))
    assert total.moved == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=1e-3)
