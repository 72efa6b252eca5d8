"""What a measurement was made on: date, versions, processor, load."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

BUSY = 0.5
CPUINFO = pathlib.Path("/proc/cpuinfo")


def facts(*packages: str) -> dict[str, Any]:
    """Tell the date, the versions of Python and of the packages, the processor and its load."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "processor": processor(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": load_average(),
    }


def version(package: str) -> str:
    """Return the version of an installed package, under whichever name it is distributed.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(f"{package}-cpu")


class Packaged(Protocol):
    """What needs packages to be installed."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The names of their distributions."""


def present(named: Mapping[str, Packaged]) -> tuple[list[str], dict[str, str]]:
    """Tell those whose packages are installed from the others, and what the others lack."""
    absent = {}
    for name, what in named.items():
        for package in what.packages:
            try:
                version(package)
            except importlib.metadata.PackageNotFoundError:
                absent[name] = f"{package} is not installed"
    return [name for name in named if name not in absent], absent


def load_average() -> list[float]:
    """Return how many programs ran or waited, over the last 1, 5 and 15 minutes."""
    return [round(load, 2) for load in os.getloadavg()]


def busy() -> str | None:
    """Say so where others use the machine: times will be too long, PyTorch's most of all."""
    load = load_average()[0]
    if load <= BUSY:
        return None
    return f"others are using this machine (load average {load}): the times are not to be trusted"


def processor() -> str:
    """Name the processor, with the vector extensions where the system lists them."""
    if not CPUINFO.exists():
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in CPUINFO.read_text().splitlines())
    lines = {name.strip(): value.strip() for name, _, value in pairs}
    extensions = {"avx2", "avx_vnni", "avx512f", "avx512_bf16", "avx512_vnni", "asimd"} & set(
        lines.get("flags", lines.get("Features", "")).split()
    )
    return " ".join([lines.get("model name", platform.machine()), *sorted(extensions)])


@contextlib.contextmanager
def kept(path: pathlib.Path, record: dict[str, Any], count: int) -> Iterator[None]:
    """Write at the end what rows the record has got of so many, though nobody planned that end."""
    try:
        yield
    finally:
        if record["rows"]:
            record["load_average_after"] = load_average()
            record["complete"] = len(record["rows"]) == count
            write(path, record)


def write(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Write the results, and say where."""
    save(path, record)
    print(f"written to {path}")


def save(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Write the results: all, or, where that fails, what was there before."""
    half = path.with_name(path.name + ".part")
    half.write_text(json.dumps(record, indent=1) + "\n")
    half.replace(path)
