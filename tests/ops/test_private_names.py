"""Private names of JAX and Flax: where they are used, and which release took one away."""

import functools
import importlib
import importlib.metadata
import pathlib
import re

import pytest

import flax_sepconv

PACKAGE = pathlib.Path(flax_sepconv.__file__).parent
NAMES = [
    ("jax", "jax._src.checkify", "assert_func"),
    ("jax", "jax._src.checkify", "FailedCheckError"),
    ("jax", "jax._src.checkify", "error_checks"),
    ("jax", "jax._src.checkify", "get_traceback"),
    ("jax", "jax._src.checkify", "nan_error_check"),
    ("jax", "jax._src.dispatch", "prim_requires_devices_during_lowering"),
    ("jaxlib", "jaxlib.xla_client", "_xla.register_custom_call_target"),
    ("jaxlib", "jaxlib.xla_client", "CustomCallTargetTraits.DEFAULT"),
    ("flax", "flax.linen.module", "_context.module_stack"),
    ("flax", "flax.linen.module", "_ModuleInternalState"),
]


@pytest.mark.parametrize(("library", "module", "name"), NAMES)
def test_is_still_there(library, module, name):
    version = importlib.metadata.version(library)
    try:
        functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (AttributeError, ImportError):
        pytest.fail(f"{library} {version} has no {module}.{name} any more")


def test_flax_tells_a_module_its_children_and_whether_it_is_compact():
    from flax.linen.module import _ModuleInternalState

    state = _ModuleInternalState()
    version = importlib.metadata.version("flax")
    for name in ("children", "in_compact_method"):
        assert hasattr(state, name), f"flax {version}: the state of a module has no {name}"


def test_two_files_use_them():
    private = re.compile(r"\b(?:jax|flax)\._\w+|\b(?:nn|parent|scope|nn\.module)\._\w+|\"_xla\"")
    using = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if private.search(path.read_text())
    }
    assert using == {"functional.py", "ops/primitives.py"}
