"""from_pipe: another class over the same models."""

import dataclasses
from typing import Any

from ...errors import RequestError
from ...weights.text import show
from ..registry import class_name, family_of_pipeline, fits
from ..stable_diffusion.beside import load_beside
from .base import DiffusersNames
from .keywords import BESIDE, read_keywords


def from_pipe(cls: Any, pipeline: Any, keywords: dict[str, Any]) -> Any:
    """See DiffusersNames.from_pipe."""
    if not isinstance(pipeline, DiffusersNames):
        raise RequestError(
            f"from_pipe: expected a pipeline of pyengine's, given {show(type(pipeline).__name__)}"
        )
    cls = cls if isinstance(cls, type) else cls(pipeline._class_name)
    if not fits(cls, family_of_pipeline(pipeline)):
        raise RequestError(
            f"from_pipe: a {cls.__name__} cannot draw with the models of a {pipeline._class_name}"
        )
    k = read_keywords(keywords, "from_pipe")
    if k.options or k.variant or k.weights or k.subfolder:
        raise RequestError("from_pipe: expected scheduler, dtype, device or parts: nothing is read")
    new = share(cls, pipeline)
    if hasattr(new, "parts") and hasattr(new.parts, "pipeline_class"):
        wanted = cls.defaults_class
        if type(new.defaults) is not wanted:
            new.defaults = wanted()
        new.parts = dataclasses.replace(
            new.parts, pipeline_class=class_name(cls), options=new.parts.options | k.settings
        )
    elif type(new.defaults) is not cls.defaults_class:
        new.defaults = cls.defaults_class()
    has = any(getattr(new, name, None) is not None for name in BESIDE)
    if has and not k.beside and not hasattr(cls, "beside"):  # as diffusers leaves them out
        new._take_parts(dataclasses.replace(new.parts, controlnets=(), t2i_adapters=()))
    if k.beside:
        if not family_of_pipeline(new).takes_control:
            raise RequestError(f"from_pipe: a {cls.__name__} takes no {next(iter(k.beside))}")
        found = load_beside(k.beside, new.parts.unet, new.parts.vae)
        new._take_parts(dataclasses.replace(new.parts, **found))
    if hasattr(new, "_shared"):
        new._shared()
    for name, part in k.parts.items():
        setattr(new, name, part)
    for name, value in k.loras.items():
        if not hasattr(cls, name):
            raise RequestError(f"{name}: expected none for a {cls.__name__}, which takes no LoRAs")
        setattr(new, name, value)
    if k.scheduler is not None:
        new.scheduler = k.scheduler
    if k.dtype is not None or k.device != "auto":
        new.to(device=None if k.device == "auto" else k.device, dtype=k.dtype)
    return new


def share(cls: Any, pipeline: Any) -> Any:
    """A pipeline of class `cls` with all that `pipeline` has: models, arena, turns to run."""
    new = object.__new__(cls)
    new.__dict__.update(pipeline.__dict__)
    return new
