"""Texts to embeddings, and encode_prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...cuda import within_memory
from ...diffusion.request import Request
from ...guard import inference
from ...guidance import Method
from ...jobs import checks
from ...jobs.output import issue
from ...jobs.runs import Run, Runs
from ..arguments import check
from ..loras import Loras, lora_factor
from ..prompt_weights import Weighted, chunk_counts
from ..text import encode, token_length
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
        *,
        prompt_weighting: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the text encoder makes of prompts, as diffusers' pipeline has it.

        A row per picture, those of a prompt together. LoRAs that set_adapters chose count.

        Args:
            prompt: one text or B of them.
            device: where the embeddings are to be; None: where the model is.
            num_images_per_prompt: rows of each prompt, which follow each other.
            do_classifier_free_guidance: False leaves the negative ones out.
            negative_prompt: one for all, or one per prompt.
            prompt_embeds, negative_prompt_embeds: [B, L, C] in place of the texts: they are
                repeated and converted.
            lora_scale: what the weights of LoRAs that set_adapters chose are multiplied by.
            clip_skip: text encoder layers to leave out.
            prompt_weighting: "a1111" or "compel", as in a call; all rows are as long as the
                longest.

        Returns:
            (prompt_embeds, negative_prompt_embeds or None without guidance), [N, L, C] each.
        """
        texts = self._widths().read(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        e = self._encode_now(
            texts,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            clip_skip,
            lora_scale,
            prompt_weighting,
        )
        assert e.text is not None
        return e.text, e.negative

    def _encode_now(
        self,
        texts: Texts,
        device: Any,
        per_prompt: Any,
        guided: Any,
        clip_skip: Any,
        lora_scale: Any = None,
        prompt_weighting: Any = None,
    ) -> Embeds:
        """What encode_prompt gives, outside of a run."""
        scale = lora_factor("lora_scale", lora_scale)
        uses = tuple(use.scaled(scale) for use in self._loras.by_default())
        texts = self._weighed(replace(texts, loras=(uses,) * texts.batch), prompt_weighting)
        if texts.weighted is not None:
            most = max(texts.weighted.counts)
            one = replace(texts.weighted, counts=(most,) * texts.batch)
            texts = replace(texts, weighted=one)
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
        adapters, weighted = self._loras.rows("text_encoder", texts.loras), texts.weighted
        if text is None:
            norm = None if layer is None else encoder.final_layer_norm
            text, _ = encode(
                tokenizer,
                encoder,
                texts.prompts or [],
                layer,
                warned,
                None,
                adapters,
                weighted,
                norm,
            )
        if guided and negative is None:
            negatives = texts.negatives or [""] * texts.batch
            length = None if texts.given.text is None else text.shape[1]
            negative, _ = encode(
                tokenizer, encoder, negatives, None, warned, length, adapters, weighted
            )
        return Embeds(text, negative if guided else None)

    def _weighed(self, texts: Texts, syntax: Any) -> Texts:
        """The texts with how their words are weighed, and the chunks that each takes in the text
        encoders, prompt and negative prompt alike. Embeddings of several chunks take as many.
        """
        syntax = None if syntax is None else check("prompt_weighting", syntax)
        lengths = [
            token_length(*own)
            for own in zip(self.parts.tokenizers, self.parts.encoders, strict=True)
        ]
        given = None if texts.given.text is None else texts.given.text.shape[1]
        if given is not None:
            if given == lengths[0] or given % lengths[0] or texts.given.negative is not None:
                return texts
            return replace(texts, weighted=Weighted(syntax, (given // lengths[0],) * texts.batch))
        if syntax is None:
            return texts
        own = texts.prompts, texts.negatives, texts.prompts_2, texts.negatives_2
        counts = [1] * texts.batch
        for tokenizer, length in zip(self.parts.tokenizers, lengths, strict=True):
            for each in own:
                found = chunk_counts(syntax, tokenizer, length, each or [])
                counts = [max(pair) for pair in zip(counts, found or counts, strict=True)]
        return replace(texts, weighted=Weighted(syntax, tuple(counts)))

    def _text_lengths(self, r: Request) -> tuple[int, ...]:
        """Tokens of each picture's text, where they are not all as long; else ()."""
        weighted = r.texts.weighted
        if weighted is None or len(set(weighted.counts)) == 1:
            return ()
        length = token_length(self.parts.tokenizers[0], self.parts.encoders[0])
        return tuple(length * n for n in weighted.repeated(r.per_prompt).counts)

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
