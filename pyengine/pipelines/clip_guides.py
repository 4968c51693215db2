"""`clip_model=` in a call: a whole CLIP, which guides pictures to their texts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..clip_pictures import MEAN, STD, ClipPictureConfig
from ..diffusion.clip_guidance import ClipGuidance
from ..diffusion.job import DenoisingJob
from ..diffusion.request import Request
from ..errors import ConfigError, RequestError
from ..models import CLIPTextModelWithProjection, CLIPVisionModelWithProjection
from ..models.base import Model
from ..tokenizer import ClipTokenizer
from ..weights import load_json, load_module, open_weights
from ..weights.files import allowed_roots
from ..weights.text import show
from .arguments import check
from .text import encode

M = TypeVar("M", bound=Model)
#: What the community pipeline of diffusers has.
DEFAULT_SCALE = 100.0


class _Texts(CLIPTextModelWithProjection):
    # A CLIP that was saved whole comes with the tower for pictures.
    harmless_extra = ("vision_model.*", "visual_projection.weight")


@dataclass(frozen=True)
class Clip:
    """A call's CLIP. tokenizer: its own; None: the pipeline's will do."""

    texts: CLIPTextModelWithProjection
    tower: CLIPVisionModelWithProjection
    tokenizer: ClipTokenizer | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float

    def guide(self, jobs: Sequence[DenoisingJob], pipe: Any, scheduler: Any,
              warned: list[str]) -> None:  # fmt: skip
        """Has the jobs of one call of `pipe` follow their prompts."""
        r = jobs[0].request
        tokenizer = self.tokenizer or pipe.parts.tokenizers[0]
        embeds: Tensor | None = encode(tokenizer, self.texts, r.texts.prompts, None, warned)[1]
        assert embeds is not None
        for job in jobs:
            k = job.index // r.per_prompt
            job.gradients = ClipGuidance(
                self.tower, embeds[k : k + 1], self.scale, scheduler.config.prediction_type,
                self.mean, self.std, pipe.unet, pipe.vae, not pipe.stable_diffusion,
            )  # fmt: skip


def find_clip(
    folder: Any, scale: Any, r: Request, inpaints: bool, device: torch.device
) -> Clip | None:
    """The CLIP of a folder, loaded for `device` in float32; None where none is named, or where the
    scale is 0. r: the request. inpaints: whether the U-Net has channels for a mask. Raises
    RequestError, ConfigError or CheckpointError.
    """
    asked = scale is not None and check("clip_guidance_scale", scale) > 0
    scale = DEFAULT_SCALE if scale is None else check("clip_guidance_scale", scale)
    if folder is None:
        if asked:
            raise RequestError("clip_guidance_scale: expected a clip_model with it, given none")
        return None
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise RequestError(f"clip_model: expected a folder of a whole CLIP, given {show(folder)}")
    if inpaints:
        raise RequestError("clip_model: expected None for a model that is for inpainting")
    if r.texts.prompts is None:
        raise RequestError("clip_model: expected a prompt in words with it, given prompt_embeds")
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
    files = {path.name: path for path in place.iterdir()}
    pixels = files.get("preprocessor_config.json")
    picture = None if pixels is None else ClipPictureConfig.from_dict(
        load_json(pixels, roots=allowed_roots(place)), str(pixels)
    )  # fmt: skip
    own = "tokenizer.json" in files or "vocab.json" in files
    return Clip(
        texts=_half(_Texts, data, place, device),
        tower=_half(CLIPVisionModelWithProjection, data, place, device),
        tokenizer=ClipTokenizer.from_files(files, str(place)) if own else None,
        mean=MEAN if picture is None else picture.image_mean,
        std=STD if picture is None else picture.image_std,
        scale=scale,
    ) if scale else None  # fmt: skip


def _half(cls: type[M], data: dict[str, Any], place: Path, device: torch.device) -> M:
    config = cls.config_class.from_dict(data, str(place / "config.json"))  # type: ignore[attr-defined]  # every config class has it
    with open_weights(place) as source:
        made = load_module(cls.from_config(config), source, dtype=torch.float32, device=device)
    assert isinstance(made, cls)
    return made
