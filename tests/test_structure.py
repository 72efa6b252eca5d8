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

# From the ground up: a module imports from what stands before it, and what is in its own folder.
LAYERS = {
    "integers, and what JAX is asked": [
        "ops.geometry",
        "ops.paddings",
        "ops.names",
        "ops.primitives",
        "ops.sharding",
        "ops.context",
    ],
    "kernels": ["ops.partitioning", "ops.native", "ops.triton", "ops.mosaic"],
    "sequences in rows": [
        "ops.lengths",
        "ops.masking",
        "ops.limits",
        "ops.edges",
        "ops.permute",
        "ops.halo",
        "ops.contraction",
    ],
    "lowerings": [
        "ops.interception",
        "ops.lowerings",
        "ops.exporting",
        "ops.choices",
        "ops.selection",
    ],
    "the operation": [
        "ops.depthwise",
        "ops.joint",
        "ops.biased",
        "ops.reference",
        "ops.separable",
        "ops.stepping",
        "ops.trimming",
        "ops.divided",
        "ops.state",
        "ops.packed",
        "ops.call",
        "ops.arguments",
        "ops.api",
        "ops.chunks",
        "ops.quantized",
        "ops.queries",
        "ops.tuning",
        "ops",
    ],
    "Keras' objects": [
        "keras.registry",
        "keras.stft",
        "keras.constant",
        "activations",
        "keras.versions",
        "constraints",
        "initializers",
        "regularizers",
    ],
    "the layer": [
        "spec",
        "keras.config",
        "quantization",
        "linen_layer",
        "linen",
        "weights",
        "bridge",
        "nnx_layer",
        "nnx",
        "functional",
        "streams",
        "transforms",
    ],
    "around it": ["", "memory", "interop", "training", "__main__"],
}
ORDER = [name for layer in LAYERS.values() for name in layer]
CORE = {"jax", "jaxlib", "flax", "optax", "numpy"}
FOREIGN = {
    "keras.stft": {"scipy"},
    "interop": {
        "google",
        "google_crc32c",
        "h5py",
        "ml_dtypes",
        "qwix",
        "safetensors",
        "tensorflow",
        "torch",
    },
}


def imports(path):
    """Return the modules of ours and the foreign packages that a file imports."""
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
            top, _, rest = name.partition(".")
            if top == "flax_sepconv":
                ours.add(rest)
            elif top not in sys.stdlib_module_names:
                foreign.add(top)
    return ours, foreign


def place(module):
    """Return the entry of `ORDER` that a module, or something in one, belongs to."""
    parts = module.split(".")
    entries = (".".join(parts[:n]) for n in range(len(parts), -1, -1))
    return next(entry for entry in entries if entry in ORDER)


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = place(module_of(path)) if module_of(path) != "keras" else "keras.registry"
    ours, foreign = imports(path)
    if own != "training":
        before = ORDER[: ORDER.index(own) + 1]
        assert not {name for name in ours if place(name) not in before}
        assert foreign <= CORE | FOREIGN.get(own, set())


def test_lowerings_do_not_import_each_other():
    """But for the convolution, which sums by tap where it may not sum at once."""
    lowerings = "ops.lowerings."
    for path in (PACKAGE / "ops" / "lowerings").glob("*.py"):
        if path.name != "__init__.py":
            ours = {name.split(".")[2] for name in imports(path)[0] if name.startswith(lowerings)}
            allowed = {"shifted_sum"} if path.stem == "grouped_conv" else set()
            assert ours <= {"lowering"} | allowed


def test_nothing_imports_training():
    """But the command, where it is asked for the layers of a run."""
    for path in FILES:
        if not path.is_relative_to(PACKAGE / "training") and path.stem != "__main__":
            assert not any(name.startswith("training") for name in imports(path)[0])


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
        import flax_sepconv.ops.triton
        assert "jax.experimental.pallas.triton" not in sys.modules
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


def test_the_root_holds_the_layers_own_files():
    """The root of the package holds the layer's own files, and nothing else."""
    own = {"__init__", "__main__", "linen", "bridge", "nnx", "functional", "spec", "memory"}
    own |= {"linen_layer", "nnx_layer", "streams"}
    objects = {"activations", "constraints", "initializers", "regularizers"}
    assert {path.stem for path in PACKAGE.glob("*.py")} == own | objects | {"transforms", "weights"}
