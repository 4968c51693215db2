"""What the project says of itself, and what its archives hold."""

import hashlib
import shutil
import struct
import subprocess
import sys
import tarfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from pyengine.ops._core import core
from pyengine.pipelines.loading import NAMED

ROOT = Path(__file__).resolve().parent.parent
#: Of https://www.apache.org/licenses/LICENSE-2.0.txt.
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_licence_is_apaches_text():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_every_model_that_ships_has_its_notice():
    """The project's says where they are, and their own say what they have seen."""
    assert "in the folders of pyengine/assets" in (ROOT / "NOTICE").read_text()
    assert {"emoji", "emoji-ar"} <= set(NAMED)
    for folder in (ROOT / "pyengine" / "assets").iterdir():
        if (folder / "README.md").exists():
            assert "were trained" in (folder / "NOTICE").read_text(), folder.name


def test_models_that_ship_take_60_megabytes_at_most():
    files = (ROOT / "pyengine" / "assets").rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 60e6


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """(sdist, dist-info of a wheel) as setuptools makes them, without compiling anything."""
    pytest.importorskip("build", reason="needs the extra `dev`")
    folder = tmp_path_factory.mktemp("archives")
    source = folder / "source"
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if names.returncode:
        pytest.skip("needs the git repository: an sdist is not built from an sdist here")
    for name in names.stdout.splitlines():
        if name.startswith("pyengine/assets/") and not name.endswith(("NOTICE", "README.md")):
            continue  # megabytes that this test does not look at
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source / name)
    code = (
        "from setuptools import build_meta as b\n"
        f"print(b.build_sdist({str(folder)!r}))\n"
        f"print(b.prepare_metadata_for_build_wheel({str(folder)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.dist-info"))


def test_the_metadata(archives):
    _, info = archives
    meta = BytesParser().parsebytes((info / "METADATA").read_bytes())
    assert meta["License-Expression"] == "Apache-2.0"
    assert sorted(meta.get_all("License-File")) == ["LICENSE", "NOTICE"]
    assert meta["Author"] == "pyengine contributors"
    assert meta["Home-page"] is None
    assert meta.get_all("Project-URL") is None
    assert "Typing :: Typed" in meta.get_all("Classifier")
    assert not any(c.startswith("License ::") for c in meta.get_all("Classifier"))


def test_the_archives_hold_the_licence(archives):
    sdist, info = archives
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "CMakeLists.txt", "setup.py"} <= names
    for name in ("LICENSE", "NOTICE"):
        assert (info / "licenses" / name).read_bytes() == (ROOT / name).read_bytes()


def test_test_modules_have_names_of_their_own():
    """pytest imports two files of one name as one module, and refuses the second."""
    names = [
        path.name
        for folder in ("tests", "bench")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("conftest.py", "__init__.py")
    ]
    assert sorted(names) == sorted(set(names))


def test_the_compiled_modules_carry_no_symbols_but_their_entry():
    """A sanitizer's reports need them; nobody else does."""
    if core().SANITIZERS:
        pytest.skip("built with sanitizers, which keep symbols")
    for module in Path(core().__file__).parent.glob("_c[ou]*.so"):
        data = module.read_bytes()
        if data[:5] != b"\x7fELF\x02":
            pytest.skip("the sections of 64-bit ELF files are what this test reads")
        table = struct.unpack_from("<Q", data, 0x28)[0]
        size, count = struct.unpack_from("<HH", data, 0x3A)
        kinds = {struct.unpack_from("<I", data, table + i * size + 4)[0] for i in range(count)}
        symbols, dynamic_symbols = 2, 11
        assert dynamic_symbols in kinds
        assert symbols not in kinds, f"{module.name}: not stripped"
