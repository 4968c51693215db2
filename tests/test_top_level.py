"""What `import pyengine` gives: names that are there when asked for, and known to type checkers."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyengine

ROOT = Path(__file__).resolve().parents[1]
#: From those that import little to those that import the others.
MODULES = (
    "errors", "weights", "images", "metadata", "ops", "schedules", "models", "pipelines",
)  # fmt: skip


def fresh(code):
    """Runs `code` in a new interpreter over this checkout; returns what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_importing_takes_neither_torch_nor_numpy():
    assert fresh("import sys, pyengine; print({'torch', 'numpy'} & set(sys.modules))") == "set()"


def test_modules_are_there_without_being_imported():
    code = f"import pyengine; print(*(getattr(pyengine, name).__name__ for name in {MODULES}))"
    assert fresh(code).split() == [f"pyengine.{name}" for name in MODULES]


def test_dir_has_them_before_they_are_imported():
    found = set(fresh("import pyengine; print(*dir(pyengine))").split())
    assert found >= {*MODULES, "from_pretrained", "__version__", "__doc__"}


def test_all_of_all_is_there():
    for name in pyengine.__all__:
        assert getattr(pyengine, name) is not None


def test_what_is_not_there_is_an_attribute_error():
    assert not hasattr(pyengine, "nothing")
    with pytest.raises(AttributeError, match="nothing"):
        _ = pyengine.nothing


# --- types ----------------------------------------------------------------------------------------


def blocks(path):
    """Blocks of Python in a Markdown file; what a block uses of those before it is before it."""
    found = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    assert found, path
    return "\n".join(found)


def mypy(folder, **files):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed (pip install -e .[test])")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    command = [
        sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent",
        f"--cache-dir={ROOT / '.mypy_cache'}", "--no-error-summary", *(f"{n}.py" for n in files),
    ]  # fmt: skip
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    assert not run.stderr
    return run.stdout


WRONG = """import pyengine

pyengine.nothing
pyengine.errors.NothingError
pyengine.from_pretrained(devise="cpu")
"""


def test_mypy_takes_what_the_readme_shows_and_refuses_what_is_not_there(tmp_path):
    documents = {"readme": "README.md", "from_diffusers": "docs/from-diffusers.md"}
    code = {name: blocks(ROOT / path) for name, path in documents.items()}
    found = mypy(tmp_path, **code, wrong=WRONG)
    assert "readme.py" not in found, found
    assert "from_diffusers.py" not in found, found
    assert 'wrong.py:3: error: Module has no attribute "nothing"' in found
    assert 'wrong.py:4: error: Module has no attribute "NothingError"' in found


def test_modules_that_nobody_is_told_of_are_imported_all_the_same():
    """pyengine.kernels lies elsewhere in an editable installation."""
    code = "from pyengine import cli, cuda, doctor, kernels, layers; print(kernels.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("pyengine.kernels\n", "")
