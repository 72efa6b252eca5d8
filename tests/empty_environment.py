"""Run by `make wheel` where nothing but the wheel and its dependencies is installed.

The argument says whether the wheel was built where there is a C++ compiler: "with" or "without".
"""

import importlib.util
import pathlib
import sys


def main(compiler: str) -> None:
    import jax
    import jax.numpy as jnp

    import flax_sepconv as fsc

    assert "site-packages" in fsc.__file__
    assert (pathlib.Path(fsc.__file__).parent / "py.typed").exists()
    for name in ("tensorflow", "keras", "torch", "aeon", "grain", "matplotlib", "pytest"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed"
    layer = fsc.SeparableConv1D(5, 4, padding="same", depthwise_constraint="max_norm")
    x = jnp.ones((2, 11, 3))
    assert layer.apply(layer.init(jax.random.key(0), x), x).shape == (2, 11, 5)
    selected = fsc.ops.select_implementation((2, 11, 3), (4, 3, 1), platform="cpu")
    assert selected.name == {"with": "native", "without": "shifted_sum"}[compiler], selected
    assert (compiler == "without") == ("it was not built" in selected.reason), selected
    print(f"flax_sepconv from the wheel runs on jax {jax.__version__}: {selected.name}")


if __name__ == "__main__":
    main(sys.argv[1])
