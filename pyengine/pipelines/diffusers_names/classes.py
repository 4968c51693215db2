"""diffusers' classes by task: calls by position, and loading by task.

`pyengine.from_pretrained` gives a pipeline that does all tasks of its model. A script for diffusers
names a class for one, and gives that task's arguments by position: a family's `tasks.py` has such
classes, over the same models. orders.py is the one table of the orders; the defaults are those of
the pipelines.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, ClassVar, NoReturn

from ...errors import RequestError
from ...jobs.output import PipelineOutput
from ...weights.layout import find
from ..registry import TASKS, family_of, pipeline_named
from .orders import ORDERS


class Task:
    """Base of a class for one task: its call takes arguments by position, in diffusers' order."""

    #: Arguments that the task cannot do without.
    needs: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.__name__ in ORDERS:
            cls.__call__ = _call_of(cls)  # type: ignore[method-assign]

    def __call__(self, *args: Any, **given: Any) -> PipelineOutput:
        """The pipeline's call; the arguments may come by position as diffusers' class has them."""
        raise NotImplementedError

    def _checked(self, arguments: dict[str, Any]) -> Any:
        """The pipeline's, for arguments with all that the task needs."""
        for name in self.needs:
            if arguments.get(name) is None:
                raise RequestError(f"{name}: a {type(self).__name__} needs one, given none")
        checked = super()._checked  # type: ignore[misc]  # of the pipeline that comes after it
        return checked(arguments)


def _call_of(cls: type[Any]) -> Any:
    names = ORDERS[cls.__name__].split()

    def call(self: Any, *args: Any, **given: Any) -> Any:
        if len(args) > len(names):
            raise RequestError(
                f"{cls.__name__}: expected at most {len(names)} arguments by position, given"
                f" {len(args)}"
            )
        for name, value in zip(names, args, strict=False):
            if name in given:
                raise RequestError(f"{name}: given twice, by position and by name")
            given[name] = value
        return super(Task, self).__call__(**given)

    call.__doc__ = (
        f"{super(Task, cls).__call__.__qualname__} of this task, by position in the order of"
        f" diffusers' {cls.__name__}.\n\nWhat the arguments are: see"
        f" {super(Task, cls).__call__.__qualname__}."
    )
    call.__name__, call.__qualname__ = "__call__", f"{cls.__name__}.__call__"
    call.__signature__ = _signature(cls, names)  # type: ignore[attr-defined]
    return call


def _signature(cls: type[Any], names: list[str]) -> inspect.Signature:
    """What help() shows: the arguments that the pipeline has, those of `names` by position."""
    own = dict(inspect.signature(super(Task, cls).__call__).parameters)
    first, *_ = own
    kinds = inspect.Parameter
    ordered = [own[n] for n in names if n in own]
    rest = [p for n, p in own.items() if n not in names and n != first and p.kind != p.VAR_KEYWORD]
    others = [p for p in own.values() if p.kind == p.VAR_KEYWORD]
    default = [p if p.default is not p.empty else p.replace(default=None) for p in ordered]
    return inspect.Signature(
        [kinds(first, kinds.POSITIONAL_OR_KEYWORD)]
        + [p.replace(kind=kinds.POSITIONAL_OR_KEYWORD) for p in default]
        + [p.replace(kind=kinds.KEYWORD_ONLY) for p in rest]
        + others
    )


def class_of(pipeline_class: str) -> type[Any]:
    """The class of that name; for models that transformers saves, their pipeline."""
    try:
        return pipeline_named(pipeline_class)
    except KeyError:
        return family_of(pipeline_class).pipeline_class


def for_task(pipeline_class: str, task: str) -> type[Any]:
    """The class that does one of registry.TASKS with the models of diffusers' (transformers')
    class.

    Raises RequestError where there is none.
    """
    tasks = family_of(pipeline_class).tasks
    if task not in tasks:
        what = ("text alone", "a picture", "a picture and a mask")[TASKS.index(task)]
        raise RequestError(f"model: a {pipeline_class} has no class that draws from {what}")
    found: type[Any] = find(tasks[task])
    return found


class DiffusionPipeline:
    """Loads the class that a checkpoint's model_index.json names; never made itself."""

    def __init__(self, *_: Any, **__: Any) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"{name} is not made itself: {name}.from_pretrained(...) gives a pipeline")

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str] | None = None, **keywords: Any) -> Any:
        """The pipeline for a checkpoint, by pyengine.from_pretrained.

        Args:
            model: a folder, a file, a Hub id, or the name of a model that ships; None: the first of
                these.
            keywords: those of pyengine.from_pretrained.
        """
        from ..loading import load
        from .base import named_model

        model = named_model(model, keywords, "pretrained_model_name_or_path")
        return load(model, keywords, cls._class)

    @classmethod
    def from_single_file(cls, path: str | os.PathLike[str] | None = None, **keywords: Any) -> Any:
        """The pipeline for a single file; see StableDiffusionPipeline.from_single_file.

        Args:
            path: a .safetensors file.
            keywords: those of pyengine.from_pretrained, and config= and original_config=
                (docs/from-diffusers.md).
        """
        from .single import load_single

        return load_single(path, keywords, cls._class)

    @classmethod
    def from_pipe(cls, pipeline: Any, **keywords: Any) -> Any:
        """The class over another pipeline's models; see StableDiffusionPipeline.from_pipe."""
        from .sharing import from_pipe

        return from_pipe(cls._class, pipeline, keywords)

    @staticmethod
    def _class(pipeline_class: str) -> type[Any]:
        return class_of(pipeline_class)


class AutoPipelineForText2Image(DiffusionPipeline):
    """Loads the class that draws from text."""

    @staticmethod
    def _class(pipeline_class: str) -> type[Any]:
        return for_task(pipeline_class, "text")


class AutoPipelineForImage2Image(DiffusionPipeline):
    """Loads the class that draws from a picture."""

    @staticmethod
    def _class(pipeline_class: str) -> type[Any]:
        return for_task(pipeline_class, "image")


class AutoPipelineForInpainting(DiffusionPipeline):
    """Loads the class that draws within a mask."""

    @staticmethod
    def _class(pipeline_class: str) -> type[Any]:
        return for_task(pipeline_class, "inpaint")
