"""A CLIP as what metrics ask: features of pictures, and of texts beside them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from .. import images as pictures
from ..clip_pictures import ClipPictureConfig, clip_pixels
from ..errors import RequestError
from ..guard import inference
from ..jobs import checks
from ..models import CLIPVisionModelWithProjection
from .clip_guides import load_clip
from .shipped_guides import guide_place
from .text import encode


class ClipFeatures:
    """features(images) of uint8 [N, 3, H, W], for pyengine.metrics; features.texts(prompts).

    model: "emoji-clip", or a folder of a whole CLIP with its tokenizer, which may be the shipped
    one's. name: how metrics call distances over it. Each row's bits depend on its picture or text
    alone. Raises ConfigError or CheckpointError for what is no such model.
    """

    def __init__(self, model: str | os.PathLike[str] = "emoji-clip", device: str = "cpu"):
        self.models = load_clip(guide_place(model), torch.device(device))
        self.name = Path(model).name

    @inference
    def __call__(self, images: Tensor) -> Tensor:
        """[N, P] float32 of pictures uint8 [N, 3, H, W]."""
        pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.cpu()]
        return self.models.embedded(pictures).cpu()

    @inference
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[N, P] float32 of texts; longer ones than the encoder reads are cut."""
        if self.models.tokenizer is None:
            raise RequestError(f"model: expected a CLIP with a tokenizer, given {self.name}")
        found = encode(self.models.tokenizer, self.models.texts, prompts, None, [])[1]
        assert found is not None  # this encoder projects
        return found.cpu()


def encoder_pixels(
    image: Any, encoder: CLIPVisionModelWithProjection, processor: ClipPictureConfig
) -> Tensor:
    """[B, 3, S, S], what a pipeline's image encoder reads of `image`: a picture (PIL or an array in
    0..1) or a list of B of them, or a tensor [B, 3, S, S] that is it already.

    Raises RequestError for other shapes, NaN, infinity and more pictures than a call may have.
    """
    side = encoder.config.image_size
    if isinstance(image, Tensor):
        rows = len(image) if image.dim() == 4 else 1
        return checks.check_latents(image, (max(1, rows), 3, side, side), "image")
    items = pictures.as_list(image, "image")
    checks.check_total(side, side, len(items))
    if any(isinstance(item, Tensor) for item in items):
        raise checks.refuse(
            "image", "PIL pictures or arrays, or one tensor of them all", "a list with tensors"
        )
    return clip_pixels(cast(list[Image.Image], items), processor, "image")
