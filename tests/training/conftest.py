"""What several modules of these tests share."""

import gc

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.training_runs import make_run


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Compiling is most of what runs cost, and those of a module compile the same."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a causal run, not to be changed."""
    workdir = tmp_path_factory.mktemp("causal") / "run"
    make_run(workdir)
    return workdir


@pytest.fixture(scope="module", autouse=True)
def own_garbage():
    """Collect what the runs of a module leave under its filters of warnings, not the next one's."""
    yield
    gc.collect()
