"""aMUSEd: text to picture, picture to picture and inpainting by masked codebook tokens.

Patil et al. 2024, arXiv:2401.01808; Chang et al. 2023, arXiv:2301.00704 (Muse).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ... import images as pictures
from ...cuda import Leash, Record
from ...decoding.checks import check_tokens
from ...decoding.masked import (
    Conditions,
    MaskedCall,
    MaskedJob,
    MaskedSampling,
    TransformerGraphs,
    check_result,
    step,
    step_numbers,
)
from ...decoding.request import TokenRequest
from ...errors import RequestError
from ...finite import check_finite
from ...guard import inference
from ...jobs import checks
from ...jobs.job import Call
from ...jobs.noise import NoiseSource
from ...jobs.output import Report, TokenOutput
from ...jobs.runs import Run
from ...models.tokens.uvit import UVit2DModel, UVitContext
from ...schedules.masked import MaskedPlan, plan
from ..arguments import check
from ..defaults import bounded
from ..prefix import read_prefix
from ..text import encode
from ..tokens import TokenDefaults, TokenPipeline
from .parts import AmusedParts
from .request import MaskedRequest, per_picture, pictures_of

#: The text encoder's layer that the transformer attends to, counted from the end.
TEXT_LAYER = -2


@dataclass(frozen=True)
class AmusedDefaults(TokenDefaults):
    """temperature, last_temperature: of the noise that decides which tokens are masked again."""

    num_inference_steps: int = bounded(12, 1, 1000)
    guidance_scale: float = 10.0
    temperature: float = 2.0
    last_temperature: float = bounded(0.0, 0, 100)
    strength: float = 0.5
    inpaint_strength: float = bounded(1.0, 0, 1)
    aesthetic_score: float = bounded(6.0, 0, 10)


class AmusedPipeline(TokenPipeline[MaskedRequest, MaskedJob]):
    """Text to pictures with an aMUSEd checkpoint; see `__call__`."""

    defaults_class = AmusedDefaults
    defaults: AmusedDefaults
    model: UVit2DModel
    graphs: TransformerGraphs | None
    sampler = "masked"

    def __init__(self, parts: AmusedParts, checkpoint: Any, source: str, defaults: AmusedDefaults):
        super().__init__(parts.transformer, checkpoint, source, defaults)
        self.parts = parts
        self._in_flight = Leash(self.device)
        self.vqvae, self.mask_token = parts.vqvae, parts.schedule.mask_token_id

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained for."""
        side = self.model.config.sample_size * self.vqvae.config.downscale
        return side, side

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
        micro_conditioning_aesthetic_score: float | None = None,
        micro_conditioning_crop_coord: tuple[int, int] = (0, 0),
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
        """Pictures for one prompt or a list of them, the first arguments in diffusers' order.

        Args:
            prompt: one text or B of them.
            height, width: pixels, multiples of the VQ-VAE's factor; the checkpoint's own size, or
                that of `image`.
            num_inference_steps: evaluations of the transformer, 1 to 1000.
            guidance_scale: 1 or less leaves guidance out.
            negative_prompt: one for all, or one per prompt.
            num_images_per_prompt: pictures of a prompt follow each other.
            generator: one per picture: the picture that diffusers draws from it alone; or one for
                all: diffusers' batch.
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
            micro_conditioning_aesthetic_score: 0 to 10, told to the transformer; 6 unless told.
            micro_conditioning_crop_coord: (top, left) in pixels, told to the transformer.
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

    # --- arguments --------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> MaskedRequest:
        given, d = dict(arguments), self.defaults
        items, masks = pictures_of(given.pop("image"), given.pop("mask_image"))
        size = self._find_size(given.pop("height"), given.pop("width"), items)
        steps, strength = given.pop("num_inference_steps"), given.pop("strength")
        score = given.pop("micro_conditioning_aesthetic_score")
        crop = given.pop("micro_conditioning_crop_coord")
        temperature = given.pop("temperature")
        latents, prefix = given.pop("latents"), given.pop("prefix")
        r = self._request(size=size, temperature=0.0, **given)
        if strength is not None and items is None:
            raise RequestError("strength: expected only together with image")
        default = d.strength if masks is None else d.inpaint_strength
        strength = default if strength is None else check("strength", strength)
        steps = (
            d.num_inference_steps if steps is None
            else checks.integer("num_inference_steps", steps, 1, 1000)
        )  # fmt: skip
        strength = 1.0 if items is None else strength
        if int(steps * strength) < 1:
            raise checks.refuse(
                "strength", f"at least {1 / steps:g}, one of {steps} steps", strength
            )
        name = "micro_conditioning_aesthetic_score"
        score = d.aesthetic_score if score is None else check(name, score)
        crop = checks.size_pair("micro_conditioning_crop_coord", crop)
        made = MaskedRequest(
            **vars(r),
            steps=steps,
            strength=strength,
            noise_temperature=self._check_temperature(temperature),
            micro_conditions=(size[1], size[0], *crop, score),
            images=per_picture("image", items, r),
            masks=per_picture("mask_image", masks, r),
        )
        made.known = self._known(made, latents, prefix)
        return made

    def _check_temperature(self, value: Any) -> tuple[float, float] | float:
        if value is None:
            return self.defaults.temperature, self.defaults.last_temperature
        if isinstance(value, list | tuple):
            if len(value) != 2:
                raise checks.refuse("temperature", "a number or two of them", value)
            first, last = (check("temperature", v) for v in value)
            return first, last
        number: float = check("temperature", value)
        return number

    def _find_size(self, height: Any, width: Any, items: list[Any] | None) -> tuple[int, int]:
        """(height, width) in pixels: what was asked for, the picture's own, or the model's."""
        multiple = self.vqvae.config.downscale * self.model.config.multiple
        default = self.default_size
        if items is not None:
            if len({pictures.size_of(i) for i in items}) > 1 and None in (height, width):
                raise RequestError("image: expected pictures of one size, or height and width")
            h, w = pictures.size_of(items[0])
            default = (h - h % multiple, w - w % multiple)
            if 0 in default and None in (height, width):
                raise checks.refuse("image", f"at least {multiple}x{multiple} pixels", f"{h}x{w}")
        return (
            checks.side("height", default[0] if height is None else height, multiple),
            checks.side("width", default[1] if width is None else width, multiple),
        )

    def _known(self, r: MaskedRequest, latents: Any, prefix: Any) -> Tensor | None:
        """The tokens to begin with, [N, h, w], of `latents` or `prefix`."""
        grid = self._grid(r)
        codes = self.model.config.codebook_size
        given = [n for n, v in (("latents", latents), ("prefix", prefix)) if v is not None]
        if given and (r.images is not None or len(given) > 1):
            raise RequestError(f"{given[0]}: expected only one of latents, prefix and image")
        if latents is not None:
            known = check_tokens("latents", latents, (r.count, *grid), self.model.config.vocab_size)
            if ((known >= codes) & (known != self.mask_token)).any():
                raise checks.refuse("latents", f"tokens below {codes}, or the mask"
                                    f" {self.mask_token}", int(known.max()))  # fmt: skip
            return known.to(self.device)
        if prefix is None:
            return None
        tokens = self._prefix_tokens(prefix, r)
        known = torch.full((r.count, grid[0] * grid[1]), self.mask_token, device=self.device)
        known[:, : tokens.shape[1]] = tokens
        return known.view(r.count, *grid)

    def _prefix_tokens(self, prefix: Any, r: TokenRequest) -> Tensor:
        return read_prefix(
            prefix, r, self._grid(r), self.vqvae.config.downscale, self.model.config.codebook_size,
            lambda x: self._encode(x.to(self.device)).flatten(1),
        ).to(self.device)  # fmt: skip

    def _grid(self, r: TokenRequest) -> tuple[int, int]:
        factor = self.vqvae.config.downscale
        return r.height // factor, r.width // factor

    # --- the run ----------------------------------------------------------------------------------

    def use_graphs(self, record: Record | None = None) -> None:
        """The transformer is a CUDA graph from now on. record: given for tests."""
        self.graphs = TransformerGraphs(self.model, record)

    def _report(self, r: MaskedRequest) -> Report:
        report = super()._report(r)
        if r.images is not None:
            report.strength = r.strength
        return report

    def _begin(self, r: MaskedRequest, report: Report) -> MaskedCall[MaskedRequest]:
        guided = r.guidance_scale > 1
        with report.stage("encode_prompt", self.device):
            context, text_length = self._context(r, guided, report.warnings)
        noise = NoiseSource(r.generators, self.device)
        schedule = self.parts.schedule.masking_schedule if r.masks is None else "linear"
        table = plan(schedule, r.steps, r.noise_temperature, r.strength)
        stage = "prepare" if r.images is None else "encode_image"
        with report.stage(stage, self.device):
            tokens, masked_shares = self._start(r, table, noise, report.warnings)
        sampling = MaskedSampling(r.guidance_scale, r.sampling, self.mask_token)
        jobs = [
            MaskedJob(
                r.run, k, r.seeds[k], plan=table, tokens=tokens[k], masked_share=masked_shares[k],
                sampling=sampling, numbers=numbers, row=row, source=self.source,
                conditions=Conditions(context, guided * r.count + k, k if guided else None,
                                      text_length),
            )
            for k, (numbers, row) in enumerate(step_numbers(noise, r.count))
        ]  # fmt: skip
        return MaskedCall(self, r, report, jobs)

    def _context(
        self, r: MaskedRequest, guided: bool, warned: list[str]
    ) -> tuple[UVitContext, int]:
        """The conditions of every picture, negative prompts' first where guidance is on, and the
        length of the encoded texts.
        """
        texts = [r.negatives or [""] * len(r.prompts)] if guided else []
        texts.append(cast("list[str]", r.prompts))
        tokenizer, encoder = self.parts.tokenizer, self.parts.text_encoder
        rows = [encode(tokenizer, encoder, t, TEXT_LAYER, warned) for t in texts]
        hidden, pooled = (
            torch.cat([x.repeat_interleave(r.per_prompt, dim=0) for x in part if x is not None])
            for part in zip(*rows, strict=True)
        )
        for x in (hidden, pooled):
            check_finite(f"{self.source}: text encoder", x, r.count)
        sizes = torch.tensor([r.micro_conditions], dtype=hidden.dtype).expand(len(hidden), -1)
        return self.model.encode_context(hidden, pooled, sizes), hidden.shape[1]

    def _start(
        self, r: MaskedRequest, table: MaskedPlan, noise: NoiseSource, warned: list[str]
    ) -> tuple[Tensor, list[float]]:
        """[N, h, w] tokens to begin with; of each picture the share that its mask has masked."""
        grid = self._grid(r)
        shares = [1.0] * r.count
        if r.images is None:
            blank = torch.full((r.count, *grid), self.mask_token, device=self.device)
            return blank if r.known is None else r.known, shares
        # Each distinct picture is encoded by itself.
        first = {id(item): item for item in r.images}
        unit = pictures.to_unit(list(first.values()), r.height, r.width, "image", warned)
        encoded = {key: self._encode(x[None]) for key, x in zip(first, unit, strict=True)}
        tokens = torch.cat([encoded[id(item)] for item in r.images])
        if r.masks is not None:
            hidden = pictures.to_mask(r.masks, *grid, "mask_image", warned)[:, 0] > 0
            shares = (hidden.flatten(1).sum(dim=1) / (grid[0] * grid[1])).tolist()
        else:
            # diffusers masks none of the tokens with strength 1, where we mask all.
            hidden = noise.uniform(tokens.shape, torch.float32).cpu() < table.ratio_before()
        tokens = tokens.masked_fill(hidden.to(self.device), self.mask_token)
        return tokens, shares

    def _step(self, jobs: Sequence[MaskedJob]) -> None:
        # With graphs no step waits, unless somebody is to look at its tokens.
        waits = self.graphs is None or any(job.request.callback for job in jobs)
        step(jobs, self.model.logits if self.graphs is None else self.graphs.logits, waits)
        self._in_flight.step()

    def _picture(self, job: MaskedJob) -> Any:
        tokens, output_type = check_result(job), job.request.output_type
        return tokens if output_type == "latent" else self._decode(tokens[None], output_type)[0]

    def _output(self, call: Call[MaskedRequest, MaskedJob]) -> TokenOutput:
        r, report = call.request, call.report
        tokens = torch.stack([job.result for job in call.jobs])
        images = self._images(tokens, r.output_type, report)
        return TokenOutput(images, r.seeds, report, tokens)

    def _preview(self, tokens: Tensor, output_type: str) -> Any:
        return self._decode(tokens, output_type)

    def _decode(self, tokens: Tensor, output_type: str) -> Any:
        # One by one: the decoder takes the most memory of all. A token that was never drawn is 0.
        decoded = torch.cat([self.vqvae.decode_tokens(t[None].clamp(min=0))[0] for t in tokens])
        return self._shown(self._pictures(decoded), output_type)

    def _encode(self, x: Tensor) -> Tensor:
        """Tokens [N, h, w] of pictures [N, 3, H, W] in 0..1."""
        return self.vqvae.encode_tokens(x)

    def _shown(self, decoded: Tensor, output_type: str) -> Any:
        """What the VQ-VAE decodes, as `output_type` has it: aMUSEd's makes pictures in 0..1."""
        return pictures.from_unit(decoded, output_type)
