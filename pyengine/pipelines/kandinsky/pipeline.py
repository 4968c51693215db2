"""Kandinsky 2.2's decoder: latents denoised under a picture's embedding, and decoded by MoVQ.

Razzhigaev et al. 2023, arXiv:2310.03502. Guidance: Ho & Salimans 2022, arXiv:2207.12598.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import images as pictures
from ...cuda import to_device
from ...diffusion.conditions import Conditions
from ...errors import RequestError
from ...finite import check_finite
from ...guard import inference
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...models import UNet2DConditionModel, VQModel
from ...pixels import made
from ...schedules import Plan
from ...schedules.plan import State
from ..arguments import check
from ..defaults import bounded
from ..unprompted import (
    CALLBACK_TENSORS,
    UnpromptedDefaults,
    UnpromptedPipeline,
    UnpromptedRequest,
)
from .hints import hints_of

#: Pixels along a side where a call does not say, as in diffusers.
SIDE = 512


@dataclass(frozen=True)
class KandinskyDefaults(UnpromptedDefaults):
    """Of diffusers' KandinskyV22Pipeline, and its KandinskyV22Img2ImgPipeline's strength."""

    num_inference_steps: int = bounded(100, 1, 1000)
    guidance_scale: float = bounded(4.0, 0, 1000)
    strength: float = bounded(0.3, 0, 1)


@dataclass(kw_only=True)
class KandinskyRequest(UnpromptedRequest):
    """embeds: [R, D], negative ones first where there is guidance. images: [M, 3, height, width] in
    -1..1, to begin from, each for count / M pictures, or None. strength: the share of the steps
    that runs from them. masks: [M, 1, height, width], 1 where `images` are made anew, or None;
    hints: [M, 3, 8 h, 8 w] likewise, of a ControlNet, or None.
    known, noise: [N, C, h, w], their latents and the noise of the start, while the request is
    carried out.
    """

    embeds: Tensor | None = None
    images: Tensor | None = None
    strength: float | None = None
    masks: Tensor | None = None
    hints: Tensor | None = None
    known: Tensor | None = None
    noise: Tensor | None = None


def rounded(side: int, factor: int) -> int:
    """Pixels along a side: the next multiple of the autoencoder's factor squared, as diffusers
    has it, so that the latents' sides are multiples of the factor.
    """
    return -(-side // factor**2) * factor**2


def bordered(mask: Tensor) -> Tensor:
    """[M, 1, h, w], 1 where a mask or one of six neighbours of a pixel is: not those above to the
    right and below to the left, as diffusers has it. Plain torch: once per call.
    """
    h, w = mask.shape[2:]
    padded = torch.nn.functional.pad(mask, (1, 1, 1, 1))
    shifts = ((1, 1), (0, 1), (1, 0), (0, 0), (2, 1), (1, 2), (2, 2))
    return torch.stack([padded[:, :, i : i + h, j : j + w] for i, j in shifts]).amax(dim=0)


class KandinskyV22Pipeline(UnpromptedPipeline[KandinskyRequest]):
    """Pictures of their embeddings with a Kandinsky 2.2 decoder; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = KandinskyDefaults
    main_part = "unet"
    decoder_part = "movq: the decoder"
    told_else = True

    @property
    def unet(self) -> UNet2DConditionModel:
        return cast(UNet2DConditionModel, self.network)

    @property
    def movq(self) -> VQModel:
        return cast(VQModel, self.models["movq"])

    @property
    def factor(self) -> int:
        found: int = self.movq.config.downscale
        return found

    @property
    def channels(self) -> int:
        found: int = self.movq.config.latent_channels
        return found

    @property
    def paints_in(self) -> bool:
        """Whether the U-Net is told a mask and what is known, beside the latents."""
        return bool(self.unet.config.in_channels == 2 * self.channels + 1)

    @property
    def reads_hints(self) -> bool:
        """Whether the U-Net is told a picture beside the embeddings: a ControlNet."""
        return bool(self.unet.config.addition_embed_type == "image_hint")

    @property
    def predicts_variance(self) -> bool:
        return bool(self.unet.config.out_channels == 2 * self.channels)

    @property
    def default_size(self) -> tuple[int, int]:
        return SIDE, SIDE

    @inference
    def __call__(
        self,
        image_embeds: Tensor | Sequence[Tensor] | None = None,
        negative_image_embeds: Tensor | Sequence[Tensor] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        hint: Any = None,
        guidance_method: str = "cfg",
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        timesteps: Sequence[int] | None = None,
        timestep_spacing: str | None = None,
        eta: float = 0.0,
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
        """Pictures of embeddings; names and order are those of diffusers' KandinskyV22Pipeline,
        with the image and strength of its KandinskyV22Img2ImgPipeline, the mask_image of its
        KandinskyV22InpaintPipeline, and the hint of its KandinskyV22ControlnetPipeline.

        Args:
            image_embeds: [B, D], or a list of such: what KandinskyV22PriorPipeline makes of texts,
                or CLIP's embeddings of pictures.
            negative_image_embeds: as many, what to guide away from; needed with guidance.
            height, width: pixels, 512 unless told, rounded up to multiples of the autoencoder's
                factor squared (64).
            num_inference_steps: 100 unless told.
            guidance_scale: for all (4 unless told), or one per picture; 1 or less leaves guidance
                out.
            num_images_per_prompt: pictures of each embedding, which follow each other.
            generator: one per picture, or one from which the batch is drawn as diffusers does.
            latents: [N, C, h, w] standard normal noise in place of drawn.
            output_type: "pil", "np", "pt" (0 to 1) or "latent".
            return_dict: False gives diffusers' tuple in place of a PipelineOutput.
            image: pictures to begin from (PIL, arrays or tensors in 0..1, a batch or a list): one
                for all, one per embedding, or one per picture.
            strength: 0 to 1, the share of the steps that `image` goes through; 0.3 unless told.
            mask_image: of decoders for inpainting, which need it: white where `image` is made anew,
                with a border of a latent's pixel; as many as of `image`.
            hint: of ControlNets, which need it: a tensor [B, 3, 8 h, 8 w] of what the model was
                trained to be told, beside latents of h x w, a list of such, or pictures, which
                become 0..1; one for all, one per embedding, or one per picture.
            guidance_method: "cfg" or "cfg++", as of StableDiffusionPipeline's call.
            guidance_start, guidance_end: shares of the steps between which guidance_scale holds.
            clip_model, clip_guidance_scale, clip_prompt, clip_image: as of
                StableDiffusionPipeline's call: a CLIP whose gradient guides, to clip_prompt or
                clip_image.
            classifier, classifier_scale, class_labels: likewise a classifier of noised latents.
            timesteps: the steps themselves, descending, for samplers that take them.
            timestep_spacing: "leading", "linspace" or "trailing", not the sampler's own.
            eta: DDIM's noise, 0 to 1.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            scheduler: a sampler by name (pyengine.schedules.SAMPLER_NAMES), not the checkpoint's.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": tensor}) after every
                model evaluation; it may return them changed.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        A variance that the network predicts is used where the scheduler's config asks for it, and
        else left out, as diffusers does.
        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    # --- arguments --------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> KandinskyRequest:
        names = ("image_embeds", "negative_image_embeds", "image", "strength", "mask_image")
        given = {name: arguments.pop(name) for name in names}
        embeds = self._embeds("image_embeds", given["image_embeds"])
        strength = self._strength(given["strength"], given["image"])
        self._check_mask(given["mask_image"], given["image"])
        hint = arguments.pop("hint", None)
        base = self._request(batch_size=len(embeds), strength=strength, **arguments)
        rows = [embeds]
        if self._guided(base):
            rows.insert(
                0,
                self._embeds("negative_image_embeds", given["negative_image_embeds"], len(embeds)),
            )
        times = base.count // len(embeds)
        own = {f.name: getattr(base, f.name) for f in fields(base)}
        return KandinskyRequest(
            **own,
            embeds=torch.cat([row.repeat_interleave(times, dim=0) for row in rows]),
            images=self._images(given["image"], base, len(embeds)),
            strength=strength,
            masks=self._masks(given["mask_image"], base, len(embeds)),
            hints=hints_of(
                hint,
                self.reads_hints,
                base.height // self.factor,
                base.width // self.factor,
                {1, len(embeds), base.count},
            ),
        )

    def _embeds(self, name: str, value: Any, count: int | None = None) -> Tensor:
        """[B, D] of a tensor or a list of them; count: B, where it is known."""
        width = self.unet.config.encoder_hid_dim
        parts = list(value) if isinstance(value, list | tuple) and value else [value]
        for part in parts:
            if not isinstance(part, Tensor) or part.dim() != 2 or not len(part):
                found = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise checks.refuse(name, f"a float tensor [B, {width}], or a list of such", found)
            checks.check_latents(part, (len(part), width), name)
        embeds = torch.cat([part.to(self.device, self.dtype) for part in parts])
        if count is not None and len(embeds) != count:
            raise checks.refuse(name, f"{count} rows, as many as image_embeds", len(embeds))
        return embeds

    def _strength(self, value: Any, image: Any) -> float | None:
        if image is None:
            if value is not None:
                raise RequestError("strength: expected only together with image")
            return None
        if self.paints_in:
            if value is not None:
                raise RequestError(
                    "strength: a decoder for inpainting begins with noise, and has none"
                )
            return None
        found: float = self.defaults.strength if value is None else check("strength", value)
        return found

    def _check_mask(self, mask: Any, image: Any) -> None:
        if self.paints_in and (mask is None or image is None):
            name = "image" if image is None else "mask_image"
            raise RequestError(
                f"{name}: this decoder is one for inpainting and needs it, given None"
            )
        if mask is not None and not self.paints_in:
            raise RequestError(
                "mask_image: this decoder is not one for inpainting, which alone takes it"
            )

    def _check_size(self, height: Any, width: Any, count: int) -> tuple[int, int]:
        found = []
        for name, value in (("height", height), ("width", width)):
            found.append(
                rounded(checks.side(name, SIDE if value is None else value, 1), self.factor)
            )
        checks.check_total(found[0], found[1], count)
        return found[0], found[1]

    def _images(self, image: Any, r: UnpromptedRequest, batch: int) -> Tensor | None:
        """[M, 3, height, width] in -1..1, of `image`: M divides the request's pictures."""
        if image is None:
            return None
        items = self._counted("image", pictures.as_list(image, "image"), r, batch)
        rows = []
        for item in made([pictures.numbers_of(i, "image", 3) for i in items], "image", mask=False):
            if isinstance(item, Image.Image):
                # Where it is far larger, by a whole factor first, as diffusers tells PIL.
                item = item.resize((r.width, r.height), Image.Resampling.BICUBIC, reducing_gap=1)
                rows.append(pictures.from_uint8(np.asarray(item)))
            else:
                rows.append(pictures.to_size(item, r.height, r.width))
        return 2.0 * torch.cat(rows) - 1.0

    def _masks(self, mask: Any, r: UnpromptedRequest, batch: int) -> Tensor | None:
        """[M, 1, height, width] of 0 and 1, of `mask_image`."""
        if mask is None:
            return None
        items = pictures.as_list(mask, "mask_image", grey=True)
        items = self._counted("mask_image", items, r, batch)
        return pictures.to_mask(items, r.height, r.width, "mask_image")

    @staticmethod
    def _counted(name: str, items: list[Any], r: UnpromptedRequest, batch: int) -> list[Any]:
        if len(items) not in (1, batch, r.count):
            counts = " or ".join(map(str, sorted({1, batch, r.count})))
            raise checks.refuse(name, f"{counts} pictures", f"{len(items)} pictures")
        return items

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: KandinskyRequest) -> Report:
        report = super()._report(r)
        report.strength = r.strength
        return report

    def _start(self, r: KandinskyRequest, plan: Plan, noise: NoiseSource) -> State:
        if r.images is None:
            return super()._start(r, plan, noise)
        given = to_device(r.images, self.device)
        found = [self.movq.encode(picture[None], return_dict=False)[0] for picture in given]
        times = r.count // len(found)
        clean = torch.cat(found).to(self.dtype).repeat_interleave(times, dim=0)
        check_finite(f"{self.source}: movq: the encoder", clean)
        if self.paints_in:
            state = super()._start(r, plan, noise)
            r.known, r.noise = clean, state.x
            return state
        return plan.start(self._noise(r, noise), clean)

    def _conditions(self, r: KandinskyRequest) -> Conditions:
        assert r.embeds is not None
        embeds = r.embeds.to(self.device, self.dtype)
        conditions = Conditions(
            embeds,
            added={"image_embeds": embeds},
            names=r.method.names(self._guided(r)),
        )
        if r.masks is not None and r.known is not None:
            anew = bordered(torch.nn.functional.interpolate(r.masks, r.known.shape[2:]))
            anew = anew.to(self.device, self.dtype).repeat_interleave(r.count // len(anew), dim=0)
            conditions.known, conditions.noise, conditions.mask = r.known, r.noise, anew
            conditions.extra = torch.cat([r.known * (1 - anew), 1 - anew], dim=1)
        if r.hints is not None:
            hints = [self.unet.encode_hint(hint[None]) for hint in to_device(r.hints, self.device)]
            times = r.count // len(hints)
            conditions.extra = torch.cat(hints).repeat_interleave(times, dim=0)
        return conditions

    def pixels_of(self, latents: Tensor) -> Tensor:
        """[N, 3, H, W] in about -1..1 of `latents` [N, C, h, w]; gradients go through it."""
        found: Tensor = self.movq.decode(latents, force_not_quantize=True, return_dict=False)[0]
        return found
