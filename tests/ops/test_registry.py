"""Every op has all its parts, under one base name; the list that says so is pyengine.ops.OPS."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

from pyengine import ops
from pyengine.ops import OPS, reference
from pyengine.ops._core import core

ROOT = Path(__file__).resolve().parents[2]

#: The vector code of ops that have more than one algorithm; the others' is in a file of their name.
ALGORITHMS = {"conv2d": ("direct", "winograd")}

each_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))


def _parts(op):
    """The files that an op must have, as patterns under the root of the source tree."""
    name = op.module
    yield f"pyengine/ops/{name}.py"
    yield f"pyengine/ops/reference/{name}.py"
    yield f"tests/ops/test_{name}.py"
    yield f"bench/ops/bench_{name}.py"
    backends = {row.name for rows in op.table.values() for row in rows}
    if "cpu" in backends:
        yield f"csrc/core/*/{name}.h"
        yield f"csrc/core/*/{name}.cc"
        for algorithm in ALGORITHMS.get(name, (name,)):
            yield f"csrc/core/*/{algorithm}.simd.cc"
    if "triton" in backends:
        yield f"kernels/{name}.py"


@each_op
def test_has_its_files(op):
    missing = [pattern for pattern in _parts(op) if not list(ROOT.glob(pattern))]
    assert not missing, f"{op.name} lacks {missing}"


@each_op
def test_wrapper_has_the_references_signature(op):
    wrapper, specification = (getattr(module, op.name) for module in (ops, reference))
    assert inspect.signature(wrapper) == inspect.signature(specification)
    assert wrapper.__doc__
    assert specification.__doc__


@each_op
def test_schema_has_the_wrappers_arguments(op):
    arguments = op.overload._schema.arguments
    parameters = inspect.signature(getattr(ops, op.name)).parameters.values()
    assert [a.name for a in arguments] == [p.name for p in parameters]
    for argument, parameter in zip(arguments, parameters, strict=True):
        assert argument.kwarg_only == (parameter.kind == parameter.KEYWORD_ONLY)
        if parameter.default is not parameter.empty:
            default = argument.default_value
            assert (tuple(default) if isinstance(default, list) else default) == parameter.default


@each_op
def test_compiled_backends_have_bindings(op):
    names = {row.name for rows in op.table.values() for row in rows}
    if "cpu" in names:
        assert hasattr(core(), op.name)
    if "triton" in names:
        source = (ROOT / f"kernels/{op.module}.py").read_text()
        functions = [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
        assert op.name in functions


@each_op
def test_a_reference_takes_what_no_kernel_does(op):
    for device in ("cpu", "cuda", "any"):
        rows = op.table.get(device) or op.table["any"]
        assert rows[-1].name == "reference"
        assert rows[-1].takes(torch.float64, gradient=True)


def test_no_kernel_or_file_is_outside_the_list():
    modules = {op.module for op in OPS.values()}
    wrappers = {p.stem for p in (ROOT / "pyengine/ops").glob("[!_]*.py")}
    specifications = {p.stem for p in (ROOT / "pyengine/ops/reference").glob("[!_]*.py")}
    # X_bf16 is X of the instruction sets that multiply bfloat16; X_int8 X in int8, and product_int8
    # what its matrix products share.
    files = (p.name.split(".")[0] for p in (ROOT / "csrc/core").glob("*/*.simd.cc"))
    kernels = {name.removesuffix("_bf16").removesuffix("_int8") for name in files} - {"product"}
    triton = {p.stem for p in (ROOT / "kernels").glob("[!_]*.py")}
    assert wrappers == specifications == modules
    assert kernels <= modules | {name for names in ALGORITHMS.values() for name in names}
    assert triton <= modules
    assert set(OPS) <= set(ops.__all__)
