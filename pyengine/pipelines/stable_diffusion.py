"""Stable Diffusion 1.x and 2.x: text to picture, picture to picture, inpainting.

Rombach et al. 2022, arXiv:2112.10752. Guidance: Ho & Salimans 2022, arXiv:2207.12598. Distilled
models that take the guidance scale as an input: Luo et al. 2023, arXiv:2310.04378.
"""

import dataclasses
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import images as pictures
from ..errors import ConfigError, RequestError
from ..models import AutoencoderKL, UNet2DConditionModel
from ..ops._backend import kernels_used
from ..progress import progress as progress_bar
from ..schedules import SAMPLER_NAMES, Plan, Scheduler, from_config
from ..tokenizer import ClipTokenizer
from . import request as checks
from .latents import LatentMaker, Start
from .noise import NoiseSource
from .output import PipelineOutput, Report, peak_memory, reset_peak_memory
from .request import Request
from .text import Encoder, encode, guidance_embedding

#: Timesteps that are embedded together, times rows of conditions: bounds the table's memory.
EMBEDDED_ROWS = 1024
#: What a callback may ask for and give back.
CALLBACK_TENSORS = ("latents", "prompt_embeds")


class StopSampling(Exception):  # noqa: N818 - a request, not an error
    """Raised by a callback to end a run after the step that it was called for."""


@dataclass(frozen=True)
class Defaults:
    """What a call uses where the caller says nothing; a checkpoint's pyengine.json may say more.

    strength: of image-to-image; inpaint_strength, inpaint_guidance_scale (None: guidance_scale):
    of inpainting.
    """

    num_inference_steps: int = dataclasses.field(default=50, metadata={"min": 1, "max": 1000})
    guidance_scale: float = dataclasses.field(default=7.5, metadata={"min": 0, "max": 1000})
    guidance_rescale: float = dataclasses.field(default=0.0, metadata={"min": 0, "max": 1})
    strength: float = dataclasses.field(default=0.8, metadata={"min": 0, "max": 1})
    inpaint_strength: float = dataclasses.field(default=1.0, metadata={"min": 0, "max": 1})
    inpaint_guidance_scale: float | None = dataclasses.field(
        default=None, metadata={"min": 0, "max": 1000}
    )


@dataclass
class Conditions:
    """What the U-Net is told besides latents and time, a row per picture.

    text: [N, L, C], or [2 N, L, C] with the N negative rows first where guidance is on.
    added: SDXL's text_embeds and time_ids, with as many rows, or None.
    guidance: [1, time_cond_proj_dim] for distilled models, or None.
    """

    text: Tensor
    added: dict[str, Tensor] | None = None
    guidance: Tensor | None = None


@dataclass(frozen=True)
class Parts:
    """A checkpoint's parts, loaded. encoders and tokenizers: SDXL has two of each.

    scheduler_config: the parsed scheduler_config.json. pipeline_class, options, source, defaults:
    see pyengine.pipelines.loading.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: tuple[Encoder, ...]
    tokenizers: tuple[ClipTokenizer, ...]
    scheduler_config: dict
    pipeline_class: str
    options: dict[str, bool]
    source: str
    defaults: Defaults
    checkpoint: Any = None


class StableDiffusionPipeline:
    """Text to pictures with a Stable Diffusion 1.x or 2.x checkpoint; see `__call__`.

    Made by `pyengine.from_pretrained`. One call runs at a time; others wait. Safety checkers that
    a checkpoint may bring are not run.
    """

    stable_diffusion: ClassVar[bool] = True
    defaults_class: ClassVar[type[Defaults]] = Defaults

    def __init__(self, parts: Parts):
        self.parts = parts
        self.unet, self.vae = parts.unet, parts.vae
        self.defaults = parts.defaults
        self._interrupt = False
        self._lock = threading.Lock()
        # Reads the scheduler's config now, so that a bad one is refused when the model is loaded.
        self.scheduler = self._scheduler(None)

    # --- what it is -------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """The path or Hub id that it was loaded from."""
        return self.parts.source

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, hexadecimal; "" where the parts came from elsewhere."""
        return self.parts.checkpoint.model_hash if self.parts.checkpoint is not None else ""

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained for."""
        size = self.unet.config.sample_size or 64
        height, width = size if isinstance(size, tuple) else (size, size)
        return height * self.vae.config.downscale, width * self.vae.config.downscale

    @property
    def inpainting_unet(self) -> bool:
        """Whether the U-Net has channels of its own for a mask and a masked picture."""
        return self.unet.config.in_channels == 2 * self.vae.config.latent_channels + 1

    def interrupt(self) -> None:
        """Ends the run in progress after the step it is at; safe from any thread."""
        self._interrupt = True

    # --- the call ---------------------------------------------------------------------------------

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        scheduler: str | None = None,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        eta: float = 0.0,
        clip_skip: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        progress: bool | None = None,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them; the names are diffusers'.

        negative_prompt: one for all, or one per prompt. height, width: pixels, multiples of the
        autoencoder's factor (8); the checkpoint's own size, or the picture's that `image` brings.
        guidance_scale: 1 or less leaves guidance out. num_images_per_prompt: pictures of a prompt
        follow each other. seed: s gives picture i the seed s + i; a list one each; None random
        ones, which the result tells. generator: one per picture, or one from which the whole batch
        is drawn as diffusers does. latents: [N, C, h, w] standard normal noise in place of drawn.
        scheduler: a sampler by name (pyengine.schedules.SAMPLER_NAMES), not the checkpoint's own.
        image: a picture to begin from (PIL, array [H, W, 3] or tensor [3, H, W] in [0, 1], a batch
        or a list of these, or a tensor of scaled latents); strength: 0 to 1, how much of it is made
        anew. mask_image: white where `image` is made anew. eta: DDIM's noise. clip_skip: text
        encoder layers to leave out. output_type: "pil", "np", "pt" or "latent".
        callback_on_step_end: called as (pipe, step, timestep, {name: tensor}) after every model
        evaluation; it may return some of these tensors changed, call pipe.interrupt() or raise
        StopSampling. progress: a bar on standard error; None shows one on a terminal.

        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        arguments = {k: v for k, v in locals().items() if k not in ("self", "progress")}
        return self._generate(self._request(**arguments), progress)

    def _request(
        self, *, prompt, negative_prompt, height, width, num_inference_steps, guidance_scale,
        guidance_rescale, num_images_per_prompt, seed, generator, latents, scheduler, image,
        strength, mask_image, eta, clip_skip, output_type, callback_on_step_end,
        callback_on_step_end_tensor_inputs,
    ) -> Request:  # fmt: skip
        """The checked Request; arguments as in `__call__`."""
        prompts = checks.texts("prompt", prompt)
        negatives = None
        if negative_prompt is not None:
            negatives = checks.texts("negative_prompt", negative_prompt, len(prompts))
        per_prompt = checks.integer(
            "num_images_per_prompt", num_images_per_prompt, 1, checks.MAX_PICTURES
        )
        count = len(prompts) * per_prompt
        items, masks = self._check_pictures(image, mask_image, count)
        height, width = self._check_size(height, width, items, masks is not None, count)
        d = self.defaults
        default_strength, default_guidance = d.strength, d.guidance_scale
        if masks is not None:
            default_strength = d.inpaint_strength
            default_guidance = d.inpaint_guidance_scale or default_guidance
        r = Request(
            prompts=prompts,
            negatives=negatives,
            per_prompt=per_prompt,
            height=height,
            width=width,
            steps=self._or(num_inference_steps, d.num_inference_steps, checks.integer,
                           "num_inference_steps", 1, 100_000),
            guidance_scale=self._or(guidance_scale, default_guidance, checks.real,
                                    "guidance_scale", 0, checks.MAX_GUIDANCE),
            guidance_rescale=self._or(guidance_rescale, d.guidance_rescale, checks.real,
                                      "guidance_rescale", 0, 1),
            strength=1.0 if items is None else self._or(strength, default_strength, checks.real,
                                                        "strength", 0, 1),
            eta=checks.real("eta", eta, 0, 1),
            clip_skip=self._check_clip_skip(clip_skip),
            output_type=checks.choice("output_type", output_type, checks.OUTPUT_TYPES),
            images=items,
            masks=masks,
        )  # fmt: skip
        if strength is not None and items is None:
            raise RequestError("strength: expected only together with image")
        if scheduler is not None:
            r.scheduler = checks.choice("scheduler", scheduler, SAMPLER_NAMES)
        r.seeds, r.generators = checks.seeds_and_generators(seed, generator, count, self.device)
        if latents is not None:
            if items is not None and masks is None:
                raise RequestError("latents: expected no image with them; give latents as image")
            r.latents = checks.check_latents(latents, self._latent_shape(r))
        r.callback = callback_on_step_end
        r.callback_inputs = checks.check_callback(
            callback_on_step_end, callback_on_step_end_tensor_inputs, CALLBACK_TENSORS
        )
        return r

    @staticmethod
    def _or(value: Any, default: Any, check: Callable, field: str, low: float, high: float) -> Any:
        return default if value is None else check(field, value, low, high)

    def _latent_shape(self, r: Request) -> tuple[int, int, int, int]:
        factor = self.vae.config.downscale
        channels = self.vae.config.latent_channels
        return (r.count, channels, r.height // factor, r.width // factor)

    def _check_pictures(self, image: Any, mask: Any, count: int):
        """(images, masks) as lists or None, a number of them that divides `count`."""
        if image is None:
            if mask is not None:
                raise RequestError("mask_image: expected an image with it, given none")
            if self.inpainting_unet:
                raise RequestError("image: this model is for inpainting: expected image and"
                                   " mask_image, given neither")  # fmt: skip
            return None, None
        if mask is None and self.inpainting_unet:
            raise RequestError("mask_image: this model is for inpainting: expected one, given none")
        found = []
        for field, value in (("image", image), ("mask_image", mask)):
            items = None if value is None else pictures.as_list(value, field)
            if items is not None and (len(items) > count or count % len(items)):
                raise checks.refuse(field, f"a number of them that divides {count} pictures",
                                    len(items))  # fmt: skip
            found.append(items)
        self._check_image_latents(found[0], mask is not None)
        return tuple(found)

    def _check_image_latents(self, items: list, masked: bool) -> None:
        channels = self.vae.config.latent_channels
        which = [pictures.is_latents(item, channels) for item in items]
        if not any(which):
            return
        if masked:
            raise RequestError("image: expected pictures with mask_image, given latents")
        if not all(which) or len({item.shape for item in items}) > 1:
            raise RequestError("image: expected pictures, or latents of one shape, given both")
        for item in items:
            if not item.is_floating_point() or not torch.isfinite(item).all():
                raise RequestError(
                    "image: expected finite latents, given NaN, infinity or integers"
                )

    def _check_size(self, height, width, items, masked: bool, count: int) -> tuple[int, int]:
        factor = self.vae.config.downscale
        default = self.default_size
        if items is not None and pictures.is_latents(items[0], self.vae.config.latent_channels):
            h, w = pictures.size_of(items[0])
            default = (h * factor, w * factor)
            if (height or default[0], width or default[1]) != default:
                raise checks.refuse("height, width", f"those of the latents, {default}",
                                    (height, width))  # fmt: skip
        elif items is not None and not masked:
            # As diffusers: image-to-image keeps the picture's size, inpainting takes the model's.
            if len({pictures.size_of(item) for item in items}) > 1 and None in (height, width):
                raise RequestError("image: expected pictures of one size, or height and width")
            h, w = pictures.size_of(items[0])
            default = (h - h % factor, w - w % factor)
            if 0 in default and None in (height, width):
                raise checks.refuse("image", f"at least {factor}x{factor} pixels", f"{h}x{w}")
        height = checks.side("height", default[0] if height is None else height, factor)
        width = checks.side("width", default[1] if width is None else width, factor)
        checks.check_total(height, width, count)
        return height, width

    def _check_clip_skip(self, value: Any) -> int | None:
        if value is None:
            return None
        layers = min(e.config.num_hidden_layers for e in self.parts.encoders)
        return checks.integer("clip_skip", value, 0, layers - (not self.stable_diffusion))

    # --- the run ----------------------------------------------------------------------------------

    def _scheduler(self, name: str | None) -> Scheduler:
        return from_config(
            self.parts.scheduler_config, name, stable_diffusion=self.stable_diffusion
        )

    def _generate(self, r: Request, show_progress: bool | None) -> PipelineOutput:
        with self._lock, torch.no_grad():
            self._interrupt = False
            return self._run(r, show_progress)

    def _run(self, r: Request, show_progress: bool | None) -> PipelineOutput:
        scheduler = self.scheduler if r.scheduler is None else self._scheduler(r.scheduler)
        plan = scheduler.plan(r.steps, strength=r.strength, eta=r.eta)
        report = self._report(r, plan)
        device = self.device
        reset_peak_memory(device)
        with kernels_used() as used, report.stage("total", device):
            with report.stage("encode_prompt", device):
                conditions = self._conditions(r, report.warnings)
            noise = NoiseSource(r.generators, device)
            stage = "prepare" if r.images is None else "encode_image"
            with report.stage(stage, device):
                start = self._start(r, plan, noise)
            with report.stage("denoise", device):
                latents = self._denoise(r, plan, start, conditions, noise, report, show_progress)
            with report.stage("decode", device):
                result = self._decode(latents, r.output_type)
        report.peak_memory = peak_memory(device)
        report.kernels = used.summary()
        for message in report.warnings:
            warnings.warn(message, stacklevel=4)
        return PipelineOutput(result, r.seeds, report)

    def _report(self, r: Request, plan: Plan) -> Report:
        return Report(
            model=self.source,
            pipeline=self.parts.pipeline_class,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler=plan.sampler,
            height=r.height,
            width=r.width,
            guidance_scale=r.guidance_scale,
            strength=None if r.images is None else r.strength,
        )

    def _guided(self, r: Request) -> bool:
        return r.guidance_scale > 1 and self.unet.config.time_cond_proj_dim is None

    def _conditions(self, r: Request, warned: list[str]) -> Conditions:
        """Text of every picture, negative prompts' first."""
        tokenizer, encoder = self.parts.tokenizers[0], self.parts.encoders[0]
        layer = None if r.clip_skip is None else -(r.clip_skip + 1)
        text, _ = encode(tokenizer, encoder, r.prompts, layer, warned)
        if layer is not None:
            text = encoder.final_layer_norm(text)
        text = text.repeat_interleave(r.per_prompt, dim=0)
        if self._guided(r):
            negatives = r.negatives or [""] * len(r.prompts)
            other, _ = encode(tokenizer, encoder, negatives, None, warned)
            text = torch.cat([other.repeat_interleave(r.per_prompt, dim=0), text])
        return Conditions(text, guidance=self._guidance(r))

    def _guidance(self, r: Request) -> Tensor | None:
        width = self.unet.config.time_cond_proj_dim
        return None if width is None else guidance_embedding(r.guidance_scale, width)

    def _start(self, r: Request, plan: Plan, noise: NoiseSource) -> Start:
        maker = LatentMaker(self.vae, r, noise, self.dtype)
        if r.images is None:
            return maker.from_noise(plan)
        if r.masks is None:
            return maker.from_image(plan)
        return maker.from_masked(plan, self.inpainting_unet)

    def _times(self, plan: Plan, conditions: Conditions, first: int):
        """Embeddings of evaluations `first` and after, as many as EMBEDDED_ROWS allows."""
        rows = 1 if conditions.added is None else len(conditions.text)
        many = max(1, EMBEDDED_ROWS // rows)
        return self.unet.embed_timesteps(
            plan.timesteps[first : first + many],
            timestep_cond=conditions.guidance,
            added_cond_kwargs=conditions.added,
        ), many

    def _denoise(
        self, r: Request, plan: Plan, start: Start, conditions: Conditions, noise: NoiseSource,
        report: Report, show_progress: bool | None,
    ) -> Tensor:  # fmt: skip
        """The latents after the last step, or after the one that the run was stopped at."""
        state, guided = start.state, self._guided(r)
        context = self.unet.encode_context(conditions.text)
        block = 0
        with progress_bar("denoising", sum(plan.ends_step), show_progress) as advance:
            for i in range(len(plan)):
                if self._interrupt:
                    break
                if i >= block:
                    first, (times, many) = i, self._times(plan, conditions, i)
                    block = i + many
                x = self._model_input(plan.scale_input(i, state.x), start, guided)
                out = self.unet(x, times[i - first], context, return_dict=False)[0]
                fresh = None
                if plan.draws_noise[i]:
                    fresh = noise.draw(state.x.shape, plan.noise_dtype or state.x.dtype)
                state = plan.step(i, state, out, r.guidance_scale, fresh, r.guidance_rescale)
                if start.known is not None:
                    state = plan.keep_known(i, state, start.known, start.noise, start.mask)
                report.evaluations += 1
                if plan.ends_step[i]:
                    report.steps += 1
                    advance()
                if r.callback is not None:
                    changed = self._call_back(r, i, plan.timesteps[i], state.x, conditions.text)
                    state = dataclasses.replace(state, x=changed["latents"])
                    if changed["prompt_embeds"] is not conditions.text:
                        conditions.text = changed["prompt_embeds"]
                        context = self.unet.encode_context(conditions.text)
        report.interrupted = report.evaluations < len(plan)
        return state.x

    @staticmethod
    def _model_input(x: Tensor, start: Start, guided: bool) -> Tensor:
        if start.extra is not None:
            x = torch.cat([x, start.extra], dim=1)
        return torch.cat([x, x]) if guided else x

    def _call_back(self, r: Request, step: int, timestep: float, x: Tensor, text: Tensor) -> dict:
        """The tensors after the callback has seen them; on StopSampling, as they were."""
        tensors = {"latents": x, "prompt_embeds": text}
        given = {name: tensors[name] for name in r.callback_inputs}
        try:
            answer = r.callback(self, step, timestep, given)
        except StopSampling:
            self._interrupt = True
            return tensors
        if answer is None:
            return tensors
        if not isinstance(answer, dict):
            raise checks.refuse("callback_on_step_end", "a dict or None back", answer)
        for name, old in tensors.items():
            new = answer.get(name, old)
            if not isinstance(new, Tensor) or new.shape != old.shape:
                raise checks.refuse(f"callback_on_step_end: {name}",
                                    f"a tensor {list(old.shape)} back",
                                    getattr(new, "shape", new))  # fmt: skip
            tensors[name] = new if new is old else new.to(old.device, old.dtype)
        return tensors

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        latents = latents / self.vae.config.scaling_factor
        # One by one: the decoder takes the most memory of all, and a picture does not depend on
        # how many there are.
        decoded = torch.cat([self.vae.decode(z[None], return_dict=False)[0] for z in latents])
        return pictures.from_tensor(decoded, output_type)


def check_channels(unet: Any, vae: Any) -> None:
    """Raises ConfigError where a U-Net's and an autoencoder's configs do not fit together."""
    latent = vae.latent_channels
    if unet.in_channels not in (latent, 2 * latent + 1) or unet.out_channels != latent:
        raise ConfigError(
            f"unet: in_channels {unet.in_channels}, out_channels {unet.out_channels} do not fit an"
            f" autoencoder of {latent} latent channels: expected {latent} or {2 * latent + 1}"
            f" (inpainting), and {latent}"
        )
    if vae.in_channels != 3 or vae.out_channels != 3:
        raise ConfigError(f"vae: expected pictures of 3 channels, found {vae.in_channels} in and"
                          f" {vae.out_channels} out")  # fmt: skip
