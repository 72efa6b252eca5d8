"""The library of native kernels: does it fit the installed jaxlib, and how XLA gets to know it.

XLA looks at a handler's version when it starts a platform, and does not start it where one does not
fit: JAX would be left without a CPU. So a library is looked at before any of it is registered, and
one that does not fit is left out, with the reason.
"""

import ctypes
import functools
import os
import pathlib
import re
import sys
from typing import NamedTuple

import jax
import jaxlib.version

from flax_sepconv.ops.primitives import refusal

PATH = pathlib.Path(__file__).with_name(
    "libsepconv.dll" if sys.platform == "win32" else "libsepconv.so"
)
# Names of handlers in the library and, with the package's name before them, among XLA's targets.
TARGETS = (
    "output",
    "input_gradient",
    "kernel_gradient",
    "separable_output",
    "separable_step",
    "separable_gradients",
    "zero_tails",
    "output_with_bias",
    "quantized_separable",
    "quantized_depthwise",
)
# Names the instruction set that the kernels run with; empty, or not set: the fastest. Kernels that
# have none of the name, as those for integers and those for floats may, run with their fastest.
VARIABLE = "FLAX_SEPCONV_INSTRUCTION_SET"


class Version(NamedTuple):
    """Of XLA's interface for such libraries (its "FFI")."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def register(path: pathlib.Path = PATH) -> str | None:
    """Make the library's handlers known to XLA: all of them, or none.

    Returns:
        None, or what keeps the library from being used.

    Raises:
        ValueError: `FLAX_SEPCONV_INSTRUCTION_SET` names none that the kernels have here.
    """
    if not path.exists():
        return "it was not built when flax_sepconv was installed (that takes a C++17 compiler)"
    try:
        library = ctypes.CDLL(str(path))
        built = Version(*(ctypes.c_int * 2).in_dll(library, "sepconv_ffi_version"))
        handlers = {name: getattr(library, f"sepconv_{name}") for name in TARGETS}
    except (OSError, ValueError, AttributeError) as error:
        return f"its library cannot be loaded: {error}"
    every = dict.fromkeys(instruction_sets(path) + quantized_instruction_sets(path))
    check_setting(os.environ.get(VARIABLE), tuple(every))
    known = {name: jax.ffi.pycapsule(handler) for name, handler in handlers.items()}
    if reason := misfit(built, installed_version()) or refusal(list(known.values())):
        return f"its library does not fit jaxlib {jaxlib.version.__version__}: {reason}"
    for name, capsule in known.items():
        jax.ffi.register_ffi_target(f"flax_sepconv_{name}", capsule, platform="cpu")
    return None


@functools.cache
def instruction_set(path: pathlib.Path = PATH) -> str | None:
    """Return the name of the instruction set that the kernels run with ("avx512"), if any do."""
    return _told(path, "instruction_set")


@functools.cache
def instruction_sets(path: pathlib.Path = PATH) -> tuple[str, ...]:
    """Return the names of those that the kernels have for this processor, the fastest first."""
    names = _told(path, "instruction_sets")
    return tuple(names.split(",")) if names else ()


@functools.cache
def quantized_instruction_set(path: pathlib.Path = PATH) -> str | None:
    """Return the name of that of the kernels for integers ("avx512_vnni"), if any run."""
    return _told(path, "quantized_instruction_set")


@functools.cache
def quantized_instruction_sets(path: pathlib.Path = PATH) -> tuple[str, ...]:
    """Return the names of those that the kernels for integers have here, the fastest first."""
    names = _told(path, "quantized_instruction_sets")
    return tuple(names.split(",")) if names else ()


def check_setting(name: str | None, known: tuple[str, ...]) -> None:
    """Check what the variable names.

    Raises:
        ValueError: it is none that the kernels have here.

    Example:
        >>> check_setting("avx2", ("avx512", "avx2", "baseline"))
        >>> check_setting("", ("baseline",))
        >>> check_setting("sse4", ("avx2", "baseline"))
        Traceback (most recent call last):
        ...
        ValueError: FLAX_SEPCONV_INSTRUCTION_SET must be one that the native kernels have for this \
processor (avx2, baseline), or empty; got 'sse4'
    """
    if name and name not in known:
        raise ValueError(
            f"{VARIABLE} must be one that the native kernels have for this processor "
            f"({', '.join(known)}), or empty; got {name!r}"
        )


def _told(path: pathlib.Path, name: str) -> str | None:
    try:
        tell = getattr(ctypes.CDLL(str(path)), f"sepconv_{name}")
    except (OSError, AttributeError):
        return None
    tell.restype = ctypes.c_char_p
    text: bytes = tell()
    return text.decode()


def installed_version() -> Version | None:
    """Read the version of the installed jaxlib's interface from the headers that it carries."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    try:
        text = header.read_text(encoding="utf-8")
    except OSError:
        return None
    numbers = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text))
    if len(numbers) < 2:
        return None
    return Version(int(numbers["MAJOR"]), int(numbers["MINOR"]))


def misfit(built: Version, installed: Version | None) -> str | None:
    """Say why a library does not fit: XLA takes what was built for its own version or before.

    Example:
        >>> misfit(Version(0, 3), Version(0, 5))
        >>> misfit(Version(0, 5), Version(0, 3))
        "it was built for version 0.5 of XLA's FFI and this one has 0.3: build it again"
    """
    if installed is None:
        return "the headers that tell the version of XLA's FFI are not there"
    if built.major == installed.major and built.minor <= installed.minor:
        return None
    return (
        f"it was built for version {built} of XLA's FFI and this one has {installed}: "
        "build it again"
    )
