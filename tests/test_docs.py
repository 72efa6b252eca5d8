"""The pages in docs/ run: docs/export.md in test_interop_export.py, the others here."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests import peers

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_migration(tmp_path):
    """All blocks in order, in a process of its own: they import TensorFlow, Keras and PyTorch."""
    for library in (peers.tf, peers.keras, peers.torch):
        library()
    text = (DOCS / "migration.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert sum("assert same(" in block for block in blocks) == 7
    (tmp_path / "page.py").write_text("\n\n".join(blocks))
    ours = {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "jax", "PYTHONPATH": str(DOCS.parent)}
    ran = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=os.environ | ours,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_scaling(tmp_path):
    """All blocks in order, in a process of its own: they set how many devices there are."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "scaling.md").read_text(), re.DOTALL)
    assert len(blocks) == 7
    (tmp_path / "page.py").write_text("\n\n".join(blocks))
    ran = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(DOCS.parent), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_tuning(tmp_path):
    """All blocks in order, in a process of its own, with none but the package's tables."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "tuning.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "page.py").write_text("\n\n".join(blocks))
    ours = {"PYTHONPATH": str(DOCS.parent), "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path,
        env=os.environ | ours | {"FLAX_SEPCONV_TUNED": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_commands_of_the_pages_are_there():
    """What `python -m flax_sepconv` is shown with exists."""
    from flax_sepconv.__main__ import main

    for page in DOCS.glob("*.md"):
        for command in re.findall(
            r"^    python -m flax_sepconv (\w+)", page.read_text(), re.MULTILINE
        ):
            with pytest.raises(SystemExit, match="0"):
                main([command, "--help"])


def test_links_of_the_pages_lead_somewhere():
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
