"""Who may import whom, and what an import of the package brings with it."""

import ast
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "flax_sepconv"
KERAS_NAMED = {"activations", "constraints", "initializers", "regularizers"}

ALLOWED = {
    "geometry": set(),
    "registry": set(),
    "sharding": set(),
    "partitioning": {"sharding"},
    "native": set(),
    "triton": {"geometry", "triton"},
    "mosaic": {"geometry", "mosaic"},
    "lowerings": {
        "geometry",
        "lowerings",
        "mosaic",
        "native",
        "partitioning",
        "sharding",
        "triton",
        "__init__",
    },
    "selection": {"geometry", "lowerings"},
    "exporting": {"lowerings"},
    "primitives": set(),
    "depthwise": {"exporting", "geometry", "lowerings", "primitives", "selection", "sharding"},
    "composition": {"depthwise", "geometry", "sharding"},
    "separable": {
        "composition",
        "depthwise",
        "exporting",
        "geometry",
        "lowerings",
        "primitives",
        "selection",
        "sharding",
    },
    "tails": {"depthwise", "lowerings", "primitives", "sharding"},
    "ragged": {"geometry", "primitives", "tails"},
    "sequences": {
        "depthwise",
        "geometry",
        "lowerings",
        "primitives",
        "ragged",
        "separable",
        "sharding",
        "tails",
    },
    "segments": {"geometry", "ragged"},
    "streaming": {"sharding", "tails"},
    "resolving": {"geometry", "lowerings", "ragged", "streaming", "tails"},
    "ops": {
        "composition",
        "depthwise",
        "geometry",
        "lowerings",
        "ragged",
        "resolving",
        "segments",
        "selection",
        "separable",
        "sequences",
        "streaming",
        "tails",
    },
    "stft": {"registry"},
    **{name: {"registry", "stft"} for name in KERAS_NAMED},
    "params": {"geometry", "ops", "resolving", *KERAS_NAMED},
    "keras_config": {"params", "registry", *KERAS_NAMED},
    "linen": {"constraints", "keras_config", "ops", "params", "resolving"},
    "nnx": {"constraints", "keras_config", "ops", "params", "resolving"},
    "interop": {
        "activations",
        "exporting",
        "geometry",
        "interop",
        "keras_config",
        "linen",
        "lowerings",
        "params",
        "__init__",
    },
    "functional": {"linen", "params", "resolving"},
    "transforms": {"constraints"},
    "__main__": {"interop"},
    "__init__": {*KERAS_NAMED, "functional", "linen", "nnx", "ops", "transforms"},
}
FOREIGN = {
    "geometry": set(),
    "registry": set(),
    "sharding": {"jax"},
    "partitioning": {"jax"},
    "native": {"jax", "jaxlib"},
    "triton": {"jax", "numpy"},
    "mosaic": {"jax"},
    "lowerings": {"jax", "numpy"},
    "selection": {"jax"},
    "exporting": set(),
    "primitives": {"jax"},
    "depthwise": {"jax"},
    "composition": {"jax"},
    "separable": {"jax"},
    "tails": {"jax"},
    "ragged": {"jax", "numpy"},
    "segments": {"jax"},
    "sequences": {"jax"},
    "streaming": {"flax", "jax", "numpy"},
    "resolving": {"jax"},
    "ops": {"jax"},
    "stft": {"jax", "numpy", "scipy"},
    **{name: {"jax", "numpy"} for name in KERAS_NAMED},
    "keras_config": {"jax"},
    "params": {"jax"},
    "linen": {"jax", "flax"},
    "nnx": {"jax", "flax"},
    "interop": {
        "google",
        "google_crc32c",
        "h5py",
        "jax",
        "ml_dtypes",
        "numpy",
        "safetensors",
        "torch",
    },
    "functional": {"jax", "flax"},
    "transforms": {"jax", "optax"},
    "__main__": set(),
    "__init__": set(),
}


def imports(path):
    """Return the rooms of ours and the foreign packages that a file imports."""
    ours, foreign = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            if top == "flax_sepconv":
                ours.add(rest[0] if rest else "__init__")
            elif top not in sys.stdlib_module_names:
                foreign.add(top)
    return ours, foreign


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room(path) != "training"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    ours, foreign = imports(path)
    assert ours <= ALLOWED[room(path)]
    assert foreign <= FOREIGN[room(path)]


def test_lowerings_do_not_import_each_other():
    for path in (PACKAGE / "lowerings").glob("*.py"):
        if path.name != "__init__.py":
            assert "lowerings" not in imports(path)[0]


def test_nothing_imports_training():
    for path in FILES:
        assert "training" not in imports(path)[0]


def test_oracle_shares_no_code_with_the_package():
    assert imports(ROOT / "tests" / "oracle.py") == (set(), {"numpy"})


def test_import_brings_only_the_core():
    """TensorFlow, Keras, PyTorch and what training needs stay out, though they are installed."""
    program = """
        import sys
        import flax
        before = {name.split(".")[0] for name in sys.modules}
        import flax_sepconv
        after = {name.split(".")[0] for name in sys.modules}
        import flax_sepconv.interop
        after |= {name.split(".")[0] for name in sys.modules}
        heavy = (
            "tensorflow keras tf_keras torch h5py safetensors google_crc32c aeon orbax grain "
            "matplotlib tqdm pandas sklearn"
        )
        found = [name for name in heavy.split() if name in after - before]
        assert not found, found
        assert "flax_sepconv.training" not in sys.modules
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=environment)


def test_no_file_is_too_long_to_read():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 450
    }
    assert not long
