"""Stable Diffusion 1.x and 2.x: text to picture, picture to picture, inpainting.

Rombach et al. 2022, arXiv:2112.10752. Guidance: Ho & Salimans 2022, arXiv:2207.12598. Distilled
models that take the guidance scale as an input: Luo et al. 2023, arXiv:2310.04378.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ... import images as pictures
from ...diffusion.call import DenoisingCall
from ...diffusion.conditions import Conditions
from ...diffusion.evaluator import Evaluator
from ...diffusion.job import DenoisingJob
from ...diffusion.latents import LatentMaker, Start, shown_to_decoder, unscale_latents
from ...diffusion.prompted import PromptedCall
from ...diffusion.request import Request
from ...diffusion.step import step
from ...diffusion.watch import check_noted
from ...finite import check_finite
from ...guard import inference
from ...guidance import Method
from ...jobs.job import Call
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...models import UNet2DConditionModel
from ...ops import Arena
from ...schedules import Plan, Scheduler
from ...schedules.plus_plus import check_plus_plus
from ..base import Pipeline
from ..diffusers_names.image_prompts import ImagePromptNames
from ..diffusers_names.lora import LoraNames
from ..diffusers_names.making import note_origin, parts_of
from ..diffusers_names.parts import PartNames
from ..diffusers_names.textual_inversion import TextualInversionNames
from ..guides import NAMES, guides_of_prompted
from ..keywords import ELSEWHERE, refuse_others
from ..linear_preview import LinearPreview
from ..lora_weights import ADAPTED
from ..loras import LoraArgument, Loras, cross_attention_scale, shown_uses
from ..text import guidance_embedding
from .arguments import Arguments
from .callbacks import RunProperties
from .control import take
from .defaults import Defaults
from .effort import fill
from .embeddings import Widths, joined
from .image_prompts import ImageAdapters, check_prompts, image_prompts, take_prompts
from .parts import Parts
from .prompts import PromptEncoding


class StableDiffusionPipeline(
    ImagePromptNames,
    LoraNames,
    TextualInversionNames,
    PromptEncoding,
    PartNames,
    RunProperties,
    Pipeline[Request, DenoisingJob],
):
    """Text to pictures with a Stable Diffusion 1.x or 2.x checkpoint; see `__call__`.

    Made by `pyengine.from_pretrained`. One call runs at a time; others wait. Safety checkers that
    a checkpoint may bring are not run.
    """

    stable_diffusion: ClassVar[bool] = True
    defaults_class: ClassVar[type[Defaults]] = Defaults
    arguments_class: ClassVar[type[Arguments]] = Arguments

    def __init__(self, parts: Parts | None = None, **components: Any):
        """parts: a checkpoint's; or diffusers' way, by name: Cls(**pipe.components)."""
        super().__init__()
        self._arena = Arena()  # one for all, which work one after the other
        self._take_parts(parts_of(type(self), components) if parts is None else parts)
        self.defaults = self.parts.defaults
        # Reads the scheduler's config now, so that a bad one is refused when the model is loaded.
        self.scheduler = self.parts.scheduler

    def _take_parts(self, parts: Parts) -> None:
        named = parts.named()
        models = {name: named[name] for name in ADAPTED if name in named}
        # First: a LoRA that does not fit the new parts leaves the old ones in place.
        self._loras = Loras.moved(getattr(self, "_loras", None), models)
        self.parts = parts
        note_origin(parts)
        for model in (*parts.networks, *parts.beside):
            model.arena = self._arena
        self._evaluate = Evaluator(parts.unet)
        self._images = getattr(self, "_images", ImageAdapters()).moved(parts.unet)
        self._loaded = object()

    def _trim(self) -> None:
        """Gives the memory of activations back to the system: the models' arenas, which are another
        pipeline's where that was made of the same models later.
        """
        for model in (*self.parts.networks, *self.parts.beside):
            model.arena.trim()

    # --- what it is -------------------------------------------------------------------------------

    @property
    def source(self) -> str:  # type: ignore[override]  # the parts', not set
        """The path or Hub id that it was loaded from."""
        return self.parts.source

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, hexadecimal; "" where parts came from elsewhere."""
        own = self.parts.checkpoint is not None and not self.parts.given
        return self.parts.checkpoint.model_hash if own else ""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
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
        channels, latent = self.unet.config.in_channels, self.vae.config.latent_channels
        return bool(channels == 2 * latent + 1)

    @property
    def clip_tokenizer(self) -> Any:
        return self.parts.tokenizers[0].plain

    @property
    def denoiser(self) -> UNet2DConditionModel:
        """The network that predicts."""
        return self.unet

    # --- the call ---------------------------------------------------------------------------------

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        guidance_rescale: float | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        seed: int | Sequence[int] | None = None,
        lora: LoraArgument = None,
        prompt_weighting: str | None = None,
        upscaler: Any = None,
        scheduler: str | None = None,
        timestep_spacing: str | None = None,
        original_inference_steps: int | None = None,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        masked_image_latents: Tensor | None = None,
        padding_mask_crop: int | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        effort: str = "full",
        cache_interval: int | None = None,
        cache_branch_id: int | None = None,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        control_image: Any = None,
        controlnet_conditioning_scale: Any = None,
        control_guidance_start: Any = 0.0,
        control_guidance_end: Any = 1.0,
        guess_mode: Any = False,
        control_mode: Any = None,
        ip_adapter_scale: Any = None,
        adapter_conditioning_scale: Any = 1.0,
        adapter_conditioning_factor: Any = 1.0,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them; names and order are those of diffusers'
        StableDiffusionPipeline, what it has not is given by name.

        Args:
            prompt: one text or B of them; None with prompt_embeds.
            height, width: pixels, multiples of the autoencoder's factor (8); the checkpoint's own
                size, or that of the picture that `image` brings.
            num_inference_steps: of the whole run; not looked at with timesteps or sigmas.
            timesteps, sigmas: the steps themselves, descending, for samplers that take them.
            guidance_scale: for all, or one per picture or prompt; 1 or less leaves guidance out.
            negative_prompt: one for all, or one per prompt.
            num_images_per_prompt: pictures of a prompt follow each other.
            eta: DDIM's noise, 0 to 1.
            generator: one per picture, or one from which the batch is drawn as diffusers does.
            latents: [N, C, h, w] standard normal noise in place of drawn.
            prompt_embeds, negative_prompt_embeds: [B, L, C] in place of the texts; see
                `encode_prompt`.
            ip_adapter_image: with an IP-Adapter (load_ip_adapter) a picture as a prompt beside the
                text, [[several as one]], or a list with one for each prompt; of several adapters a
                list with one of the first two for each.
            ip_adapter_image_embeds: in its place, for each adapter what its encoder makes of them,
                [2, pictures, ...] with guidance, the negative one first, else [1, pictures, ...].
            cross_attention_kwargs: "scale", a number that all LoRAs' weights are multiplied by;
                "ip_adapter_masks", for each IP-Adapter [1, pictures, H, W], where they count.
            output_type: "pil", "np", "pt" or "latent".
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            return_dict: False gives diffusers' tuple in place of a PipelineOutput.
            guidance_rescale: 0 to 1, how far the guided output's spread is pulled back.
            clip_skip: text encoder layers to leave out.
            callback_on_step_end: called as (pipe, step, timestep, {name: tensor}) after every model
                evaluation; it may return some of these tensors changed, set
                pipe._guidance_scale, call pipe.interrupt() or raise StopSampling. timestep is a
                number.
            callback_on_step_end_tensor_inputs: latents, prompt_embeds, negative_prompt_embeds; with
                mask_image also mask and masked_image_latents; w_embedding of distilled models.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            lora: {name: weight} of loaded LoRAs (`load_lora`), or of those in the pipeline's
                lora_dir; a list with one such mapping or None per prompt or picture; "name:0.8,b"
                will do. Weights may be negative. None: those of `set_adapters`. Where a folder is
                given, prompts may say <lora:name:0.8>.
            prompt_weighting: "a1111" or "compel": prompts weigh words, "(word:1.3)" or
                "word++", and take as many chunks of 75 tokens as they need (docs/adapters.md has
                both syntaxes). None: texts are text, and cut at the 77 tokens of one.
            scheduler: a sampler by name (pyengine.schedules.SAMPLER_NAMES), not the checkpoint's.
            timestep_spacing: "leading", "linspace" or "trailing", not the sampler's own.
            original_inference_steps: steps that a consistency model was distilled on.
            image: a picture to begin from (PIL, array [H, W, 3] or tensor [3, H, W] in [0, 1], a
                batch or a list of these, or a tensor of scaled latents).
            strength: 0 to 1, how much of `image` is made anew.
            mask_image: white where `image` is made anew; black and transparent parts are kept (a
                mask is its brightness times its alpha). What numbers mean: docs/pictures.md.
            masked_image_latents: [M, C, h, w] scaled latents of the masked picture, M dividing N.
            padding_mask_crop: pixels around the mask's white: only that part of `image` is painted,
                enlarged to height and width, and laid back into the whole picture.
            guidance_start, guidance_end: shares of the steps between which guidance_scale holds, 0
                to 1; the others are without guidance, and take one row.
            effort: "fast" takes fewer steps, another sampler and cache_interval, as far as the call
                leaves them to the model (docs/fast.md).
            cache_interval: every so many evaluations compute the whole U-Net, those between its
                outermost layers, on what the deep ones gave last (DeepCache); 1, unless told: all.
            cache_branch_id: how many layers each way these are besides the last one on the way up,
                0 to one less than there are skips.
            guidance_method: how the prompts guide: "cfg", "cfg++", "perp-neg" or "composed"
                (pyengine.guidance.Method has their equations). "cfg++" takes a guidance_scale of 0
                to 1, 0.6 unless told.
            negative_scale: how much the negative prompt counts in "perp-neg" and "composed", 1
                unless told.
            control_image: with a ControlNet (from_pretrained(controlnet=...)) the picture that it
                is shown, or one for each prompt; of several, a list for each. Without mask_image,
                and alone, it may come as `image`, as in diffusers' text-to-image.
            controlnet_conditioning_scale: what it adds counts; a number, one for each ControlNet,
                or a list with one (or one for each) for each picture; so are the next two. Unless
                told 1, with `image` 0.8, with mask_image 0.5 (SDXL 1), as diffusers' classes.
            control_guidance_start, control_guidance_end: shares of the steps between which it acts.
            guess_mode: True leaves the negative rows alone and lets the finer parts count less; or
                one for each picture.
            control_mode: of a ControlNet for several kinds of pictures, the kind that it is shown,
                or a list, with control_image a list of as many.
            ip_adapter_scale: how much IP-Adapters count, in place of set_ip_adapter_scale's; a
                number, or given as the ControlNet's scale.
            adapter_conditioning_scale, adapter_conditioning_factor: with T2I-Adapters
                (from_pretrained(adapter=...)), what they add counts, and in which share of the
                steps, from the first on; given as the ControlNet's.
            clip_model: a folder of a whole CLIP (transformers' CLIPModel): the gradient of a
                picture's distance to its prompt there guides it, through U-Net and decoder. Slow.
            clip_guidance_scale: how much of the gradient, 100 unless told; 0: none, the same bits.
            clip_prompt, clip_image: texts, and pictures (as `image`), that it guides to: one for
                all, one per prompt or one per picture. With both, to both; unless told, the prompt.
            classifier: a folder of guided-diffusion's EncoderUNetModel that classifies noised
                latents, or the model: its gradient guides. Slow.
            classifier_scale: how much of the gradient, 1 unless told; 0: none, the same bits.
            class_labels: the classes that the classifier guides to: one for all, one per prompt or
                one per picture.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _arguments(self) -> Arguments:
        """What checks a call's arguments for this model."""
        latent, factor = self.vae.config.latent_channels, self.vae.config.downscale
        layers = min((e.config.num_hidden_layers for e in self.parts.encoders), default=0)
        return self.arguments_class(
            latent_channels=latent,
            factor=factor,
            default_size=self.default_size,
            inpainting_unet=self.inpainting_unet,
            most_clip_skip=layers if self.stable_diffusion else layers - 1,
            defaults=self.defaults,
            device=self.device,
            options=self.parts.options,
            widths=self._widths(),
            xl=not self.stable_diffusion,
            lcm=self._lcm,
            distilled=self.unet.config.time_cond_proj_dim is not None,
        )

    def _widths(self) -> Widths:
        return Widths(sum(e.config.hidden_size for e in self.parts.encoders))

    @property
    def _lcm(self) -> bool:
        """Whether it goes by diffusers' pipelines of latent consistency models."""
        return self.parts.pipeline_class.startswith("LatentConsistencyModel")

    # --- the run ----------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> Request:
        others = arguments.pop("others")
        lora, weighting = arguments.pop("lora", None), arguments.pop("prompt_weighting", None)
        attention = arguments.pop("cross_attention_kwargs", None)
        attention = dict(attention) if isinstance(attention, Mapping) else attention
        images = take_prompts(self._images, arguments, attention)
        factor = cross_attention_scale(attention)
        elsewhere = {name: arguments.pop(name) for name in ELSEWHERE if name in arguments}
        refuse_others({**others, **elsewhere}, self.__call__)
        given = {name: arguments.pop(name, None) for name in (*NAMES, "class_labels")}
        control = take(self.parts, arguments)

        def request(**arguments: Any) -> Request:
            warned = fill(arguments, self.defaults, self.scheduler.name, control is not None)
            r = self._arguments().request(**arguments, control=control)
            r.control = None if control is None else control.checked(r, not self.stable_diffusion)
            r.warnings += warned
            if r.caching is not None:
                r.caching.check(self.unet.branches, controlled=control is not None)
            if images is not None:
                guided = self._guides(r.scales, r.method)
                r.image_prompts = check_prompts(self._images, images, r, guided)
            return r

        r: Request = self._with_loras(arguments, lora, factor, request)
        r.texts = self._weighed(r.texts, weighting)
        c = self.vae.config
        shape = c.latent_channels, r.height // c.downscale, r.width // c.downscale
        r.guides = guides_of_prompted(given, self, r, shape)
        return r

    def _begin(self, r: Request, report: Report) -> PromptedCall:
        named = self.scheduler if r.scheduler is None else self._named_scheduler(r.scheduler)
        scheduler = named.sampler
        r.guides.check_scheduler(scheduler)
        plan = self._plan(r, scheduler)
        if r.method.name == "cfg++":
            check_plus_plus(plan)
        report.sampler = plan.sampler
        r.run.settings = {
            "guidance_scale": r.guidance_scale, "guidance_rescale": r.guidance_rescale,
            "guidance_method": r.method, "clip_skip": r.clip_skip, "num_timesteps": len(plan),
            **r.plan,
        }  # fmt: skip
        report.warnings += [*r.warnings, *scheduler.warnings]
        device = self.device
        with report.stage("encode_prompt", device):
            conditions = self._conditions(r, report.warnings)
            self._check_text(r, conditions)
        conditions.adapters = self._loras.rows("unet", r.loras or ((),) * r.count)
        assert r.generators is not None
        noise = NoiseSource(r.generators, device)
        self._noise_conditions(r, conditions, noise)
        with report.stage("prepare" if r.images is None else "encode_image", device):
            start = self._start(r, plan, noise, report.warnings)
        if r.control is not None:
            with report.stage("control", device):
                self._show(r, plan, conditions)
        if r.image_prompts:
            with report.stage("encode_image_prompt", device):
                latents = start.state.x.shape[2:]
                conditions.image_prompts = image_prompts(r.image_prompts, r, self.unet, latents)
        report.warn()  # before what depends on the conditions is computed
        with report.stage("denoise", device):
            guides = partial(self._guides, method=r.method)
            call = PromptedCall(
                self, self._evaluate, guides, r, plan, start, conditions, noise, report
            )
            r.guides.guide(call.jobs, self, scheduler, report.warnings)
            return call

    def _show(self, r: Request, plan: Plan, conditions: Conditions) -> None:
        """Has the conditions hold what ControlNets or T2I-Adapters are shown."""
        if self.parts.controlnets:
            conditions.controls = r.control.controls(r)
        else:
            conditions.features = r.control.features(r, plan.num_steps)

    def _step(self, jobs: Sequence[DenoisingJob]) -> None:
        step(self._evaluate, jobs)

    def _picture(self, job: DenoisingJob) -> Any:
        check_noted([job])
        r = job.request
        shown = self._shown(r)[job.index : job.index + 1]
        picture = self._decode(job.latents, r.output_type, shown=shown)[0]
        return picture if r.part is None else r.part.lay(picture)

    def _output(self, call: Call[Request, DenoisingJob]) -> PipelineOutput:
        assert isinstance(call, DenoisingCall)
        r = call.request
        with call.report.stage("decode", self.device):
            result = self._decode(call.latents(), r.output_type, shown=self._shown(r))
        if r.part is not None:
            result = [r.part.lay(picture) for picture in result]
        return PipelineOutput(result, r.seeds, call.report)

    def _shown(self, r: Request) -> list[dict[str, Tensor]]:
        # diffusers' SDXL shows its decoder nothing.
        return shown_to_decoder(self.vae, r) if self.stable_diffusion else []

    def _preview(self, latents: Tensor, output_type: str) -> Any:
        return self._decode(latents, output_type, self._preview_vae)

    #: What quick previews are made by, once there was one.
    _linear: LinearPreview | None = None

    def _quick_preview(self, latents: Tensor, output_type: str) -> Any:
        """By the tiny autoencoder that is `preview_vae`, if there is one, else by a linear map."""
        if self._preview_vae is not None or getattr(self.vae, "encoder", None) is None:
            return self._preview(latents, output_type)
        self._linear = LinearPreview.of(self, self._linear)
        return pictures.from_tensor(self._linear(latents), output_type)

    def _release(self) -> None:
        self._evaluate.clear()

    def _tuple(self, output: PipelineOutput) -> Any:
        """What return_dict=False gives: as diffusers', (images, what its safety checker found)."""
        return (output.images, None) if self.stable_diffusion else (output.images,)

    def _plan(self, r: Request, scheduler: Scheduler) -> Plan:
        how: dict[str, Any] = {}
        if self._lcm and r.images is not None and r.masks is None and scheduler.config.thins:
            how["all_steps"] = True  # strength thins the timesteps, and drops none
        steps = None if {"timesteps", "sigmas"} & set(r.plan) else r.steps
        return scheduler.plan(steps, strength=r.strength, eta=r.eta, **r.plan, **how)

    def _report(self, r: Request) -> Report:
        return Report(
            model=self.source,
            pipeline=self.parts.pipeline_class,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler="",
            height=r.height,
            width=r.width,
            guidance_scale=r.guidance_scale,
            strength=None if r.images is None or r.goes_on else r.strength,
            weights=self.unet.weights,
            num_inference_steps=r.steps,
            eta=r.eta,
            loras=shown_uses(r.loras, r.count, self._loras.shown_fused()),
            embeddings=self._learnt_in(r.texts.all),
        )

    def _guides(self, scales: Sequence[float], method: Method) -> bool:
        """Whether guidance at these scales takes further rows than the prompt's."""
        return any(map(method.guides, scales)) and self.unet.config.time_cond_proj_dim is None

    def _conditions(self, r: Request, warned: list[str]) -> Conditions:
        """What the U-Net is told of every picture, negative rows first."""
        embeds, empty = self._told(r, warned)
        text = joined("prompt_embeds", embeds.negative, embeds.text)
        if empty is not None:
            text = torch.cat([cast(Tensor, empty.negative), text])
        return Conditions(text, guidance=self._guidance(r), text_lengths=self._text_lengths(r))

    def _noise_conditions(self, r: Request, conditions: Conditions, noise: NoiseSource) -> None:
        """Adds noise to what the U-Net is told, where a model wants it: before the start's."""

    def _check_text(self, r: Request, conditions: Conditions) -> None:
        """Raises NotFiniteError for NaN or infinity in what the U-Net is told of the text."""
        for x in (conditions.text, (conditions.added or {}).get("text_embeds")):
            if x is not None:
                check_finite(f"{self.source}: text encoder", x, r.count)

    def _guidance(self, r: Request) -> Tensor | None:
        width = self.unet.config.time_cond_proj_dim
        if width is None:
            return None
        scales = r.scales if isinstance(r.guidance_scale, tuple) else r.scales[:1]
        return torch.cat([guidance_embedding(g, width) for g in scales])

    def _start(self, r: Request, plan: Plan, noise: NoiseSource, warned: list[str]) -> Start:
        maker = LatentMaker(self.vae, r, noise, self.dtype, not self.stable_diffusion, warned)
        if r.images is None:
            return maker.from_noise(plan)
        if r.masks is None:
            return maker.from_image(plan)
        return maker.from_masked(plan, self.inpainting_unet)

    def pixels_of(self, latents: Tensor, vae: Any = None, **told: Tensor) -> Tensor:
        """The decoded picture, [1, 3, H, W] in about -1..1; gradients go through it within
        models.differentiable.

        Args:
            latents: [1, C, h, w].
            vae: in place of the pipeline's own.
            told: what a decoder for inpainting is shown.
        """
        vae = self.vae if vae is None else vae
        latents = unscale_latents(latents, vae.config, not self.stable_diffusion)
        found: Tensor = vae.decode(latents, return_dict=False, **told)[0]
        return found

    def _decode(
        self, latents: Tensor, output_type: str, vae: Any = None,
        shown: Sequence[dict[str, Tensor]] = (),
    ) -> Any:  # fmt: skip
        """vae: in place of the pipeline's own. shown: see shown_to_decoder."""
        if output_type == "latent":
            return latents
        vae = self.vae if vae is None else vae
        # One by one: the decoder takes the most memory of all, and a picture does not depend on
        # how many there are.
        rows = zip(latents, shown or [{}] * len(latents), strict=True)
        decoded = torch.cat([self.pixels_of(z[None], vae, **told) for z, told in rows])
        check_finite(f"{self.source}: vae: the decoder", decoded)
        return pictures.from_tensor(decoded, output_type)
