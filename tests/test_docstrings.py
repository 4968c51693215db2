"""Docstrings of the public functions name every parameter."""

import inspect
import re

import pytest

import pyengine
from pyengine import ops, schedules

FUNCTIONS = {
    "from_pretrained": pyengine.from_pretrained,
    "cascade": pyengine.cascade,
    "Plan.start": schedules.Plan.start,
    "Plan.step": schedules.Plan.step,
    "Scheduler.plan": schedules.Scheduler.plan,
    "Engine.submit": pyengine.Engine.submit,
    "StableDiffusionPipeline": pyengine.StableDiffusionPipeline.__call__,
} | {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (ops, schedules)
    for name in module.__all__
    if inspect.isfunction(getattr(module, name))
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_named(name):
    function = FUNCTIONS[name]
    text = inspect.getdoc(function)
    assert text, name
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters
             if p.name not in ("self", "cls") and p.kind is not p.VAR_KEYWORD]  # fmt: skip
    missing = {p for p in named if not re.search(rf"\b{p}\b", text)}
    assert not missing
