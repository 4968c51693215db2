"""Fixtures of the op tests."""

import pytest
from interpreted import Interpreter

from pyengine import ops
from pyengine.ops._core import core


@pytest.fixture
def use_isa():
    """use_isa("portable") switches the C++ kernels for one test, or skips it with the reason."""
    before = ops.isa()

    def switch(name):
        reason = ops.isas().get(name, "is not in this build")
        if reason:
            pytest.skip(f"{name} {reason}")
        core().set_isa(name)

    yield switch
    core().set_isa(before)


@pytest.fixture
def use_product():
    """use_product("int8_amx") makes that multiply for one test, or skips it with the reason."""

    def switch(name):
        reason = core().int8_products().get(name, "is not in this build")
        if reason:
            pytest.skip(f"{name} {reason}")
        core().set_int8_product(name)

    yield switch
    core().set_int8_product("")


@pytest.fixture(scope="module")
def interpreted():
    """Calls of pyengine.kernels in Triton's interpreter, in a child process of the module's own."""
    pytest.importorskip("triton", reason="Triton is not installed")
    interpreter = Interpreter()
    yield interpreter
    interpreter.close()
