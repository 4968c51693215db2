"""Texts to embeddings, and encode_prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...cuda import within_memory
from ...diffusion.conditions import beside
from ...diffusion.request import Request
from ...guard import inference
from ...guidance import Method
from ...jobs import checks
from ...jobs.output import issue
from ...jobs.runs import Run, Runs
from ..loras import Loras, lora_factor
from ..text import encode
from .arguments import Arguments
from .embeddings import Embeds, Texts, Widths
from .parts import Parts


class PromptEncoding:
    """Base of Stable Diffusion's pipelines: what their text encoders make of prompts."""

    parts: Parts
    device: torch.device
    _runs: Runs
    _loras: Loras

    def _arguments(self) -> Arguments:
        raise NotImplementedError

    def _widths(self) -> Widths:
        raise NotImplementedError

    def _trim(self) -> None:
        raise NotImplementedError

    def _guides(self, scales: Sequence[float], method: Method) -> bool:
        raise NotImplementedError

    @inference
    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(prompt_embeds, negative_prompt_embeds or None without guidance), [N, L, C] each, as
        diffusers' pipeline has it: a row per picture, those of a prompt together.

        device: where they are to be; None: where the model is. What is given as embeddings is
        repeated and converted. LoRAs that set_adapters chose count, times lora_scale.
        """
        texts = self._widths().read(
            prompt=prompt, negative_prompt=negative_prompt, prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )  # fmt: skip
        e = self._encode_now(texts, device, num_images_per_prompt, do_classifier_free_guidance,
                             clip_skip, lora_scale)  # fmt: skip
        assert e.text is not None
        return e.text, e.negative

    def _encode_now(
        self, texts: Texts, device: Any, per_prompt: Any, guided: Any, clip_skip: Any,
        lora_scale: Any = None,
    ) -> Embeds:  # fmt: skip
        """What encode_prompt gives, outside of a run."""
        scale = lora_factor("lora_scale", lora_scale)
        uses = tuple(use.scaled(scale) for use in self._loras.by_default())
        texts = replace(texts, loras=(uses,) * texts.batch)
        per_prompt = checks.integer("num_images_per_prompt", per_prompt, 1, checks.MAX_PICTURES)
        clip_skip = self._arguments()._check_clip_skip(clip_skip)
        warned: list[str] = []
        with self._runs.begin(Run(), self.device):
            embeds = within_memory(
                lambda: self._embeds(texts, bool(guided), clip_skip, warned),
                "fewer prompts at a time would help",
            )
            self._trim()
        issue(warned)
        place = self.device if device is None else torch.device(device)
        return embeds.repeated(per_prompt).to(place, self.parts.encoders[-1].dtype)

    def _embeds(
        self, texts: Texts, guided: bool, clip_skip: int | None, warned: list[str]
    ) -> Embeds:
        """A row for each of the texts; without guidance none for the negative ones."""
        tokenizer, encoder = self.parts.tokenizers[0], self.parts.encoders[0]
        layer = None if clip_skip is None else -(clip_skip + 1)
        text, negative = texts.given.text, texts.given.negative
        adapters = self._loras.rows("text_encoder", texts.loras)
        if text is None:
            text, _ = encode(tokenizer, encoder, texts.prompts, layer, warned, adapters=adapters)
            if layer is not None:
                with beside(adapters):
                    text = encoder.final_layer_norm(text)
        if guided and negative is None:
            negatives = texts.negatives or [""] * texts.batch
            length = None if texts.given.text is None else text.shape[1]
            negative, _ = encode(tokenizer, encoder, negatives, None, warned, length, adapters)
        return Embeds(text, negative if guided else None)

    def _told(self, r: Request, warned: list[str]) -> tuple[Embeds, Embeds | None]:
        """(embeddings of each picture's prompt and negative prompt, those of the empty prompt as
        negative ones, where a picture takes three rows).
        """
        guided = self._guides(r.scales, r.method)
        found = [self._embeds(r.texts, guided, r.clip_skip, warned)]
        if guided and r.method.three:
            found.append(self._embeds(r.texts.emptied(found[0]), True, r.clip_skip, warned))
        dtype = self.parts.encoders[-1].dtype
        embeds, *empty = (e.repeated(r.per_prompt).to(self.device, dtype) for e in found)
        return embeds, empty[0] if empty else None
