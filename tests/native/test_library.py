"""The native library: one that does not fit is left out with its reason, and JAX goes on."""

import _ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import pytest
from jaxlib import xla_client

import flax_sepconv
from flax_sepconv.ops import native
from flax_sepconv.ops.native import library
from flax_sepconv.ops.native.library import Version

PACKAGE = pathlib.Path(flax_sepconv.__file__).parent
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


def test_the_version_of_the_installed_jaxlib_is_known():
    assert library.installed_version() >= (0, 3)


def test_xla_can_be_asked_before_a_platform_starts():
    """Without this private name, libraries too old for XLA would be seen too late."""
    assert callable(xla_client._xla.register_custom_call_target)


@pytest.mark.parametrize(
    ("built", "installed", "fits"),
    [
        ((0, 3), (0, 3), True),
        ((0, 3), (0, 5), True),
        ((0, 5), (0, 3), False),
        ((1, 0), (0, 5), False),
        ((0, 5), (1, 0), False),
    ],
)
def test_a_library_for_an_older_or_the_same_version_fits(built, installed, fits):
    reason = library.misfit(Version(*built), Version(*installed))
    assert (reason is None) == fits
    if not fits:
        assert f"version {built[0]}.{built[1]} " in reason
        assert f"has {installed[0]}.{installed[1]}" in reason


@pytest.mark.parametrize("header", [None, "", "#define XLA_FFI_API_MAJOR 0\n", "\n\n#define X 1"])
def test_headers_that_do_not_tell_the_version(header, monkeypatch, tmp_path):
    path = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    if header is not None:
        path.parent.mkdir(parents=True)
        path.write_text(header)
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    assert library.installed_version() is None
    assert "headers" in library.misfit(Version(0, 3), None)


def test_what_is_no_such_library(tmp_path):
    assert "not built" in library.register(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("no library")
    assert "cannot be loaded" in library.register(tmp_path / "text.so")
    assert "cannot be loaded" in library.register(tmp_path)
    # A library, but another one.
    assert "cannot be loaded" in library.register(pathlib.Path(_ctypes.__file__))


@pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
def test_registration_can_be_repeated():
    """As `importlib.reload` does."""
    assert library.register() is None


@pytest.mark.skipif(native.ABSENCE is not None, reason=str(native.ABSENCE))
@pytest.mark.parametrize("name", ["baseline", "neon99", "amx_bf16"])
def test_the_environment_names_the_instruction_set(name):
    """In a process of its own: the choice is made once."""
    program = """
        import jax.numpy as jnp
        import flax_sepconv as fsc
        from flax_sepconv.ops.choices.devices import kind_of
        x, k, p = jnp.ones((2, 9, 3)), jnp.ones((3, 3, 1)), jnp.ones((1, 3, 2))
        y = fsc.ops.separable_conv1d(x, k, p, implementation="native")
        assert (y == 9).all(), y
        print(kind_of("cpu", None))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {library.VARIABLE: name, "JAX_PLATFORMS": "cpu"},
        cwd=PACKAGE.parent,
        text=True,
        capture_output=True,
        check=False,
    )
    # The one that is there only where it is named.
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    has_amx = cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()
    if name in library.instruction_sets() or (name == "amx_bf16" and has_amx):
        assert result.stdout == f"cpu-{name}\n", result.stderr
    else:
        assert result.returncode == 1
        assert f"got '{name}'" in result.stderr
        assert ", ".join(library.instruction_sets()) in result.stderr


def build(path, version, targets):
    """Build a library that has some of the handlers, compiled for a version of XLA's interface."""
    headers = path.parent / "include"
    shutil.copytree(jax.ffi.include_dir(), headers)
    header = headers / "xla" / "ffi" / "api" / "c_api.h"
    text = header.read_text()
    old = library.installed_version()
    for name, number, new in zip(("MAJOR", "MINOR"), old, version, strict=True):
        before = f"#define XLA_FFI_API_{name} {number}"
        assert before in text
        text = text.replace(before, f"#define XLA_FFI_API_{name} {new}")
    header.write_text(text)
    lines = [
        '#include "xla/ffi/api/ffi.h"',
        "namespace ffi = xla::ffi;",
        "ffi::Error Nothing() { return ffi::Error::Success(); }",
        'extern "C" const int sepconv_ffi_version[2];',
        f"const int sepconv_ffi_version[2] = {{{version[0]}, {version[1]}}};",
        *(
            f"XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_{t}, Nothing, ffi::Ffi::Bind());"
            for t in targets
        ),
    ]
    source = path.with_suffix(".cc")
    source.write_text("\n".join(lines))
    command = [COMPILER, "-std=c++17", "-shared", "-fPIC", "-isystem", headers, source, "-o", path]
    subprocess.run(command, check=True)


NEWER = (0, 99)
OLDER = (0, 0)
PRESENT = tuple(library.installed_version() or (0, 3))


@needs_compiler
@pytest.mark.parametrize(
    ("version", "targets", "reason"),
    [
        (NEWER, library.TARGETS, "built for version 0.99 of XLA's FFI"),
        # XLA's oldest is not known before it is asked.
        (OLDER, library.TARGETS, "Minimum supported API version"),
        (PRESENT, library.TARGETS[:-1], "cannot be loaded"),
    ],
    ids=["newer than XLA", "older than XLA takes", "without a handler"],
)
def test_jax_and_the_layer_work_beside_a_library_that_does_not_fit(
    tmp_path, version, targets, reason
):
    """In a process of its own: registration cannot be taken back."""
    shutil.copytree(PACKAGE, tmp_path / "flax_sepconv", ignore=shutil.ignore_patterns("*.so"))
    build(tmp_path / "flax_sepconv" / "ops" / "native" / library.PATH.name, version, targets)
    program = """
        import flax_sepconv as fsc
        import jax, jax.numpy as jnp
        assert jnp.ones(2).sum() == 2
        x, k, p = jnp.ones((2, 9, 3)), jnp.ones((3, 3, 1)), jnp.ones((1, 3, 2))
        y = fsc.ops.separable_conv1d(x, k, p)
        assert y.shape == (2, 7, 2) and (y == 9).all(), y
        lengths = jnp.array([9, 2])
        assert fsc.ops.separable_conv1d(x, k, p, lengths=lengths).sum() == 9 * 7 * 2
        print(fsc.ops.select_implementation((2, 9, 3), (3, 3, 1), platform="cpu"))
        try:
            fsc.ops.separable_conv1d(x, k, p, implementation="native")
        except NotImplementedError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    selected, named = result.stdout.splitlines()
    assert "name='shifted_sum'" in selected
    assert reason in selected
    assert "implementation='native' cannot run here" in named
    assert reason in named
