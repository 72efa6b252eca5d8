"""What the files that build, install, try and tell of the project say of versions agrees."""

import datetime
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import flax_sepconv

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSIONS = (ROOT / ".ci" / "versions").read_text()


def floors():
    """Return the oldest supported versions by package."""
    return dict(each.split(">=") for each in PYPROJECT["project"]["dependencies"])


def pythons():
    prefix = "Programming Language :: Python :: "
    named = (each.removeprefix(prefix) for each in PYPROJECT["project"]["classifiers"])
    return [each for each in named if re.fullmatch(r"3\.\d+", each)]


def test_the_library_is_built_for_the_oldest_jaxlib():
    """One built for a newer one is refused by XLA: see `flax_sepconv.ops.native.library`."""
    pins = [each for each in PYPROJECT["build-system"]["requires"] if each.startswith("jaxlib==")]
    assert len(pins) == 1
    assert pins[0].split(";")[0] == f"jaxlib=={floors()['jaxlib']}"


def test_the_oldest_packages_are_tried():
    tried = re.search(r"^FLOOR=\((.*)\)$", VERSIONS, re.MULTILINE)[1].split()
    assert dict(each.split("==") for each in tried) == floors()


def test_every_python_is_tried():
    """The first one by the whole suite."""
    first, *others = pythons()
    assert PYPROJECT["project"]["requires-python"] == f">={first}"
    tried = re.search(r"^ALL=\((.*)\)$", VERSIONS, re.MULTILINE)[1].split()
    assert set(tried) == {f"{first}-floor"} | {
        f"{each}-{kind}" for each in others for kind in ("pins", "newest")
    }


def test_what_is_tried_with_other_versions_is_there():
    core = re.search(r"^CORE=\((.*?)\)$", VERSIONS, re.MULTILINE | re.DOTALL)[1].split()
    files = (ROOT / "tests" / f"{name.replace('/', '/test_')}.py" for name in core)
    assert all(file.exists() for file in files)


def test_the_workflow_tries_every_python():
    """On systems that have make all in one job, on Windows one by one."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    together = re.findall(r"python-version: \|\n((?: +3\.\d+\n)+)", workflow)
    assert [sorted(each.split()) for each in together] == [pythons(), pythons()]
    assert re.findall(r"python: \[(.*)\]", workflow) == [", ".join(f'"{p}"' for p in pythons())]


def test_the_workflow_pins_what_it_uses():
    used = re.findall(r"uses: (.*)", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", each) for each in used)


def test_the_workflow_names_tests_that_are_there():
    named = re.findall(r"tests/\S+\.py", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert len(named) > 5
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize(
    ("told", "found"), [("3.99 /there/python", "/there/python"), ("3.98 /x", "")]
)
def test_an_interpreter_counts_where_it_has_the_version(tmp_path, told, found):
    """The shims of pyenv have names of versions that they do not run."""
    shim = tmp_path / "python3.99"
    shim.write_text(f"#!/bin/sh\necho {told}\n")
    shim.chmod(0o755)
    ran = subprocess.run(
        [sys.executable, ROOT / ".ci" / "interpreters.py", "3.99"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYENV_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == found


def test_examples_are_in_the_source_archive_alone():
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["flax_sepconv*"]
    assert "graft examples\n" in (ROOT / "MANIFEST.in").read_text()


def releases():
    """Return the headings of the changelog and what stands below them."""
    _, *parts = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    return [part.partition("\n")[::2] for part in parts]


def test_the_changelog_and_the_citation_name_the_version():
    version, date = releases()[0][0].split(" - ")
    assert version == flax_sepconv.__version__
    cited = dict(re.findall(r'^([\w-]+): "?(.+?)"?$', (ROOT / "CITATION.cff").read_text(), re.M))
    assert (cited["version"], cited["date-released"]) == (version, date)
    assert cited["license"] == PYPROJECT["project"]["license"]


def test_the_citation_names_the_authors_of_the_package():
    (author,) = PYPROJECT["project"]["authors"]
    assert f"authors:\n  - name: {author['name']}\n" in (ROOT / "CITATION.cff").read_text()


def test_security_is_told_of_the_newest_version():
    minor = flax_sepconv.__version__.rpartition(".")[0]
    assert f"The newest version, {minor}, gets corrections." in (ROOT / "SECURITY.md").read_text()


def test_the_changelog_has_the_form_that_it_names():
    """Newest first, each with its day, under the headings of "Keep a Changelog"."""
    headings = [heading.split(" - ") for heading, _ in releases()]
    numbers = [tuple(map(int, version.split("."))) for version, _ in headings]
    days = [datetime.date.fromisoformat(day) for _, day in headings]
    assert numbers == sorted(set(numbers), reverse=True)
    assert days == sorted(days, reverse=True)
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for heading, text in releases():
        parts = re.findall(r"^### (.*)$", text, re.MULTILINE)
        assert set(parts) <= known, heading
        assert len(set(parts)) == len(parts) > 0, heading


def test_the_version_has_the_form_that_installers_compare():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", flax_sepconv.__version__)


def test_shipped_tables_of_choices_are_in_the_wheel():
    from flax_sepconv.ops.choices import reading

    (pattern,) = PYPROJECT["tool"]["setuptools"]["package-data"]["flax_sepconv.ops.choices"]
    folder = ROOT / "flax_sepconv" / "ops" / "choices"
    assert folder / "tables" == reading.SHIPPED
    assert set(folder.glob(pattern)) == set(reading.SHIPPED.iterdir()) != set()
