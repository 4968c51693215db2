"""What a call of Kandinsky's prior is asked, and what it gives back."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...guidance import Method
from ...jobs.output import PipelineOutput
from ...jobs.request import CallRequest
from ..unprompted import CALLBACK_TENSORS


@dataclass(kw_only=True)
class PriorRequest(CallRequest):
    """texts, negatives: of each of the `count` embeddings that are made. wanted: the first so many
    of them are the prompts', those behind them the negative prompts'. guidance_scale: of each.
    method: at which steps it guides.
    """

    texts: list[str]
    negatives: list[str]
    wanted: int
    num_inference_steps: int
    guidance_scale: tuple[float, ...]
    generators: list[torch.Generator] | torch.Generator
    latents: Tensor | None
    method: Method = field(default_factory=Method)
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = CALLBACK_TENSORS
    height: int = 0
    width: int = 0

    @property
    def count(self) -> int:
        return len(self.texts)

    @property
    def evaluations(self) -> int:
        return self.num_inference_steps


@dataclass(eq=False)
class PriorOutput(PipelineOutput):
    """images, or image_embeds: [N, D], by output_type a tensor or an array. negative_image_embeds:
    likewise, what a decoder is guided away from.
    """

    negative_image_embeds: Any = None

    @property
    def image_embeds(self) -> Any:
        return self.images

    def to_tuple(self) -> tuple[Any, ...]:
        return self.images, self.negative_image_embeds

    def __getitem__(self, key: Any) -> Any:
        return self.images if key == "image_embeds" else super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("image_embeds", "negative_image_embeds"))

    def __len__(self) -> int:
        return 2
