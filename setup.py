"""What pyproject.toml cannot say of the build: the native kernels, and the experiments' configs.

The kernels are compiled against the headers of the oldest jaxlib that is supported, which later
ones take too. `optional` lets an installation succeed without them (no compiler, no vector
extensions): the package then says so and uses XLA alone.
"""

import pathlib
import sys

import jaxlib
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import LinkError

NATIVE = pathlib.Path("flax_sepconv", "ops", "native")
HEADERS = pathlib.Path(jaxlib.__file__).parent / "include"
COMPILE = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi", f"-isystem{HEADERS}"]
LINK = []
STATIC = "-static-libstdc++"
if sys.platform == "linux":
    # The compiler's C++ library goes into ours, as far as it is used: the user's may be older.
    COMPILE += ["-ffunction-sections", "-fdata-sections"]
    LINK += [STATIC, "-Wl,--gc-sections"]
    LINK += [f"-Wl,--version-script={NATIVE / 'exports.map'}"]


class BuildLibrary(build_ext):
    """Build a plain shared library: it has no Python in it, and serves every version."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return a name without a Python version."""
        suffix = ".dll" if sys.platform == "win32" else ".so"
        return str(pathlib.Path(*fullname.split("."))) + suffix

    def build_extension(self, ext: Extension) -> None:
        """Link the C++ library in; where there is none for that, as on some systems, load it."""
        try:
            super().build_extension(ext)
        except LinkError:
            if STATIC not in ext.extra_link_args:
                raise
            ext.extra_link_args.remove(STATIC)
            super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Export no PyInit function: there is none."""
        return ext.export_symbols


class TagWheel(bdist_wheel):
    """Name the wheel by what it needs: a platform, and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, its binary interface, and the platform."""
        return "py3", "none", super().get_tag()[2]


class BuildWithConfigs(build_py):
    """Put the configs, which lie beside the package, into it."""

    def run(self) -> None:
        """Copy the modules, and the configs where no one edits them in place."""
        super().run()
        if self.editable_mode:
            return
        target = pathlib.Path(self.build_lib, "flax_sepconv", "configs")
        self.mkpath(str(target))
        for config in sorted(pathlib.Path("configs").glob("*.py")):
            self.copy_file(str(config), str(target / config.name))


setup(
    ext_modules=[
        Extension(
            "flax_sepconv.ops.native.libsepconv",
            sources=[str(path) for path in sorted(NATIVE.glob("*.cc"))],
            depends=[str(path) for path in sorted((*NATIVE.glob("*.h"), *NATIVE.glob("*.map")))],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "build_py": BuildWithConfigs, "bdist_wheel": TagWheel},
)
