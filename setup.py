"""Calls CMake, which owns sources and flags; everything else is said in pyproject.toml.

Environment: PYENGINE_CUDA=auto|on|off (auto: when nvcc is there), PYENGINE_SANITIZE=address,...,
CMAKE_ARGS (further arguments of the configure step).
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configures, builds and installs pyengine/_core (and pyengine/_cuda) with CMake and ninja."""

    def run(self) -> None:
        import pybind11

        cmake = shutil.which("cmake")
        ninja = shutil.which("ninja")
        if cmake is None or ninja is None:
            raise RuntimeError("building pyengine needs cmake and ninja (pip install cmake ninja)")
        sanitize = os.environ.get("PYENGINE_SANITIZE", "")
        tag = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
        name = f"cmake-{tag}" + (f"-{sanitize.replace(',', '-')}" if sanitize else "")
        build = ROOT / "build" / name
        in_place = self.inplace or getattr(self, "editable_mode", False)
        prefix = ROOT if in_place else Path(self.build_lib).resolve()
        configure = [
            cmake,
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPYENGINE_CUDA={os.environ.get('PYENGINE_CUDA', 'auto')}",
            f"-DPYENGINE_SANITIZE={sanitize}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        for old in prefix.glob("pyengine/_c[ou]*.so"):
            old.unlink()  # else a _cuda that this build leaves out would stay
        compile_, install = [cmake, "--build", str(build)], [cmake, "--install", str(build)]
        if not (sanitize or self.debug):  # sanitizers' reports and debuggers need the symbols
            install.append("--strip")
        for command in (configure, compile_, install):
            print("+", shlex.join(command), flush=True)
            subprocess.run(command, check=True)


setup(
    # Namespace packages too: the folders of assets, which setuptools would otherwise warn about.
    packages=[*find_namespace_packages(include=["pyengine", "pyengine.*"]), "pyengine.kernels"],
    package_dir={"pyengine": "pyengine", "pyengine.kernels": "kernels"},
    include_package_data=False,  # of what MANIFEST.in names, only this is installed:
    package_data={
        "pyengine": ["py.typed"],
        "pyengine.assets": ["**/*"],
        "pyengine.serving.page": ["static/*"],
    },
    ext_modules=[Extension("pyengine._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
