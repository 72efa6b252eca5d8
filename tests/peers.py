"""The foreign libraries that judge this one, imported on demand and without their warnings."""

import functools
import importlib.util
import os
import sys
import types
import warnings

import pytest

# Read once, at import: whatever the shell says, the tests need these two.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@functools.cache
def _load(name: str) -> types.ModuleType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            return None


def skip_without(*names: str) -> None:
    """Skip a test that lacks a library, without importing those that are there."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: this comparison did NOT run")


def _load_or_skip(name: str) -> types.ModuleType:
    module = _load(name)
    if module is None:
        pytest.skip(f"{name} is not installed: this comparison did NOT run")
    return module


@functools.cache
def _keep_off_the_gpu(tensorflow: types.ModuleType) -> None:
    """Leave the GPU to JAX; an environment variable would hide it from both."""
    tensorflow.config.set_visible_devices([], "GPU")


def tf() -> types.ModuleType:
    """TensorFlow on the CPU, with tf.keras = tf_keras."""
    module = _load_or_skip("tensorflow")
    _keep_off_the_gpu(module)
    return module


def tf_keras() -> types.ModuleType:
    """Keras 2 on the CPU."""
    tf()
    return _load_or_skip("tf_keras")


def keras() -> types.ModuleType:
    """Keras 3 on the JAX backend."""
    module = _load_or_skip("keras")
    backend = module.backend.backend()
    assert backend == "jax", f"keras was imported with the backend {backend} before the tests"
    return module


def torch() -> types.ModuleType:
    """PyTorch, without the compiler in a build for CUDA: beside TensorFlow that crashes."""
    sys.modules.setdefault("triton", None)
    return _load_or_skip("torch")
