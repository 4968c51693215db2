"""What docs/reference is made from: the public functions, classes and methods."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
MENTIONED = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def documented():
    """The whole names in docs/reference, as often as they stand there."""
    pages = sorted(REFERENCE.glob("*.md"))
    return [name for page in pages for name in MENTIONED.findall(page.read_text(encoding="utf-8"))]


def found(name):
    """The object, or module, of a whole name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        home, _, last = name.rpartition(".")
        return getattr(importlib.import_module(home), last)


def callables():
    """{whole name: function} of the public functions and methods; __init__ where a class has its
    own, and is made by its name.
    """
    named = {}
    for name in documented():
        thing = found(name)
        own = {name: thing}
        if inspect.ismodule(thing):
            own = {
                f"{name}.{key}": value
                for key, value in vars(thing).items()
                if not key.startswith("_") and getattr(value, "__module__", None) == name
            }
        for path, value in own.items():
            if inspect.isclass(value):
                named |= {f"{path}.{key}": f for key, f in _methods(value)}
            elif callable(value):
                named[path] = value
    return named


def _methods(cls):
    if dataclasses.is_dataclass(cls) and cls.__name__.endswith("Config"):
        return  # whose methods are its network's
    for key, value in vars(cls).items():
        if key == "__init__" and (dataclasses.is_dataclass(cls) or _is_made_elsewhere(cls)):
            continue
        if key.startswith("_") and key not in ("__init__", "__call__"):
            continue
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(function):
            yield key, function


def _is_made_elsewhere(cls):
    """Whether from_pretrained, prepare, submit or a raise makes it."""
    from pyengine.engine import EngineJob
    from pyengine.jobs.job import Job
    from pyengine.models.base import Model
    from pyengine.pipelines.base import Pipeline
    from pyengine.pipelines.diffusers_names.schedulers import NamedScheduler
    from pyengine.pipelines.steps import Steps

    made = (Pipeline, Model, Job, EngineJob, Steps, NamedScheduler, Exception)
    return issubclass(cls, made)
