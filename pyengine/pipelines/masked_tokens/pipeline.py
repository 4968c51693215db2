"""Text to picture by masked tokens with a small transformer: emoji-masked.

Chang et al. 2022, arXiv:2202.04200 (MaskGIT); Chang et al. 2023, arXiv:2301.00704 (Muse).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ... import images as pictures
from ...finite import check_finite
from ...guard import inference
from ...jobs.output import TokenOutput
from ...jobs.runs import Run
from ...models import CLIPTextModel, MaskedTransformer, VQModel
from ...models.tokens.uvit import UVitContext
from ...schedules.masked import MaskedConfig
from ...tokenizer import ClipTokenizer
from ..amused.pipeline import AmusedDefaults, AmusedPipeline
from ..amused.request import MaskedRequest
from ..text import tokenize


@dataclass(frozen=True)
class MaskedTokensParts:
    """A checkpoint's transformer, and the parts of the shipped models that it names."""

    transformer: MaskedTransformer
    vqvae: VQModel
    text_encoder: CLIPTextModel
    tokenizer: ClipTokenizer
    schedule: MaskedConfig


class MaskedTokensPipeline(AmusedPipeline):
    """Text to pictures by masked tokens; see `__call__`."""

    defaults_class = AmusedDefaults

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        prefix: Any = None,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        temperature: float | tuple[float, float] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        output_type: str = "pil",
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("tokens",),
        progress: bool | None = None,
        return_dict: bool = True,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> TokenOutput:
        """Pictures for one prompt or a list of them; AmusedPipeline's arguments without its
        micro-conditions.

        Args:
            prompt: one text or B of them.
            height, width: pixels, the model's own; anything else is refused.
            num_inference_steps: evaluations of the transformer, 1 to 1000.
            guidance_scale: 1 or less leaves guidance out.
            negative_prompt: one for all, or one per prompt.
            num_images_per_prompt: pictures of a prompt follow each other.
            generator: one per picture, or one from which the batch is drawn.
            latents: [N, h, w] int64 tokens to begin with, the mask token where not known.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            prefix: the first tokens of the picture in reading order, [n] for all or [N, n], or a
                picture of the upper rows.
            image: a picture to begin from, or one per prompt or picture.
            strength: 0 to 1, how much of `image` is made anew: 0.5 unless told, with mask_image 1.
            mask_image: white where `image` is made anew; black and transparent parts are kept.
            temperature: of the noise that decides which tokens are masked again: at the first and
                the last step, or one number, which falls to 0.01.
            top_k: as many of the likeliest may be drawn; 0: all.
            top_p: so may the likeliest that reach this probability together; 1: all.
            min_p: so may those with at least this share of the likeliest one's probability; 0: all.
            output_type: "pil", "np", "pt" (0 to 1) or "latent": the tokens as images.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"tokens": [N, h, w]}) after
                every evaluation; it may return them changed.
            callback_on_step_end_tensor_inputs: what of these it is given: tokens.
            progress: a bar on standard error; None shows one on a terminal.
            return_dict: False gives a tuple in place of a TokenOutput.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        Returns:
            The pictures, with their seeds and a report; of a token model its tokens, too.

        Raises:
            RequestError: that names the argument.
            BusyError: where `timeout` is over first.
            NotFiniteError: where the network's numbers are not finite.
        """
        output: TokenOutput = self._call(locals())
        return output

    def _checked(self, arguments: dict[str, Any]) -> MaskedRequest:
        given = dict(arguments)
        self._check_size(given["height"], given["width"])
        given["height"], given["width"] = self.default_size
        given["micro_conditioning_aesthetic_score"] = None
        given["micro_conditioning_crop_coord"] = (0, 0)
        return super()._checked(given)

    def _context(
        self, r: MaskedRequest, guided: bool, warned: list[str]
    ) -> tuple[UVitContext, int]:
        texts = [r.negatives or [""] * len(r.prompts)] if guided else []
        texts.append(cast("list[str]", r.prompts))
        tokenizer, encoder = self.parts.tokenizer, self.parts.text_encoder
        ids = torch.cat([tokenize(tokenizer, encoder, t, warned) for t in texts])
        out = encoder(ids)
        hidden, pooled = (
            x.repeat_interleave(r.per_prompt, dim=0)
            for x in (out.last_hidden_state, out.pooler_output)
        )
        for x in (hidden, pooled):
            check_finite(f"{self.source}: text encoder", x, r.count)
        model = cast("Any", self.model)
        return model.encode_context(hidden, pooled), hidden.shape[1]

    def _encode(self, x: Tensor) -> Tensor:
        return self.vqvae.encode_tokens(2 * x - 1)

    def _shown(self, decoded: Tensor, output_type: str) -> Any:
        return pictures.from_tensor(decoded, output_type)
