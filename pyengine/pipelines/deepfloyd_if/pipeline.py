"""DeepFloyd IF: pictures denoised as pixels, from texts that T5 has read.

Saharia et al. 2022, arXiv:2205.11487 (Imagen): classifier-free guidance of the noise, the variance
that the network predicts from the text's rows alone, dynamic thresholding.
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
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...models import T5EncoderModel, UNet2DConditionConfig, UNet2DConditionModel
from ...models.base import Model
from ...schedules import Plan
from ...schedules.plan import State
from ...weights.text import show
from ..defaults import bounded
from ..diffusers_names.schedulers import NamedScheduler
from ..registry import class_name
from ..stable_diffusion.embeddings import Embeds, Texts, Widths, joined
from ..t5_tokenizer import T5Tokenizer
from ..unprompted import (
    CALLBACK_TENSORS,
    UnpromptedDefaults,
    UnpromptedPipeline,
    UnpromptedRequest,
)
from .beginning import Beginning, Given

#: Of a prompt, its end included: what IF was trained with.
TOKENS = 77


@dataclass(frozen=True)
class IFDefaults(UnpromptedDefaults):
    """Of diffusers' IFPipeline, and the strengths of its IFImg2ImgPipeline and
    IFInpaintingPipeline.
    """

    num_inference_steps: int = bounded(100, 1, 1000)
    guidance_scale: float = bounded(7.0, 0, 1000)
    strength: float = bounded(0.7, 0, 1)
    inpaint_strength: float = bounded(1.0, 0, 1)


@dataclass(kw_only=True)
class IFRequest(UnpromptedRequest):
    """texts: B prompts; per_prompt: pictures of each. rows: [R, L, C], the texts as T5 has read
    them, negative ones first, while the request is carried out. beginning: None: noise alone.
    """

    texts: Texts = field(default_factory=lambda: Texts(0))
    per_prompt: int = 1
    rows: Tensor | None = None
    beginning: Beginning | None = None


def same_numbers(one: Model, other: Model) -> bool:
    """Whether two models compute the same: their configs and all their tensors are equal."""
    if one is other:
        return True
    if type(one) is not type(other) or one.config != other.config or one.device != other.device:
        return False
    pairs = [
        dict(items)
        for model in (one, other)
        for items in ([*model.named_parameters(), *model.named_buffers()],)
    ]
    return pairs[0].keys() == pairs[1].keys() and all(
        t.dtype == pairs[1][name].dtype and torch.equal(t, pairs[1][name])
        for name, t in pairs[0].items()
    )


def side_of(config: UNet2DConditionConfig) -> tuple[int, int]:
    """(height, width) in pixels that the model was trained for; 64 where it does not say."""
    size = config.sample_size or 64
    return size if isinstance(size, tuple) else (size, size)


class IFPipeline(UnpromptedPipeline[IFRequest]):
    """Text to pictures with a DeepFloyd IF checkpoint of the first stage; see `__call__`.

    Safety checkers and watermarkers that a checkpoint may bring are not run.
    """

    defaults_class: ClassVar[type[Any]] = IFDefaults
    takes_prompt: ClassVar[bool] = True
    main_part = "unet"
    told_else = True
    #: The argument that is a picture to begin from.
    begins_from: ClassVar[str] = "image"

    def __init__(
        self,
        models: dict[str, Model],
        tokenizer: T5Tokenizer,
        checkpoint: Any,
        source: str,
        defaults: Any,
        scheduler: NamedScheduler,
    ):
        super().__init__(models, checkpoint, source, defaults, scheduler)
        self.tokenizer = tokenizer

    @property
    def _class_name(self) -> str:
        return class_name(type(self))

    @property
    def unet(self) -> UNet2DConditionModel:
        return cast(UNet2DConditionModel, self.network)

    @property
    def text_encoder(self) -> T5EncoderModel:
        return cast(T5EncoderModel, self.models["text_encoder"])

    @property
    def components(self) -> dict[str, Any]:
        return {**super().components, "tokenizer": self.tokenizer}

    @property
    def channels(self) -> int:
        found: int = self.unet.config.in_channels
        return found

    @property
    def predicts_variance(self) -> bool:
        return bool(self.unet.config.out_channels == 2 * self.channels)

    @property
    def default_size(self) -> tuple[int, int]:
        return side_of(self.unet.config)

    @property
    def smallest_side(self) -> int:
        levels: int = self.unet.config.levels
        return 1 << (levels - 1)

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        latents: Tensor | None = None,
        timestep_spacing: str | None = None,
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
        """Pictures for one prompt or a list of them; names and order are those of diffusers'
        IFPipeline, with the image, mask_image and strength of its IFImg2ImgPipeline and
        IFInpaintingPipeline.

        Args:
            prompt: one text or B of them, which are read in lower case; None with prompt_embeds.
            num_inference_steps: 100 unless told.
            timesteps: the steps themselves, descending, for samplers that take them.
            guidance_scale: for all, or one per picture; 1 or less leaves guidance out. 7 unless
                told.
            negative_prompt: one for all, or one per prompt.
            num_images_per_prompt: pictures of a prompt follow each other.
            height, width: pixels; those of `image`, else the model's own.
            eta: DDIM's noise, 0 to 1.
            generator: one per picture, or one from which the batch is drawn as diffusers does.
            prompt_embeds, negative_prompt_embeds: [B, L, C] in place of the texts; see
                `encode_prompt`.
            output_type: "pil", "np", "pt" (0 to 1) or "latent", which is what was denoised, -1..1.
            return_dict: False gives a tuple in place of a PipelineOutput.
            image: pictures to begin from (PIL, arrays or tensors in 0..1, a batch or a list): one
                for all, one per prompt, or one per picture. PIL pictures are resized to the model's
                side as their smaller one.
            mask_image: white (at least mid-grey) where `image` is made anew; elsewhere it stays, at
                every step; as many as of `image`.
            strength: 0 to 1, the share of the steps that `image` goes through; 0.7 unless told,
                with a mask 1.
            guidance_method, negative_scale, guidance_start, guidance_end: as of
                StableDiffusionPipeline's call.
            clip_model, clip_guidance_scale, clip_prompt, clip_image: as of
                StableDiffusionPipeline's call: a CLIP whose gradient guides.
            classifier, classifier_scale, class_labels: likewise a classifier of noised pictures.
            latents: [N, 3, height, width] standard normal noise in place of drawn.
            timestep_spacing: "leading", "linspace" or "trailing", not the sampler's own.
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

    # --- texts ------------------------------------------------------------------------------------

    @inference
    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_images_per_prompt: int = 1,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the text encoder makes of prompts, a row per picture, those of a prompt together.

        Args:
            prompt: one text or B of them.
            do_classifier_free_guidance: False leaves the negative ones out.
            num_images_per_prompt: rows of each prompt, which follow each other.
            negative_prompt: one for all, or one per prompt.
            prompt_embeds, negative_prompt_embeds: [B, L, C] in place of the texts: they are
                repeated and converted.

        Returns:
            (prompt_embeds, negative_prompt_embeds or None without guidance), [N, L, C] each.
        """
        texts = self._widths.read(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        times = checks.integer("num_images_per_prompt", num_images_per_prompt, 1, 1024)
        with self._runs.begin(Run(), self.device):
            embeds = self._embeds(texts, bool(do_classifier_free_guidance), []).repeated(times)
            self._trim()
        assert embeds.text is not None
        return embeds.text, embeds.negative

    def read_texts(
        self, prompts: Sequence[str], negatives: Sequence[str], guided: bool, warned: list[str]
    ) -> tuple[Tensor, Tensor | None]:
        """What the text encoder makes of texts, in a run of its own.

        Args:
            prompts: texts, B of them.
            negatives: as many.
            guided: whether the negative ones are read.
            warned: gets what was cut off.

        Returns:
            (embeddings of the prompts, those of the negative ones or None without guidance), [B, L,
            C] each.
        """
        texts = Texts(len(prompts), prompts=list(prompts), negatives=list(negatives))
        with self._runs.begin(Run(), self.device):
            embeds = self._embeds(texts, guided, warned)
            self._trim()
        assert embeds.text is not None
        return embeds.text, embeds.negative

    def reads_as(self, other: "IFPipeline") -> bool:
        """Whether the other pipeline makes the same embeddings: its tokenizer and text encoder are
        this one's, or equal number by number.
        """
        return self.tokenizer.equals(other.tokenizer) and same_numbers(
            self.text_encoder, other.text_encoder
        )

    @property
    def _widths(self) -> Widths:
        return Widths(self.text_encoder.config.d_model)

    def _embeds(self, texts: Texts, guided: bool, warned: list[str]) -> Embeds:
        """A row for each of the texts; without guidance none for the negative ones."""
        text, negative = texts.given.text, texts.given.negative
        if text is None:
            text = self._encode(texts.prompts or [], TOKENS, warned)
        if guided and negative is None:
            negatives = texts.negatives or [""] * texts.batch
            negative = self._encode(negatives, text.shape[1], warned)
        return Embeds(text, negative if guided else None)

    def _encode(self, prompts: Sequence[str], length: int, warned: list[str]) -> Tensor:
        """[N, length, C]; equal prompts are read once. `warned` gets what was cut off."""
        texts = [prompt.lower().strip() for prompt in prompts]
        unique = list(dict.fromkeys(texts))
        rows, masks, cut = self.tokenizer(unique, length)
        for text in dict.fromkeys(c for c in cut if c):
            message = f"the prompt was cut to {length} tokens; this was left out: {show(text, 400)}"
            if message not in warned:
                warned.append(message)
        device = self.text_encoder.device
        ids, mask = (torch.tensor(t, dtype=torch.long, device=device) for t in (rows, masks))
        states: Tensor = self.text_encoder(ids, mask).last_hidden_state
        back = torch.tensor([unique.index(text) for text in texts], device=device)
        return states.index_select(0, back)

    # --- the run ----------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> IFRequest:
        names = ("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds")
        texts = self._widths.read(**{name: arguments.pop(name) for name in names})
        image, mask, strength = (
            arguments.pop(name) for name in (self.begins_from, "mask_image", "strength")
        )
        given = Given.of(self.begins_from, image, mask, strength, self.defaults)
        if given is not None and None in (arguments["height"], arguments["width"]):
            size = given.size(self.default_size[0])
            for name, side in zip(("height", "width"), size, strict=True):
                arguments[name] = side if arguments[name] is None else arguments[name]
        per_prompt = arguments["num_images_per_prompt"]
        base = self._request(
            batch_size=texts.batch,
            prompts=texts.prompts,
            has_negative=texts.has_negative,
            strength=None if given is None else given.strength,
            **arguments,
        )
        own = {f.name: getattr(base, f.name) for f in fields(base)}
        beginning = None
        if given is not None:
            beginning = given.read(base.height, base.width, base.count, texts.batch)
        return IFRequest(**own, texts=texts, per_prompt=per_prompt, beginning=beginning)

    def _report(self, r: IFRequest) -> Report:
        report = super()._report(r)
        report.strength = None if r.beginning is None else r.beginning.strength
        return report

    def _begin(self, r: IFRequest, report: Report) -> DenoisingCall[IFRequest]:
        with report.stage("encode_prompt", self.device):
            rows = self._rows(r, report.warnings)
            check_finite(f"{self.source}: text encoder", rows, r.count)
        return super()._begin(replace(r, rows=rows), report)

    def _rows(self, r: IFRequest, warned: list[str]) -> Tensor:
        """[R, L, C] of all conditions, the prompts' last."""
        embeds = self._embeds(r.texts, self._guided(r), warned)
        assert embeds.text is not None
        rows = [
            embeds.text
            if embeds.negative is None
            else joined("prompt_embeds", embeds.negative, embeds.text)
        ]
        if self._guided(r) and r.method.three:
            empty = self._embeds(r.texts.emptied(embeds), True, warned).negative
            assert empty is not None
            rows.insert(0, empty)
        texts = torch.cat(rows).repeat_interleave(r.per_prompt, dim=0)
        return texts.to(self.device, self.text_encoder.dtype)

    def _start(self, r: IFRequest, plan: Plan, noise: NoiseSource) -> State:
        if r.beginning is None:
            return super()._start(r, plan, noise)
        clean = to_device(r.beginning.clean, self.device).to(self.dtype)
        state = plan.start(self._noise(r, noise), clean)
        if r.beginning.mask is None:
            return state
        mask = to_device(r.beginning.mask, self.device).to(self.dtype)
        return replace(state, x=(1 - mask) * clean + mask * state.x)

    def _conditions(self, r: IFRequest) -> Conditions:
        assert r.rows is not None
        added = None
        if self.unet.config.addition_embed_type == "text":
            added = {"encoder_hidden_states": r.rows}
        conditions = Conditions(r.rows, added=added, names=r.method.names(self._guided(r)))
        if r.beginning is not None and r.beginning.mask is not None:
            both = r.beginning.clean, r.beginning.mask
            known, mask = (to_device(t, self.device).to(self.dtype) for t in both)
            conditions.known, conditions.mask = known, mask
        return conditions
