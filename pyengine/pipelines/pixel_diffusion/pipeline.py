"""Pixel diffusion by text: pictures denoised as pixels by a small transformer over patches.

Ho et al. 2020, arXiv:2006.11239; the network predicts the clean picture: Li & He 2025,
arXiv:2511.13720. Guidance: Ho & Salimans 2022, arXiv:2207.12598.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...cuda import to_device
from ...diffusion.call import DenoisingCall
from ...diffusion.conditions import Conditions
from ...finite import check_finite
from ...guard import inference
from ...guidance import EMPTY, NEGATIVE, TEXT
from ...jobs import checks
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...models import PatchTransformer
from ...models.base import Model
from ...tokenizer import ClipTokenizer
from ..defaults import bounded
from ..diffusers_names.schedulers import NamedScheduler
from ..shipped_text import ShippedText
from ..unprompted import (
    CALLBACK_TENSORS,
    UnpromptedDefaults,
    UnpromptedPipeline,
    UnpromptedRequest,
)


@dataclass(frozen=True)
class PixelDiffusionDefaults(UnpromptedDefaults):
    """Of a call of PixelDiffusionPipeline."""

    num_inference_steps: int = bounded(25, 1, 1000)
    guidance_scale: float = bounded(2.0, 0, 1000)


@dataclass(kw_only=True)
class PixelDiffusionRequest(UnpromptedRequest):
    """prompts, negatives: B texts each. vectors: [R, V], as the text encoder has read them, the
    prompts' last, while the request is carried out.
    """

    prompts: list[str] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)
    vectors: Tensor | None = None


class PixelDiffusionPipeline(UnpromptedPipeline[PixelDiffusionRequest]):
    """Text to pictures with a checkpoint of `pyengine train ddpm`; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = PixelDiffusionDefaults
    takes_prompt: ClassVar[bool] = True
    main_part = "network"
    told_else = True

    def __init__(
        self,
        network: PatchTransformer,
        text: ShippedText,
        checkpoint: Any,
        source: str,
        defaults: Any,
        scheduler: NamedScheduler,
    ):
        models: dict[str, Model] = {"network": network, "text_encoder": text.encoder}
        super().__init__(models, checkpoint, source, defaults, scheduler)
        self.text = text

    @property
    def components(self) -> dict[str, Any]:
        return {**super().components, "tokenizer": self.text.tokenizer}

    @property
    def clip_tokenizer(self) -> ClipTokenizer:
        return self.text.tokenizer

    @property
    def channels(self) -> int:
        return cast(PatchTransformer, self.network).config.out_channels

    @property
    def default_size(self) -> tuple[int, int]:
        side = cast(PatchTransformer, self.network).config.sample_size
        return side, side

    def _check_size(self, height: Any, width: Any, count: int) -> tuple[int, int]:
        """The one size that there is."""
        for name, value, own in zip(
            ("height", "width"), (height, width), self.default_size, strict=True
        ):
            if value is not None and checks.side(name, value, 1) != own:
                raise checks.refuse(name, f"{own}, the only size of this model, or None", value)
        checks.check_total(*self.default_size, count)
        return self.default_size

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        height: int | None = None,
        width: int | None = None,
        timesteps: Sequence[int] | None = None,
        timestep_spacing: str | None = None,
        eta: float = 0.0,
        latents: Tensor | None = None,
        seed: int | Sequence[int] | None = None,
        scheduler: str | None = None,
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them.

        Args:
            prompt: one text or B of them.
            num_inference_steps: 25 unless told or the checkpoint says otherwise.
            guidance_scale: for all, or one per picture; 1 or less leaves guidance out. 2 unless
                told or the checkpoint says otherwise.
            negative_prompt: one for all, or one per prompt; the empty text unless told.
            num_images_per_prompt: pictures of a prompt follow each other.
            generator: one per picture, or one from which the batch is drawn.
            output_type: "pil", "np", "pt" (0 to 1) or "latent", which is what was denoised, -1..1.
            return_dict: False gives a tuple in place of a PipelineOutput.
            guidance_method, negative_scale, guidance_start, guidance_end: as of
                StableDiffusionPipeline's call.
            classifier, classifier_scale, class_labels: as of StableDiffusionPipeline's call; the
                classifier reads noised pictures.
            clip_model, clip_guidance_scale, clip_prompt, clip_image: as of
                StableDiffusionPipeline's call: a CLIP whose gradient guides.
            height, width: the model's own, or nothing.
            timesteps: the steps themselves, descending, for samplers that take them.
            timestep_spacing: "leading", "linspace" or "trailing", not the sampler's own.
            eta: DDIM's noise, 0 to 1.
            latents: [N, 3, height, width] standard normal noise in place of drawn.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            scheduler: a sampler by name (pyengine.schedules.SAMPLER_NAMES), not the checkpoint's.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": tensor}) after every
                model evaluation; it may return them changed.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    # --- the run ----------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> PixelDiffusionRequest:
        prompt, negative = arguments.pop("prompt"), arguments.pop("negative_prompt")
        if prompt is None:
            raise checks.refuse("prompt", "a text or a list of texts", None)
        prompts = checks.texts("prompt", prompt)
        negatives = [""] * len(prompts)
        if negative is not None:
            negatives = checks.texts("negative_prompt", negative, len(prompts))
        base = self._request(
            batch_size=len(prompts), prompts=prompts, has_negative=negative is not None, **arguments
        )
        own = {f.name: getattr(base, f.name) for f in fields(base)}
        return PixelDiffusionRequest(**own, prompts=prompts, negatives=negatives)

    def _begin(
        self, r: PixelDiffusionRequest, report: Report
    ) -> DenoisingCall[PixelDiffusionRequest]:
        with report.stage("encode_prompt", self.device):
            named = {EMPTY: [""] * len(r.prompts), NEGATIVE: r.negatives, TEXT: r.prompts}
            texts = [text for name in r.method.names(self._guided(r)) for text in named[name]]
            read = self.text.encode(texts, report.warnings)[1]
            vectors = read.repeat_interleave(r.count // len(r.prompts), dim=0)
            check_finite(f"{self.source}: text encoder", vectors, r.count)
        return super()._begin(replace(r, vectors=vectors), report)

    def _conditions(self, r: PixelDiffusionRequest) -> Conditions:
        assert r.vectors is not None
        names = r.method.names(self._guided(r))
        labels = to_device(r.vectors, self.device)
        return Conditions(labels=labels, pictures=r.count, names=names)
