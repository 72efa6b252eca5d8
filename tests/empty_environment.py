"""Run by `make dist` where nothing but the wheel and its dependencies is installed.

The argument says whether the wheel was built where there is a C++ compiler: "with" or "without".
"""

import importlib.metadata
import importlib.util
import pathlib
import sys


def main(compiler: str) -> None:
    import jax
    import jax.numpy as jnp

    import flax_sepconv as fsc

    assert "site-packages" in fsc.__file__
    assert (pathlib.Path(fsc.__file__).parent / "py.typed").exists()
    assert fsc.__version__ == importlib.metadata.version("flax-sepconv")
    check_configs()
    for name in ("tensorflow", "keras", "torch", "aeon", "grain", "matplotlib", "pytest"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed"
    layer = fsc.SeparableConv1D(5, 4, padding="same", depthwise_constraint="max_norm")
    x = jnp.ones((2, 11, 3))
    assert layer.apply(layer.init(jax.random.key(0), x), x).shape == (2, 11, 5)
    selected = fsc.ops.select_implementation((2, 11, 3), (4, 3, 1), platform="cpu")
    assert selected.name == {"with": "native", "without": "shifted_sum"}[compiler], selected
    assert (compiler == "without") == ("it was not built" in selected.reason), selected
    check_tables()
    check_interop()
    print(f"flax_sepconv from the wheel runs on jax {jax.__version__}: {selected.name}")


def check_configs() -> None:
    """All configs come with the package, wherever one is."""
    from flax_sepconv.training import configs

    ours = pathlib.Path(__file__).parents[1] / "configs"
    assert set(configs.shipped()) == {file.stem for file in ours.glob("*.py")}
    assert all("site-packages" in str(file) for file in configs.shipped().values())


def check_tables() -> None:
    """The tables of choices come with the package, and are read."""
    import flax_sepconv as fsc

    given = (32, 4096, 512), (5, 512, 1)
    asked = {"platform": "tpu", "filters": 512, "dtype": "bfloat16", "device_kind": "TPU v4"}
    reason = fsc.ops.select_implementation(*given, contraction="gradients", **asked).reason
    assert "compiled, not run on TPU v4" in reason, reason


def check_interop() -> None:
    """What reads files imports, and says what to install."""
    import numpy as np

    from flax_sepconv import interop

    weights = {"depthwise_kernel": np.ones((3, 4, 1)), "pointwise_kernel": np.ones((1, 4, 5))}
    told = ""
    try:
        interop.save("weights.safetensors", [interop.Layer("conv", weights)])
    except interop.InteropError as error:
        told = str(error)
    assert "pip install 'flax-sepconv[interop]'" in told, told


if __name__ == "__main__":
    main(sys.argv[1])
