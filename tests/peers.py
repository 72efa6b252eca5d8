"""The foreign libraries that judge this one, imported on demand and without their warnings."""

import functools
import importlib
import os
import types
import warnings

import pytest

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


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


def _load_or_skip(name: str) -> types.ModuleType:
    module = _load(name)
    if module is None:
        pytest.skip(f"{name} is not installed: this comparison did NOT run")
    return module


def tf() -> types.ModuleType:
    """TensorFlow, with tf.keras = tf_keras."""
    return _load_or_skip("tensorflow")


def tf_keras() -> types.ModuleType:
    """Keras 2."""
    return _load_or_skip("tf_keras")


def keras() -> types.ModuleType:
    """Keras 3 on the JAX backend."""
    return _load_or_skip("keras")


def torch() -> types.ModuleType:
    """PyTorch."""
    return _load_or_skip("torch")
