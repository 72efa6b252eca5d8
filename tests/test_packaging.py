"""What the files that build, install and try the project say of versions agrees."""

import pathlib
import re
import tomllib

import flax_sepconv

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSIONS = (ROOT / ".ci" / "versions").read_text()


def floors():
    """Return the oldest supported versions by package."""
    return dict(each.split(">=") for each in PYPROJECT["project"]["dependencies"])


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
    prefix = "Programming Language :: Python :: 3."
    named = [each for each in PYPROJECT["project"]["classifiers"] if each.startswith(prefix)]
    first, *others = (each.rpartition(" ")[2] for each in named)
    assert PYPROJECT["project"]["requires-python"] == f">={first}"
    tried = re.search(r"^ALL=\((.*)\)$", VERSIONS, re.MULTILINE)[1].split()
    assert set(tried) == {f"{first}-floor"} | {
        f"{each}-{kind}" for each in others for kind in ("pins", "newest")
    }


def test_what_is_tried_with_other_versions_is_there():
    core = re.search(r"^CORE=\((.*?)\)$", VERSIONS, re.MULTILINE | re.DOTALL)[1].split()
    files = (ROOT / "tests" / f"{name.replace('/', '/test_')}.py" for name in core)
    assert all(file.exists() for file in files)


def test_examples_are_in_the_source_archive_alone():
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["flax_sepconv*"]
    assert "recursive-include examples *.py\n" in (ROOT / "MANIFEST.in").read_text()


def test_the_version_has_the_form_that_installers_compare():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", flax_sepconv.__version__)


def test_shipped_tables_of_choices_are_in_the_wheel():
    from flax_sepconv.ops.choices import reading

    (pattern,) = PYPROJECT["tool"]["setuptools"]["package-data"]["flax_sepconv.ops.choices"]
    folder = ROOT / "flax_sepconv" / "ops" / "choices"
    assert folder / "tables" == reading.SHIPPED
    assert set(folder.glob(pattern)) == set(reading.SHIPPED.iterdir()) != set()
