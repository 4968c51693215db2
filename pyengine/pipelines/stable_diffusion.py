"""Stable Diffusion 1.x and 2.x: text to picture, picture to picture, inpainting.

Rombach et al. 2022, arXiv:2112.10752. Guidance: Ho & Salimans 2022, arXiv:2207.12598. Distilled
models that take the guidance scale as an input: Luo et al. 2023, arXiv:2310.04378.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import images as pictures
from ..cuda import Graphs, Leash, Record, Recorder, to_device, within_memory
from ..errors import ConfigError
from ..finite import all_finite, check_finite
from ..guard import inference
from ..models import AutoencoderKL, CLIPTextModelWithProjection, UNet2DConditionModel
from ..models.unet import TextContext, TimeEmbedding
from ..ops import Arena, kernels_used, sampler_step
from ..progress import progress as progress_bar
from ..schedules import Plan
from ..schedules.plan import Rows, State, scaled, step_rows
from ..tokenizer import ClipTokenizer
from . import request as checks
from .arguments import Arguments, Defaults
from .diffusers_names.making import note_origin, parts_of
from .diffusers_names.parts import PartNames
from .keywords import refuse_others
from .latents import LatentMaker, Start, unscale_latents
from .noise import NoiseSource
from .output import PipelineOutput, Report, peak_memory, reset_peak_memory
from .request import Request
from .runs import Run, Running
from .text import Encoder, encode, guidance_embedding
from .watch import Watch

#: Timesteps that are embedded together, times rows of conditions: bounds the table's memory.
EMBEDDED_ROWS = 1024


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
    """A checkpoint's parts, loaded. encoders and tokenizers: SDXL has two of each, its refiner the
    second alone.

    scheduler_config: the parsed scheduler_config.json. pipeline_class, options, source, defaults:
    see pyengine.pipelines.loading. given: names of the parts that came as objects, not out of the
    checkpoint. scheduler: in place of the checkpoint's own, as `pipe.scheduler = ...` takes it.
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
    given: tuple[str, ...] = ()
    scheduler: Any = None

    def named(self) -> dict[str, Any]:
        """The models and tokenizers under diffusers' names."""
        alone = len(self.encoders) == 1 and isinstance(
            self.encoders[0], CLIPTextModelWithProjection
        )
        ends = ("_2",) if alone else ("", "_2")[: len(self.encoders)]
        encoders = {f"text_encoder{end}": e for end, e in zip(ends, self.encoders, strict=True)}
        tokenizers = {f"tokenizer{end}": t for end, t in zip(ends, self.tokenizers, strict=True)}
        return {"unet": self.unet, "vae": self.vae, **encoders, **tokenizers}


class Evaluator:
    """The U-Net's part of a step, or all of it, on a GPU as a CUDA graph: the same kernels in one
    launch.

    record: pyengine.cuda.Record, given for tests.
    """

    def __init__(self, unet: UNet2DConditionModel, record: Record | None = None):
        self.unet = unet
        self.graphs = self.steps = None
        if record is not None or unet.device.type == "cuda":
            record = record or Recorder()
            self.graphs = Graphs(self._run, record=record)
            self.steps = Graphs(self._run_step, record=record)

    def __call__(self, x: Tensor, times: TimeEmbedding, context: TextContext) -> Tensor:
        """unet(x, times, context); with graphs overwritten by the next call."""
        if self.graphs is None:
            return self.unet(x, times, context, return_dict=False)[0]
        return self.graphs([x, *times.rows], context.tensors())

    def _run(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        x, *rows = changing
        times, context = TimeEmbedding(tuple(rows)), TextContext.of(kept)
        return self.unet(x, times, context, return_dict=False)[0]

    def step(
        self, state: State, rows: Rows, times: TimeEmbedding, context: TextContext,
        extra: Tensor | None, noise: Tensor | None, rescale: float,
    ) -> State:  # fmt: skip
        """The state after a model evaluation and the update that rows tell.

        extra: [N, ...], what the U-Net is given besides the latents, or None. noise, rescale: as
        schedules.plan.step_rows takes them.
        """
        if self.steps is None or rescale or any(rows.thresholds):  # which depend on the output
            out = self.output(state, rows, times, context, extra)
            return step_rows(state, out, rows, noise, rescale)
        x = state.x.contiguous()
        # What is not there counts as zero, so that one graph serves every sampler and step.
        zero = torch.zeros_like(x)
        past = [zero if t is None else t for t in (state.d1, state.d2, state.d3, state.base, noise)]
        given = [x, *rows.tensors(x), *(t.to(x.dtype) for t in past), *times.rows]
        kept = [*([] if extra is None else [extra]), *context.tensors()]
        # Cloned, since they are overwritten by the next step.
        return rows.next_state(state, *(t.clone() for t in self.steps(given, kept)))

    def output(
        self, state: State, rows: Rows, times: TimeEmbedding, context: TextContext,
        extra: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """What the U-Net gives at a state; arguments as of `step`."""
        return self(self._model_input(rows.scale_input(state.x), extra, context), times, context)

    def _run_step(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, scale, coeffs, d1, d2, d3, base, noise, *rows = changing
        extra, context = (kept[0], kept[1:]) if len(kept) % 2 else (None, kept)
        context = TextContext.of(context)
        given = self._model_input(scaled(x, scale), extra, context)
        out = self.unet(given, TimeEmbedding(tuple(rows)), context, return_dict=False)[0]
        return sampler_step(x, out, coeffs, d1, d2, d3, base, noise)

    @staticmethod
    def _model_input(x: Tensor, extra: Tensor | None, context: TextContext) -> Tensor:
        if extra is not None:
            x = torch.cat([x, extra], dim=1)
        return torch.cat([x, x]) if len(context) == 2 * len(x) else x

    def clear(self) -> None:
        """Frees what was recorded."""
        for graphs in (self.graphs, self.steps):
            if graphs is not None:
                graphs.clear()


class StableDiffusionPipeline(PartNames, Running):
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
        self.parts = parts
        note_origin(parts)
        for model in (parts.unet, parts.vae, *parts.encoders):
            model.arena = self._arena
        self._evaluate = Evaluator(parts.unet)

    # --- what it is -------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """The path or Hub id that it was loaded from."""
        return self.parts.source

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, hexadecimal; "" where parts came from elsewhere."""
        own = self.parts.checkpoint is not None and not self.parts.given
        return self.parts.checkpoint.model_hash if own else ""

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

    # --- the call ---------------------------------------------------------------------------------

    @inference
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
        return_dict: bool = True,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
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
        return_dict: False gives diffusers' tuple in place of a PipelineOutput. timeout: seconds to
        wait for calls of other threads, then BusyError. run: a Run, to end this call from
        elsewhere.

        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        refuse_others(others, self.__call__)
        left_out = ("self", "others", "progress")
        arguments = {k: v for k, v in locals().items() if k not in (*left_out, "left_out")}
        return self._generate(self._arguments().request(**arguments), progress)

    def _arguments(self) -> Arguments:
        """What checks a call's arguments for this model."""
        latent, factor = self.vae.config.latent_channels, self.vae.config.downscale
        layers = min(e.config.num_hidden_layers for e in self.parts.encoders)
        return self.arguments_class(
            latent_channels=latent,
            factor=factor,
            default_size=self.default_size,
            inpainting_unet=self.inpainting_unet,
            most_clip_skip=layers if self.stable_diffusion else layers - 1,
            defaults=self.defaults,
            device=self.device,
            options=self.parts.options,
        )

    # --- the run ----------------------------------------------------------------------------------

    def _generate(self, r: Request, show_progress: bool | None) -> PipelineOutput:
        show_progress = self._shows(show_progress)
        with self._runs.begin(r.run, self.device, r.timeout):
            try:
                output = within_memory(
                    lambda: self._run(r, show_progress),
                    checks.memory_advice(r),
                    self._evaluate.clear,
                )
            finally:
                self._arena.trim()
        output.report.warn(finished=True)
        return output if r.return_dict else self._tuple(output)

    def _tuple(self, output: PipelineOutput) -> Any:
        """What return_dict=False gives: as diffusers', (images, what its safety checker found)."""
        return (output.images, None) if self.stable_diffusion else (output.images,)

    def _run(self, r: Request, show_progress: bool | None) -> PipelineOutput:
        scheduler = self.scheduler if r.scheduler is None else self._named_scheduler(r.scheduler)
        plan = scheduler.plan(r.steps, strength=r.strength, eta=r.eta)
        report = self._report(r, plan)
        device = self.device
        reset_peak_memory(device)
        with kernels_used() as used, report.stage("total", device):
            with report.stage("encode_prompt", device):
                conditions = self._conditions(r, report.warnings)
                self._check_text(r, conditions)
            noise = NoiseSource(r.generators, device)
            stage = "prepare" if r.images is None else "encode_image"
            with report.stage(stage, device):
                start = self._start(r, plan, noise)
            report.warn()
            with report.stage("denoise", device):
                latents = self._denoise(r, plan, start, conditions, noise, report, show_progress)
            with report.stage("decode", device):
                result = self._decode(latents, r.output_type)
        report.peak_memory = peak_memory(device)
        report.kernels = used.summary()
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
            weights=self.unet.weights,
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

    def _check_text(self, r: Request, conditions: Conditions) -> None:
        """Raises NotFiniteError for NaN or infinity in what the U-Net is told of the text."""
        for x in (conditions.text, (conditions.added or {}).get("text_embeds")):
            if x is not None:
                check_finite(f"{self.source}: text encoder", x, r.count)

    def _guidance(self, r: Request) -> Tensor | None:
        width = self.unet.config.time_cond_proj_dim
        return None if width is None else guidance_embedding(r.guidance_scale, width)

    def _start(self, r: Request, plan: Plan, noise: NoiseSource) -> Start:
        maker = LatentMaker(self.vae, r, noise, self.dtype, not self.stable_diffusion)
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
            to_device(torch.tensor(plan.timesteps[first : first + many]), self.device),
            timestep_cond=conditions.guidance,
            added_cond_kwargs=conditions.added,
        ), many

    def _denoise(
        self, r: Request, plan: Plan, start: Start, conditions: Conditions, noise: NoiseSource,
        report: Report, show_progress: bool | None,
    ) -> Tensor:  # fmt: skip
        """The latents after the last step, or after the one that the run was stopped at."""
        state = start.state
        context = self.unet.encode_context(conditions.text)
        rows = plan.all_rows(state.x, r.guidance_scale)
        block, leash = 0, Leash(self.device)
        watch = Watch(self.source, plan, self.device)
        watch.begin(state.x)
        with progress_bar("denoising", sum(plan.ends_step), show_progress) as advance:
            for i in range(len(plan)):
                if r.run.interrupted:
                    break
                if i >= block:
                    first, (times, many) = i, self._times(plan, conditions, i)
                    block = i + many
                fresh = None
                if plan.draws_noise[i]:
                    fresh = noise.draw(state.x.shape, plan.noise_dtype or state.x.dtype)
                given = (state, rows[i], times[i - first], context, start.extra)
                state = self._evaluate.step(*given, fresh, r.guidance_rescale)
                if start.known is not None:
                    state = plan.keep_known(i, state, start.known, start.noise, start.mask)
                watch.step(i, state.x, partial(self._evaluate.output, *given))
                report.evaluations += 1
                leash.step()
                if plan.ends_step[i]:
                    report.steps += 1
                    advance()
                if r.callback is not None:
                    changed = self._call_back(r, i, plan.timesteps[i], state.x, conditions.text)
                    state = dataclasses.replace(state, x=changed["latents"])
                    watch.called_back(i, state.x)
                    if changed["prompt_embeds"] is not conditions.text:
                        conditions.text = changed["prompt_embeds"]
                        context = self.unet.encode_context(conditions.text)
        watch.end(state.x)
        report.interrupted = report.evaluations < len(plan)
        return state.x

    def _call_back(self, r: Request, step: int, timestep: float, x: Tensor, text: Tensor) -> dict:
        """The tensors after the callback has seen them; on StopSampling, as they were."""
        tensors = {"latents": x, "prompt_embeds": text}
        answer = checks.call_back(self, r, step, timestep, tensors)
        for name, old in tensors.items():
            new = answer.get(name, old)
            if not isinstance(new, Tensor) or new.shape != old.shape:
                raise checks.refuse(f"callback_on_step_end: {name}",
                                    f"a tensor {list(old.shape)} back",
                                    getattr(new, "shape", new))  # fmt: skip
            if new is not old:
                tensors[name] = new.to(old.device, old.dtype)
                if name != "latents" and not all_finite(tensors[name]):
                    raise checks.refuse(f"callback_on_step_end: {name}", "finite values back",
                                        "NaN or infinity")  # fmt: skip
        return tensors

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        latents = unscale_latents(latents, self.vae.config, not self.stable_diffusion)
        # One by one: the decoder takes the most memory of all, and a picture does not depend on
        # how many there are.
        decoded = torch.cat([self.vae.decode(z[None], return_dict=False)[0] for z in latents])
        check_finite(f"{self.source}: vae: the decoder", decoded)
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
