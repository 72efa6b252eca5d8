"""The pages in docs/ run: those with >>> as doctests, three guides here, others in interop/.

Tables on them are made of the benchmarks' JSON.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from docs.hooks import tables
from tests import peers

ROOT = pathlib.Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_migration(tmp_path):
    """All blocks in order, in a process of its own: they import TensorFlow, Keras and PyTorch."""
    peers.skip_without("tensorflow", "tf_keras", "keras", "torch")
    text = (GUIDES / "migration.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert sum("assert same(" in block for block in blocks) == 7
    (tmp_path / "page.py").write_text("\n\n".join(blocks))
    ours = {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
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
    blocks = re.findall(r"```python\n(.*?)```", (GUIDES / "scaling.md").read_text(), re.DOTALL)
    assert len(blocks) == 7
    (tmp_path / "page.py").write_text("\n\n".join(blocks))
    ran = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_tuning(tmp_path):
    """All blocks in order, in a process of its own, with none but the package's tables."""
    blocks = re.findall(r"```python\n(.*?)```", (GUIDES / "tuning.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    # Nobody reads the times.
    quick = "from flax_sepconv.ops.tuning import timing\n\ntiming.VISIT_SECONDS = 1e-4"
    (tmp_path / "page.py").write_text("\n\n".join([quick, *blocks]))
    ours = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
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

    shown = {
        command
        for page in PAGES
        for command in re.findall(
            r"(?:python -m flax_sepconv|flax-sepconv) ([a-z][\w-]+)", page.read_text()
        )
    }
    assert shown >= {"convert", "inspect", "tune"}
    for command in shown:
        try:
            status = main([command, "--help"])
        except SystemExit as end:
            status = end.code
        assert status == 0, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_pages_lead_somewhere(page):
    """In the sources; `make docs` checks those of the site, and the places in pages."""
    made = {"changelog.md", "contributing.md", "benchmarks/forms.md", "benchmarks/accuracy.md"}
    for target in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
        there = (page.parent / target).resolve()
        assert there.exists() or str(there.relative_to(ROOT / "docs")) in made, target


def record(name):
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())


def test_tables_have_a_row_for_each_layer():
    for table, file in ((tables.layers, "layers_cpu"), (tables.sweep_rows, "sweep_cpu")):
        rows = table().split("\n\n")[0].splitlines()
        assert len(rows) == 2 + len(record(file)["rows"])
        assert len({row.count("|") for row in rows}) == 1


def test_tables_say_what_the_runs_came_to():
    """The summaries of the runs were computed by the benchmarks, from the same rows."""
    summary = record("sweep_cpu")["summary"]
    text = tables.sweep_means()
    for name in ("float32 forward", "float32 forward_backward", "bfloat16 forward_backward"):
        its = summary[name]
        mean, least = (tables.show(each) for each in (its["lead"], its["least_lead"]["lead"]))
        assert f"{mean}x, behind at {its['behind']} of {its['timed']}; least {least} (" in text
    for program in ("forward", "forward_backward"):
        assert f"{tables.show(summary[f'float32 {program}']['possible_lead'])}x" in text
        assert tables.show(summary[f"bfloat16 {program}"]["over_float32"]) + "," in text
    networks = record("networks_cpu")["rows"]
    for row in networks:
        assert f"**{tables.show(row['versions']['ours']['milliseconds'])}**" in tables.networks()


def test_every_table_is_on_a_page():
    marks = re.compile(r"^<!-- table: (\S+) -->$", re.MULTILINE)
    named = {name for page in PAGES for name in marks.findall(page.read_text())}
    assert named == set(tables.TABLES)
