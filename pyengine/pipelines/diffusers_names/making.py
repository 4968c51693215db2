"""Pipelines made of parts: Cls(**pipe.components), pipe.vae = ..., from_pretrained(vae=...)."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any

import torch

from ...errors import RequestError, UnknownArgumentError
from ...models import UNet2DConditionModel
from ...models.base import Model
from ...weights.layout import find
from ...weights.text import did_you_mean, show
from ..registry import Family, class_name, family_of
from ..stable_diffusion.beside import load_beside
from ..stable_diffusion.parts import Parts, check_fits
from .keywords import BESIDE, NONE, SETTINGS
from .schedulers import NamedScheduler, choose


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a U-Net came from, so that Cls(**components) can know it: a pipeline's source,
    checkpoint, options and defaults, and the parts that it was loaded with. (Weakly: the U-Net is
    one of them.)
    """

    source: str
    checkpoint: Any
    options: dict[str, bool]
    defaults: Any
    parts: Mapping[str, weakref.ref[Any]]


#: By U-Net. Not kept in the model, which can be copied and pickled, as open files cannot.
_origins: weakref.WeakKeyDictionary[UNet2DConditionModel, Origin] = weakref.WeakKeyDictionary()


def note_origin(parts: Parts) -> None:
    """Notes where a U-Net came from, if that is not known."""
    if parts.checkpoint is not None and not parts.given and parts.unet not in _origins:
        refs = {name: weakref.ref(part) for name, part in parts.named().items()}
        _origins[parts.unet] = Origin(
            parts.source, parts.checkpoint, parts.options, parts.defaults, refs
        )


def check_part(name: str, value: Any, family: Family | None = None) -> Any:
    """`value` where it is ours and of the part's class; else RequestError that says how to get one.
    family: whose part it is to be; Stable Diffusion XL's, which has all of Stable Diffusion's,
    where that is not told.

    What torch.compile wrapped is unwrapped: the kernels are compiled already.
    """
    value = getattr(value, "_orig_mod", value)
    family = family_of("StableDiffusionXLPipeline") if family is None else family
    part = family.parts[name]
    wanted = find(part.network)
    if isinstance(value, (wanted, *map(find, part.others))):
        return value
    way = "of a pipeline that pyengine loaded"
    if issubclass(wanted, Model):
        way = f"pyengine.models.{wanted.__name__}.from_pretrained(folder) gives one"
    given = f"{type(value).__module__.partition('.')[0]}'s {type(value).__name__}"
    raise RequestError(f"{name}: expected pyengine's {wanted.__name__} ({way}), given {given}")


def check_place(parts: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
    """Raises RequestError for a model that lies elsewhere than the pipeline, or computes in another
    dtype; an autoencoder may have float32.
    """
    for name, part in parts.items():
        if not isinstance(part, Model):
            continue
        allowed = {dtype, torch.float32} if name == "vae" else {dtype}
        if part.device.type != device.type or part.dtype not in allowed:
            raise RequestError(
                f"{name}: expected one on {device} in {dtype}, given one on {part.device} in"
                f" {part.dtype}; load it with device= and dtype="
            )


def replace_parts(parts: Parts, new: dict[str, Any]) -> Parts:
    """The parts with some of them replaced by objects, which must fit the others."""
    named = parts.named() | new
    replaced = dataclasses.replace(
        parts,
        **_fields(named),
        given=tuple(dict.fromkeys((*parts.given, *new))),
    )
    check_place(new, parts.unet.device, parts.unet.dtype)
    check_fits(replaced)
    return replaced


def _fields(named: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Parts that hold these parts."""
    return {
        "unet": named["unet"],
        "vae": named["vae"],
        "encoders": tuple(named[n] for n in ("text_encoder", "text_encoder_2") if n in named),
        "tokenizers": tuple(named[n] for n in ("tokenizer", "tokenizer_2") if n in named),
    }


def parts_of(cls: Any, components: dict[str, Any]) -> Parts:
    """What Cls(**components) is made of. cls: a pipeline's class."""
    _check_names(cls, components)
    names = [n for n in cls.part_names if components.get(n) is not None]
    named = {n: check_part(n, components[n]) for n in names}
    missing = [n for n in (*cls.part_names, "scheduler") if components.get(n) is None]
    refiner = missing == ["text_encoder", "tokenizer"] and "text_encoder_2" in named
    if missing and not refiner:
        raise RequestError(
            f"{cls.__name__}: expected {', '.join(missing)} too; or load a checkpoint with"
            f" {cls.__name__}.from_pretrained(...)"
        )
    origin = _origins.get(named["unet"])
    options = {n: bool(components[n]) for n in SETTINGS if components.get(n) is not None}
    defaults = cls.defaults_class
    scheduler: NamedScheduler = choose(components["scheduler"], {}, "")
    parts = Parts(
        **_fields(named),
        scheduler_config=dict(scheduler.config),
        pipeline_class=class_name(cls),
        options=(origin.options if origin else {}) | options,
        source=origin.source if origin else "parts",
        defaults=origin.defaults if origin and type(origin.defaults) is defaults else defaults(),
        checkpoint=origin.checkpoint if origin else None,
        given=tuple(n for n in named if not _from_origin(origin, n, named[n])),
        scheduler=scheduler,
    )
    check_place(named, parts.unet.device, parts.unet.dtype)
    check_fits(parts)
    beside = {n: components[n] for n in BESIDE if components.get(n) is not None}
    return dataclasses.replace(parts, **load_beside(beside, parts.unet, parts.vae))


def _from_origin(origin: Origin | None, name: str, part: Any) -> bool:
    ref = None if origin is None else origin.parts.get(name)
    return ref is not None and ref() is part


def _check_names(cls: Any, components: dict[str, Any]) -> None:
    settings = ("requires_safety_checker", "add_watermarker", *SETTINGS)
    known = (*cls.part_names, "scheduler", *BESIDE, *NONE, *settings)
    for name, value in components.items():
        if name not in known:
            raise UnknownArgumentError(
                f"{show(name)[1:-1]}: {cls.__name__}() got an unexpected keyword argument"
                f" {show(name)}{did_you_mean(name, known)}"
            )
        if name in (*NONE, "add_watermarker") and value not in (None, False):
            raise RequestError(f"{name}: pyengine runs none, so it takes None")
