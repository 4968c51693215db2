"""`clip_model=` in a call: a whole CLIP, which guides pictures to texts and to other pictures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from .. import images as pictures
from ..adapters.places import open_network
from ..clip_pictures import MEAN, STD, ClipPictureConfig, clip_pixels
from ..diffusion.clip_guidance import ClipGuidance
from ..errors import ConfigError, RequestError
from ..jobs import checks
from ..models import CLIPTextModelWithProjection, CLIPVisionModelWithProjection
from ..models.base import Model
from ..tokenizer import ClipTokenizer
from ..weights import load_json, load_module, open_weights
from ..weights.checkpoint import tokenizer_files_in
from ..weights.files import allowed_roots, check_inside
from ..weights.source import TensorSource
from ..weights.text import show
from .arguments import check
from .loading import shipped_folder
from .shipped_guides import guide_place
from .shipped_text import TextEncoderName
from .text import encode

M = TypeVar("M", bound=Model)
#: What the community pipeline of diffusers has.
DEFAULT_SCALE = 100.0


class _Texts(CLIPTextModelWithProjection):
    # A CLIP that was saved whole comes with the tower for pictures.
    harmless_extra = ("vision_model.*", "visual_projection.weight")


@dataclass(frozen=True)
class ClipModels:
    """A CLIP, loaded. tokenizer: its own; None: a pipeline's will do. resample: of pictures to its
    size, as ClipPictureConfig has it.
    """

    texts: CLIPTextModelWithProjection
    tower: CLIPVisionModelWithProjection
    tokenizer: ClipTokenizer | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Any = 3

    def embedded(self, items: Sequence[Any]) -> Tensor:
        """[N, P] of pictures of pyengine.images.as_list, each by itself, equal ones once."""
        side = self.tower.config.image_size
        config = ClipPictureConfig(
            size=side, crop_size=side, resample=self.resample, image_mean=self.mean,
            image_std=self.std,
        )  # fmt: skip
        unique = list({id(item): item for item in items}.values())
        pixels = clip_pixels(unique, config, "clip_image").to(self.tower.device)
        rows = {
            id(item): self.tower(p[None], return_dict=False)[0]
            for item, p in zip(unique, pixels, strict=True)
        }
        return torch.cat([rows[id(item)] for item in items])


@dataclass(frozen=True)
class Clip:
    """A call's CLIP. texts, images: what each of its pictures is to be like; none, or as many as
    there are pictures.
    """

    models: ClipModels
    scale: float
    texts: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()

    def guidance(self, pipe: Any, scheduler: Any, warned: list[str]) -> list[ClipGuidance]:
        """Of each of a call's pictures, by a sampler of schedules.Scheduler."""
        found: list[Tensor] = []
        if self.texts:
            tokenizer = self.models.tokenizer or pipe.clip_tokenizer
            texts = encode(tokenizer, self.models.texts, self.texts, None, warned)[1]
            assert texts is not None  # this encoder projects
            found.append(texts)
        if self.images:
            found.append(self.models.embedded(self.images))
        return [
            ClipGuidance(
                self.models.tower, torch.stack(targets), self.scale,
                scheduler.config.prediction_type, self.models.mean, self.models.std,
                pipe.denoiser, pipe.pixels_of,
            )
            for targets in zip(*found, strict=True)
        ]  # fmt: skip


def find_clip(
    given: Mapping[str, Any], pipe: Any, prompts: Sequence[str] | None, count: int
) -> Clip | None:
    """The CLIP that a call's arguments name, loaded in float32 where the pipeline has not kept it;
    None where none is named, or where the scale is 0.

    given: the arguments. prompts: the call's, in words, or None; what pictures follow where neither
    clip_prompt nor clip_image says another thing. count: of pictures. Raises RequestError,
    ConfigError or CheckpointError.
    """
    folder, scale = guide_place(given.get("clip_model")), given.get("clip_guidance_scale")
    asked = scale is not None and check("clip_guidance_scale", scale) > 0
    scale = DEFAULT_SCALE if scale is None else check("clip_guidance_scale", scale)
    if folder is None:
        for name in ("clip_prompt", "clip_image"):
            if given.get(name) is not None:
                raise RequestError(f"{name}: expected a clip_model with it, given none")
        if asked:
            raise RequestError("clip_guidance_scale: expected a clip_model with it, given none")
        return None
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise RequestError(f"clip_model: expected a folder of a whole CLIP, given {show(folder)}")
    batch = 1 if prompts is None else len(prompts)
    texts = _texts(given.get("clip_prompt"), batch, count)
    images = _images(given.get("clip_image"), batch, count)
    if not texts and not images:
        if prompts is None:
            raise RequestError(
                "clip_model: expected a prompt in words with it, or clip_prompt or clip_image,"
                " given neither"
            )
        texts = tuple(checks.spread("prompt", prompts, count, batch, "texts"))
    models = pipe._kept.get(
        "clip_model", folder, pipe.device, partial(load_clip, folder, pipe.device)
    )
    if texts and models.tokenizer is None and pipe.clip_tokenizer is None:
        raise RequestError(
            "clip_model: expected a folder with a tokenizer, since the pipeline has none of CLIP's"
        )
    return Clip(models, scale, texts, images) if scale else None


def _texts(value: Any, batch: int, count: int) -> tuple[str, ...]:
    if value is None:
        return ()
    found = checks.texts("clip_prompt", value)
    return tuple(checks.spread("clip_prompt", found, count, batch, "texts"))


def _images(value: Any, batch: int, count: int) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(checks.spread("clip_image", pictures.as_list(value, "clip_image"), count, batch))


def load_clip(folder: str | os.PathLike[str], device: torch.device) -> ClipModels:
    place = Path(folder)
    data = load_json(place / "config.json", roots=allowed_roots(place))
    halves = ("text_config", "vision_config")
    if not isinstance(data, dict) or not all(isinstance(data.get(h), dict) for h in halves):
        raise ConfigError(
            f"{place / 'config.json'}: expected a whole CLIP's, with text_config and vision_config"
        )
    if "projection_dim" in data:  # of both halves, whatever each of them says
        data = {**data, **{h: {**data[h], "projection_dim": data["projection_dim"]}
                           for h in halves}}  # fmt: skip
    lent, picture = _lent(data, place), None
    pixels = place / "preprocessor_config.json"
    if os.path.lexists(pixels):
        found = load_json(pixels, roots=allowed_roots(place))
        picture = ClipPictureConfig.from_dict(found, str(pixels))
    words = tokenizer_files_in(place if lent is None else lent / "tokenizer")
    for path in words.values() if lent is None else ():
        check_inside(path, allowed_roots(place))
    own = "tokenizer.json" in words or "vocab.json" in words
    return ClipModels(
        texts=_half(_Texts, data, place, device, lent),
        tower=_half(CLIPVisionModelWithProjection, data, place, device),
        tokenizer=ClipTokenizer.from_files(words, str(place)) if own else None,
        mean=MEAN if picture is None else picture.image_mean,
        std=STD if picture is None else picture.image_std,
        resample=3 if picture is None else picture.resample,
    )


def _lent(data: dict[str, Any], place: Path) -> Path | None:
    """The folder of the shipped model whose text encoder and tokenizer are this CLIP's, where
    config.json names one; no other place is taken.
    """
    name = data.get("text_encoder")
    if name is None:
        return None
    if name not in get_args(TextEncoderName):
        known = ", ".join(get_args(TextEncoderName))
        raise ConfigError(f"{place / 'config.json'}: text_encoder: expected {known}, found"
                          f" {show(name)}")  # fmt: skip
    return shipped_folder(str(name))


def _half(
    cls: type[M], data: dict[str, Any], place: Path, device: torch.device,
    lent: Path | None = None,
) -> M:  # fmt: skip
    config = cls.config_class.from_dict(data, str(place / "config.json"))
    with open_network(place) as own:
        source = own
        if lent is not None:
            other = open_weights(lent, subfolder="text_encoder")
            source = TensorSource([*own.files, *other.files], own.where)
        with source:
            made = load_module(cls.from_config(config), source, dtype=torch.float32, device=device)
    assert isinstance(made, cls)
    return made
