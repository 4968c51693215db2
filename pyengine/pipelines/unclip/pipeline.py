"""unCLIP from a text: a prior makes a picture's embedding of it, a decoder a picture of both.

Ramesh et al. 2022, arXiv:2204.06125 (DALL-E 2), in the layout of Karlo.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...errors import RequestError
from ...guard import inference
from ...jobs import checks
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models import PriorTransformer
from ..defaults import bounded
from ..unprompted import CALLBACK_TENSORS
from .base import UnCLIPBase, VariationDefaults
from .course import DECODER, FIRST, LAST, PRIOR
from .request import Texts, UnCLIPRequest


@dataclass(frozen=True)
class UnCLIPDefaults(VariationDefaults):
    """Of diffusers' UnCLIPPipeline."""

    prior_num_inference_steps: int = bounded(25, 2, 1000)
    prior_guidance_scale: float = bounded(4.0, 0, 1000)


class UnCLIPPipeline(UnCLIPBase):
    """Text to pictures with an unCLIP checkpoint (Karlo's layout); see `__call__`."""

    defaults_class: ClassVar[type[Any]] = UnCLIPDefaults
    takes_prompt: ClassVar[bool] = True
    names: ClassVar[tuple[str, ...]] = (PRIOR, DECODER, FIRST, LAST)

    @property
    def prior(self) -> PriorTransformer:
        return cast(PriorTransformer, self.models[PRIOR])

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        prior_num_inference_steps: int | None = None,
        decoder_num_inference_steps: int | None = None,
        super_res_num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prior_latents: Tensor | None = None,
        decoder_latents: Tensor | None = None,
        super_res_latents: Tensor | None = None,
        text_model_output: Any = None,
        text_attention_mask: Tensor | None = None,
        prior_guidance_scale: float | Sequence[float] | None = None,
        decoder_guidance_scale: float | Sequence[float] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        seed: int | Sequence[int] | None = None,
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them; names and order are those of diffusers'
        UnCLIPPipeline.

        Args:
            prompt: one text or B of them; None with text_model_output.
            num_images_per_prompt: pictures of a prompt follow each other.
            prior_num_inference_steps, decoder_num_inference_steps, super_res_num_inference_steps:
                of each stage, at least 2; 25, 25 and 7 unless told.
            generator: one per picture, or one from which the batch is drawn as diffusers does.
            prior_latents, decoder_latents, super_res_latents: [N, D], [N, 3, h, w] and
                [N, 3, height, width] standard normal noise in place of drawn.
            text_model_output: (text_embeds [B, D], last_hidden_state [B, L, D]), or an object with
                these, as the text encoder gives them: in place of prompt, for mixtures of texts.
            text_attention_mask: [B, L], 1 for the tokens of the text; with text_model_output.
            prior_guidance_scale, decoder_guidance_scale: for all (4 and 8 unless told), or one per
                picture. 1 or less of both leaves guidance out; else both stages are guided.
            guidance_start, guidance_end: shares of the prior's steps, and of the decoder's, between
                which these hold.
            output_type: "pil", "np", "pt" (0 to 1) or "latent", which is what was denoised, -1..1.
            return_dict: False gives a tuple in place of a PipelineOutput.
            clip_model, clip_guidance_scale, clip_prompt, clip_image: as of
                StableDiffusionPipeline's call: a CLIP whose gradient guides the decoder's stage, to
                the prompt unless told otherwise.
            classifier, classifier_scale, class_labels: likewise a classifier of noised pictures of
                the decoder's size.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": tensor}) after every
                model evaluation, whose steps count on from stage to stage; it may return them
                changed: embeddings [N, D] of the prior, then small pictures, then large ones.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere. A picture that was ended before its decoder
                began is grey, one that was ended there is the decoder's, enlarged.

        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _checked(self, arguments: dict[str, Any]) -> UnCLIPRequest:
        a = arguments
        prompts, texts = self._asked(a)
        batch = len(prompts) if prompts is not None else len(cast(Texts, texts).hidden)
        r = self._request(a, batch, ("prior", "decoder", "super_res"), words=prompts, texts=texts)
        r.prior_scale = self._scales("prior", a["prior_guidance_scale"], r.count)
        times = r.count // batch
        each = [i for i in range(batch) for _ in range(times)]
        if prompts is not None:
            r.prompts = [prompts[i] for i in each]
        if texts is not None:
            r.texts = texts.rows(each)
        return r

    def _asked(self, a: dict[str, Any]) -> tuple[list[str] | None, Texts | None]:
        given, mask = a["text_model_output"], a["text_attention_mask"]
        if given is None:
            if mask is not None:
                raise RequestError("text_attention_mask: expected only with text_model_output")
            if a["prompt"] is None:
                raise checks.refuse("prompt", "a text or a list of texts", None)
            return checks.texts("prompt", a["prompt"]), None
        if a["prompt"] is not None:
            raise RequestError("text_model_output: expected it or prompt, given both")
        return None, self._mixed(given, mask)

    def _mixed(self, given: Any, mask: Any) -> Texts:
        """Of text_model_output and text_attention_mask."""
        names = ("text_embeds", "last_hidden_state")
        found = [getattr(given, name, None) for name in names]
        if isinstance(given, list | tuple) and len(given) >= 2:
            found = list(given[:2])
        length, width = self.prior.config.num_embeddings, self.width
        first = found[0]
        if not isinstance(first, Tensor) or not isinstance(found[1], Tensor) or not first.numel():
            raise checks.refuse(
                "text_model_output",
                "(text_embeds, last_hidden_state), two float tensors",
                type(given).__name__,
            )
        shapes = ((len(first), width), (len(first), length, width))
        made = [
            checks.check_latents(t, shape, f"text_model_output: {name}")
            for name, t, shape in zip(names, found, shapes, strict=True)
        ]
        if not isinstance(mask, Tensor) or tuple(mask.shape) != shapes[1][:2]:
            found_mask = list(mask.shape) if isinstance(mask, Tensor) else mask
            raise checks.refuse(
                "text_attention_mask",
                f"a tensor {list(shapes[1][:2])} with text_model_output",
                found_mask,
            )
        projected, hidden = (t.to(self.device, self.dtype) for t in made)
        return Texts(hidden, projected, (mask != 0).float().to(self.device))

    def _texts(self, r: UnCLIPRequest, warned: list[str]) -> Texts:
        return self._encode(r.prompts, warned) if r.prompts is not None else cast(Texts, r.texts)
