"""Settings that must stand before JAX starts."""

import gc
import os
import pathlib

import pytest

# Several CPU devices, for everything that is sharded.
DEVICES = 4
_FLAG = "--xla_force_host_platform_device_count"
# Thousands of small programs are compiled and run once: XLA is told to be quick about it, which
# halves its time. Who sets the level (`.ci/versions` does) has all of them optimized.
_LEVEL = "--xla_backend_optimization_level"
_QUICK = f"{_LEVEL}=0 --xla_cpu_use_fusion_emitters=false"
_flags = os.environ.get("XLA_FLAGS", "")
if _FLAG not in _flags:
    _flags += f" {_FLAG}={DEVICES}"
if _LEVEL not in _flags:
    _flags += f" {_QUICK}"
os.environ["XLA_FLAGS"] = _flags.strip()

# Not the tables of choices of who runs the tests: a folder that is not there.
os.environ["FLAX_SEPCONV_TUNED"] = str(pathlib.Path(__file__).with_name("no_tables"))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the collector of garbage what the imports left: it was a tenth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
