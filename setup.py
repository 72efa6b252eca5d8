"""The native kernels: the one part of the build that pyproject.toml cannot say.

They are compiled against the headers that jaxlib carries. `optional` lets an installation succeed
without them (no compiler, no vector extensions): the package then says so and uses XLA alone.
"""

import pathlib
import sys

import jaxlib
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = pathlib.Path("flax_sepconv", "native")
HEADERS = pathlib.Path(jaxlib.__file__).parent / "include"
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi", f"-isystem{HEADERS}"]


class BuildLibrary(build_ext):
    """Build a plain shared library: it has no Python in it, and serves every version."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return a name without a Python version."""
        suffix = ".dll" if sys.platform == "win32" else ".so"
        return str(pathlib.Path(*fullname.split("."))) + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Export no PyInit function: there is none."""
        return ext.export_symbols


setup(
    ext_modules=[
        Extension(
            "flax_sepconv.native.libsepconv",
            sources=[str(path) for path in sorted(NATIVE.glob("*.cc"))],
            depends=[str(path) for path in sorted(NATIVE.glob("*.h"))],
            extra_compile_args=FLAGS,
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
)
