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
from ...jobs.output import PipelineOutput
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
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them; the arguments are those of
        AmusedPipeline.__call__ without aMUSEd's micro-conditions. height, width: the model's own,
        or nothing. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
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
