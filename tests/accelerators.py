"""Programs for accelerators, by their own compilers, where these are installed."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.aot.targets import TARGETS

ROOT = pathlib.Path(__file__).parents[1]


def printed(target, module, call, folder):
    """Call a function of a test module in a process that is set up for a target; what it prints.

    Args:
        target: a name of `TARGETS`; skipped where its compiler is not installed.
        module: the name of the module.
        call: of its function, which takes the target: "print_program".
        folder: for what the compiler writes.
    """
    for package in TARGETS[target].packages:
        try:
            importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
    finished = subprocess.run(
        [sys.executable, "-c", f"import {module} as t; t.{call}({target!r})"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **TARGETS[target].environment(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
