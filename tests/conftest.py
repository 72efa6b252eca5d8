"""Settings that must stand before JAX starts."""

import gc
import os
import pathlib

import pytest

# Several CPU devices, for everything that is sharded.
DEVICES = 4
_FLAG = "--xla_force_host_platform_device_count"
_LEVEL = "--xla_backend_optimization_level"
_given = os.environ.get("XLA_FLAGS", "")
if _FLAG not in _given:
    _given = f"{_given} {_FLAG}={DEVICES}".strip()
# Thousands of small programs run once: to compile them is most of the work, and XLA is told to be
# quick about it. Who gives the level (`.ci/versions` does) has them compiled as users' are.
_QUICK = "" if _LEVEL in _given else f" {_LEVEL}=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = _given + _QUICK

# Where both cores test, and in the many short processes, threads of OpenBLAS and of OpenMP
# (PyTorch's) only wait, busily.
for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

# Not the tables of choices of who runs the tests: a folder that is not there.
os.environ["FLAX_SEPCONV_TUNED"] = str(pathlib.Path(__file__).with_name("no_tables"))


@pytest.fixture
def other_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes ask compilers for accelerators, which end where they do not know a flag."""
    monkeypatch.setenv("XLA_FLAGS", _given)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the collector of garbage what the imports left: it was a tenth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
