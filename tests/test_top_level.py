"""What `import pyengine` gives: names that are there when asked for, and known to type checkers."""

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyengine
from pyengine.pipelines import loading
from pyengine.pipelines.registry import family_of

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


def programs(path):
    """The Python of a Markdown file: a block that imports pyengine, and those that go on."""
    found = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    made = []
    for block in found:
        if made and "import pyengine\n" not in block:
            made[-1] += "\n" + block
        else:
            made.append(block)
    return made


def mypy(folder, files):
    """What mypy --strict says of files, {name: text}, that are written into the folder."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed (pip install -e .[test])")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    command = [
        sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent",
        "--ignore-missing-imports", "--untyped-calls-exclude=torch",
        f"--cache-dir={ROOT / '.mypy_cache'}", "--no-error-summary",
        *(f"{n}.py" for n in files),
    ]  # fmt: skip
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    assert not run.stderr
    return run.stdout


#: What is wrong, and what mypy has to say of that line.
WRONG = {
    "import pyengine": "",
    "pyengine.nothing": 'Module has no attribute "nothing"',
    "pyengine.errors.NothingError": 'Module has no attribute "NothingError"',
    "pyengine.from_pretrained(device=3)": "No overload variant",
    "pyengine.from_pretrained('emoji-ar').load_lora('x')": "has no attribute",
    "pyengine.from_pretrained('emoji')(num_inference_steps='3')": "incompatible type",
    "pyengine.from_pretrained('some/folder').nothing": "has no attribute",
    "pyengine.from_pretrained('emoji').prepare(3)": "incompatible type",
}  # fmt: skip


#: What documents leave out, as their readers would: annotations of functions and of empty lists.
LOOSE = "# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=var-annotated\n"


def test_mypy_takes_documents_and_examples_and_refuses_what_is_wrong(tmp_path):
    """In one run, since mypy reads the whole package first."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    shown = {
        f"page_{page.stem.replace('-', '_')}_{k}": LOOSE + text
        for page in pages for k, text in enumerate(programs(page))
    }  # fmt: skip
    examples = {
        path.stem.replace(".", "_"): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "examples").glob("*.py"))
    }
    assert len(shown) > 8
    assert len(examples) > 10
    found = mypy(tmp_path, {**shown, **examples, "wrong": "\n".join(WRONG)}).splitlines()
    assert [line for line in found if not line.startswith("wrong.py:")] == []
    for number, (code, said) in enumerate(WRONG.items(), 1):
        own = [line for line in found if line.startswith(f"wrong.py:{number}: error")]
        assert (said in "".join(own)) if said else not own, (code, own)


def test_shipped_models_have_their_classes():
    """from_pretrained's overloads name all models that ship, and the class of each."""
    tree = ast.parse(inspect.getsource(loading))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "from_pretrained":
            names = re.findall(r"Literal\['([\w-]+)'\]", ast.unparse(node.args))
            found |= dict.fromkeys(names, node.returns.value)
    expected = {
        name: family_of(loading.find_checkpoint(name)[0].pipeline_class).pipeline_class.__name__
        for name in loading.NAMED
    }
    assert found == expected


def test_modules_that_nobody_is_told_of_are_imported_all_the_same():
    """pyengine.kernels lies elsewhere in an editable installation."""
    code = "from pyengine import cli, cuda, doctor, kernels, layers; print(kernels.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("pyengine.kernels\n", "")
