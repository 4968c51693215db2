"""DiT: pictures of a class, latents denoised by a transformer.

Peebles & Xie 2022, arXiv:2212.09748. Guidance: Ho & Salimans 2022, arXiv:2207.12598.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...cuda import to_device
from ...diffusion.conditions import Conditions
from ...diffusion.latents import unscale_latents
from ...guard import inference
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models import AutoencoderKL, DiTTransformer2DModel
from ...models.base import Model
from ..class_labels import Labels, label_ids
from ..defaults import bounded
from ..diffusers_names.schedulers import NamedScheduler
from ..unprompted import (
    CALLBACK_TENSORS,
    UnpromptedDefaults,
    UnpromptedPipeline,
    UnpromptedRequest,
)


@dataclass(frozen=True)
class DiTDefaults(UnpromptedDefaults):
    """Of diffusers' DiTPipeline."""

    guidance_scale: float = bounded(4.0, 0, 1000)


class DiTPipeline(UnpromptedPipeline[UnpromptedRequest]):
    """Pictures of a DiT checkpoint; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = DiTDefaults
    main_part = "transformer"
    decoder_part = "vae: the decoder"

    def __init__(
        self,
        models: dict[str, Model],
        checkpoint: Any,
        source: str,
        defaults: Any,
        scheduler: NamedScheduler,
        names: dict[int, str],
    ):
        """names: by class, each perhaps several with commas between."""
        super().__init__(models, checkpoint, source, defaults, scheduler)
        self._names = names

    @property
    def transformer(self) -> DiTTransformer2DModel:
        return cast(DiTTransformer2DModel, self.network)

    @property
    def vae(self) -> AutoencoderKL:
        return cast(AutoencoderKL, self.models["vae"])

    @property
    def known_labels(self) -> Labels:
        return Labels("classes", self.transformer.config.num_embeds_ada_norm)

    @property
    def labels(self) -> dict[str, int]:
        """{name: class}, where the checkpoint names its classes."""
        known = {part.strip(): k for k, name in self._names.items() for part in name.split(",")}
        return dict(sorted(known.items()))

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """The classes of these names: what class_labels takes.

        Args:
            label: a name, or a list of names.

        Returns:
            A list of numbers, one for each name.

        Raises:
            RequestError: for a name that there is not.
        """
        return label_ids(self._names, label)

    @property
    def factor(self) -> int:
        found: int = self.vae.config.downscale
        return found

    @property
    def multiple(self) -> int:
        return self.factor * self.transformer.config.patch_size

    @property
    def channels(self) -> int:
        return self.transformer.config.in_channels

    @property
    def predicts_variance(self) -> bool:
        return self.transformer.config.outputs == 2 * self.channels

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained for."""
        side = self.transformer.config.sample_size * self.factor
        return side, side

    @inference
    def __call__(
        self,
        class_labels: Any = None,
        guidance_scale: float | Sequence[float] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        guidance_method: str = "cfg",
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        classifier: Any = None,
        classifier_scale: float | None = None,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        num_images_per_prompt: int = 1,
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
        """Pictures of classes; names and order are those of diffusers' DiTPipeline.

        Args:
            class_labels: one class, or one for each picture; `get_label_ids` finds them by name.
            guidance_scale: for all (4 unless told), or one per picture; 1 or less leaves guidance
                out.
            generator: one per picture, or one from which the batch is drawn as diffusers does.
            num_inference_steps: 50 unless told.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False gives diffusers' tuple in place of a PipelineOutput.
            guidance_method: "cfg" or "cfg++", as of StableDiffusionPipeline's call.
            guidance_start, guidance_end: shares of the steps between which guidance_scale holds.
            classifier, classifier_scale: as of DDPMPipeline's call; it classifies noised latents.
            clip_model, clip_guidance_scale, clip_prompt, clip_image: as of
                StableDiffusionPipeline's call: a CLIP whose gradient guides, to clip_prompt or
                clip_image.
            num_images_per_prompt: pictures of each class, which follow each other.
            height, width: pixels, multiples of the autoencoder's factor times the patch's side; the
                model was trained for one size.
            timesteps: the steps themselves, descending, for samplers that take them.
            timestep_spacing: "leading", "linspace" or "trailing", not the sampler's own.
            eta: DDIM's noise, 0 to 1.
            latents: [N, C, h, w] standard normal noise in place of drawn.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            scheduler: a sampler by name (pyengine.schedules.SAMPLER_NAMES), not the checkpoint's.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": tensor}) after every
                model evaluation; it may return them changed.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        A variance that the network predicts is used where the scheduler's config asks for it
        (variance_type "learned_range"), and else left out, as diffusers does.
        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _checked(self, arguments: dict[str, Any]) -> UnpromptedRequest:
        return self._request(batch_size=1, **arguments)

    def _conditions(self, r: UnpromptedRequest) -> Conditions:
        """A row of no class for each picture, then its own, where any is guided."""
        assert r.labels is not None  # known_labels is
        guided, labels = self._guided(r), r.labels
        if guided:
            none = torch.full_like(labels, self.transformer.config.num_embeds_ada_norm)
            labels = torch.cat([none, labels])
        return Conditions(
            labels=to_device(labels, self.device),
            pictures=r.count,
            names=r.method.names(guided),
        )

    def pixels_of(self, latents: Tensor) -> Tensor:
        """[N, 3, H, W] in about -1..1 of `latents` [N, C, h, w]; gradients go through it."""
        latents = unscale_latents(latents, self.vae.config, per_channel=False)
        found: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return found
