"""A CLIP as what metrics ask: features of pictures, and of texts beside them."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..errors import RequestError
from ..guard import inference
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
