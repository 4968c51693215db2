"""Who may import whom: a layer reads without the ones above it (docs/architecture.md)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: package or module of pyengine -> what of pyengine it may import, besides itself.
MAY_IMPORT = {
    # pyengine/__init__.py: by name, when asked for.
    "": {
        "absent", "engine",
        "errors", "images", "metadata", "metrics", "models", "ops", "pipelines", "preprocess",
        "ray", "schedules", "weights",
    },
    "absent": {"weights"},
    "__main__": {"cli"},
    "errors": set(),
    "kernels": {"errors", "ops.reference"},  # the specification, which is below both
    "ops": {"_core", "_cuda", "errors", "kernels"},
    "cuda": {"errors", "ops"},
    "branches": {"errors", "ops"},
    "layers": {"branches", "errors", "ops"},
    "guard": set(),
    "finite": {"errors"},
    "models": {"branches", "errors", "finite", "guard", "layers", "ops", "weights"},
    # By name, when asked for: the registry, which imports no models, says what checkpoints hold.
    "weights": {"errors", "pipelines.registry"},
    "schedules": {"cuda", "errors", "ops", "weights"},
    "progress": {"errors"},
    "pixels": {"errors", "weights"},
    "images": {"errors", "pixels", "weights"},  # readers that believe nothing in a file
    "clip_pictures": {"errors", "images", "pixels", "weights"},
    "preprocess": {"errors", "images", "pixels", "weights"},  # pictures for ControlNets
    "tokenizer": {"errors", "weights"},
    # The table of arguments, which imports nothing, says which of them settings hold.
    "metadata": {"", "errors", "images", "pipelines.arguments", "weights"},
    # Neither knows a pipeline, nor the other.
    "jobs": {"cuda", "errors", "guard", "tokenizer", "weights"},
    "diffusion": {
        "branches", "cuda", "errors", "finite", "guidance", "images", "jobs", "models", "ops",
        "pixels", "progress", "schedules", "weights",
    },
    "decoding": {
        "cuda", "errors", "finite", "guidance", "jobs", "models", "ops", "progress", "schedules",
        "weights",
    },
    "pipelines": {
        "", "adapters", "clip_pictures", "cuda", "decoding", "diffusion", "errors", "finite",
        "guard", "guidance", "images", "jobs", "metadata", "models", "ops", "pixels", "progress",
        "schedules", "tokenizer", "weights",
    },
    # Jobs of many callers.
    "engine": {"errors", "guard", "jobs", "ops", "pipelines", "weights"},
    # Many machines, with an engine on each.
    "ray": {"engine", "errors", "jobs", "pipelines", "serving", "weights"},
    # HTTP over an engine.
    "serving": {
        "", "engine", "errors", "images", "jobs", "metadata", "pipelines", "pixels", "schedules",
        "weights",
    },
    "guidance": {"errors", "ops"},
    # Of pictures, whoever drew them.
    "metrics": {"errors", "weights"},
    "adapters": {"branches", "errors", "layers", "models", "ops", "weights"},
    "compare": {"errors", "images", "pipelines", "weights"},  # every family at one prompt
    "training": None,  # recipes at the very top: anything
    "bench": None,  # measures anything; nothing but the command line imports it
    "doctor": None,
    "cli": None,
}  # fmt: skip

#: Never at run time: only training, tests and benchmarks use these.
FOREIGN = {
    *("diffusers", "transformers", "accelerate", "openvino", "ncnn", "matplotlib"),
    "flash_kmeans",
}


def _name_of(path):
    """pyengine/ops/geglu.py -> ops; kernels/geglu.py -> kernels."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "kernels":
        return "kernels"
    return "" if parts[1] == "__init__" else parts[1]


MODULES = sorted((ROOT / "pyengine").rglob("*.py")) + sorted((ROOT / "kernels").rglob("*.py"))


def _imports(path):
    """(absolute module name, line) of every import, also those inside functions."""
    package = list(path.relative_to(ROOT).parts[:-1])
    if package[0] == "kernels":
        package.insert(0, "pyengine")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield module, node.lineno
            if module == "pyengine":
                yield from ((f"pyengine.{alias.name}", node.lineno) for alias in node.names)
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(r"import_module\(\s*f?[\"'](pyengine\.\w+)", text):
        yield found[1], text.count("\n", 0, found.start()) + 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path):
    here = _name_of(path)
    assert here in MAY_IMPORT, f"{here} has no layer: add it to MAY_IMPORT and docs/architecture.md"
    allowed = MAY_IMPORT[here]
    wrong = []
    for module, line in _imports(path):
        parts = module.split(".")
        # `from pyengine import __version__` names no module, and the package itself is no layer.
        if parts[:2] == ["pyengine", "bench"] and here not in ("bench", "cli"):
            wrong.append(f"line {line}: {module}")
        if parts[0] == "pyengine" and allowed is not None and len(parts) > 1 and _exists(parts[1]):
            there = parts[1]
            if there != here and there not in allowed and ".".join(parts[1:3]) not in allowed:
                wrong.append(f"line {line}: {module}")
        if parts[0] in FOREIGN and here not in ("training", "bench"):
            wrong.append(f"line {line}: {module}")
        if module.startswith(("torch._dynamo", "torch._inductor")) and here != "bench":
            wrong.append(f"line {line}: {module}")
    assert not wrong, f"{path.name} ({here}) may not import: {wrong}"


@pytest.mark.parametrize("package", ["pipelines", "bench", "training", "weights", "models"])
def test_no_module_needs_one_that_needs_it(package):
    """No circle of imports at module level, where `from . import` order would decide what works."""
    assert _circles(package, inside=False) == []


@pytest.mark.parametrize("package", ["bench", "training", "schedules", "weights"])
def test_no_circle_within_functions_either(package):
    """An import within a function is for what is heavy and optional, not to hide a circle."""
    assert _circles(package, inside=True) == []


def test_the_loader_needs_no_pipeline():
    """Families are found by name: no import, not even within a function, leads from the loader, a
    record or a builder back to itself. Only methods of diffusers_names import what takes them.
    """
    circles = _circles("pipelines", inside=True)
    names = "pyengine.pipelines.diffusers_names."
    assert all(module.startswith(names) for circle in circles for module in circle), circles


def _circles(package, inside):
    """Groups of modules of a package that import each other; inside: also within functions."""
    modules = {}
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[:2] == ("pyengine", package):
            modules[name] = path
    needs = {name: _needs(path, modules, inside) - {name} for name, path in modules.items()}

    def reach(name):
        seen, todo = set(), [name]
        while todo:
            for other in needs[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen

    reached = {name: reach(name) for name in modules}
    circles = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in modules
        if name in reached[name]
    }
    return sorted(map(sorted, circles))


def _needs(path, modules, inside):
    """Those of `modules` that a file imports when it is run."""
    found = set()
    package = list(path.relative_to(ROOT).parts[:-1])

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.FunctionDef | ast.Lambda) and not inside:
                continue
            if isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                module = ".".join([*base, *filter(None, [child.module])])
                names = [f"{module}.{alias.name}" for alias in child.names]
                found.update(n if n in modules else module for n in names)
            elif isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found & set(modules)


def _exists(name):
    return name in MAY_IMPORT or name in ("_core", "_cuda")


def test_core_knows_neither_python_nor_torch():
    """The C++ kernels: pointers and sizes. Only csrc/bindings sees Python."""
    sources = [
        p
        for folder in ("core", "cuda")
        for p in (ROOT / "csrc" / folder).rglob("*.*")
        if p.suffix in {".cc", ".h", ".cu", ".cuh"}
    ]
    assert sources
    for path in sources:
        for include in re.findall(r'#\s*include\s*[<"]([^>"]+)', path.read_text()):
            assert not re.match(r"(torch|ATen|c10|pybind11|Python\.h)", include), (path, include)


def test_vector_code_includes_nothing_that_could_leak_between_instruction_sets():
    """Files compiled once per instruction set see C headers and each other: no std:: templates."""
    core = ROOT / "csrc/core"
    seen, todo = set(), list(core.rglob("*.simd.*"))
    assert todo
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        code = re.sub(r"//.*", "", path.read_text())
        system = set(re.findall(r"#\s*include\s*<([^>]+)>", code))
        assert system <= {"stddef.h", "stdint.h", "immintrin.h"}, path
        assert "std::" not in code, path
        todo += [core / name for name in re.findall(r'#\s*include\s*"([^"]+)"', code)]


def test_only_parallel_knows_threads():
    words = r"#\s*pragma omp|omp_|GOMP_|omp\.h|std::thread|pthread_create|futex"
    for path in (ROOT / "csrc/core").rglob("*.*"):
        if path.suffix in {".cc", ".h"} and not path.stem.startswith("parallel"):
            assert not re.search(words, path.read_text()), path
