"""What unCLIP's two pipelines share: checks of requests, the run, pictures of each stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...diffusion.evaluator import Evaluator
from ...diffusion.staged import Stage, StagedCall, StagedJob, StageNoise, enter_stages
from ...finite import check_finite
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import Report
from ...models import (
    CLIPTextModelWithProjection,
    UnCLIPTextProjModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from ...models.base import Model
from ...schedules import unclip
from ...schedules.config import UnCLIPConfig
from ...tokenizer import ClipTokenizer
from ..arguments import check, checked
from ..classifiers import find_classifier
from ..defaults import bounded
from ..guidance_methods import method_of, taken
from ..guides import Guides, guides_of, labels_to_follow
from ..keywords import refuse_others
from ..prior_denoiser import PriorDenoiser
from ..staged import StagedPipeline
from ..text import encode, token_mask
from ..unprompted import CALLBACK_TENSORS
from .course import DECODER, FIRST, LAST, PRIOR, Shapes, UnCLIPCourse, enlarged
from .request import Texts, UnCLIPRequest


@dataclass(frozen=True)
class VariationDefaults:
    """Of diffusers' UnCLIPImageVariationPipeline."""

    decoder_num_inference_steps: int = bounded(25, 2, 1000)
    super_res_num_inference_steps: int = bounded(7, 2, 1000)
    decoder_guidance_scale: float = bounded(8.0, 0, 1000)


@dataclass(frozen=True)
class DecoderSampler:
    """The decoder's sampler, as guides are told it: as schedules.Scheduler says it of others'."""

    config: UnCLIPConfig
    name: ClassVar[str] = "unclip"
    class_name: ClassVar[str] = "UnCLIPScheduler"


def square(config: Any) -> int:
    """The side that a network's pictures have; its builder has checked that there is one."""
    size = config.sample_size
    return int(size[0] if isinstance(size, tuple) else size)


class UnCLIPBase(StagedPipeline[UnCLIPRequest]):
    """Base of unCLIP's pipelines; a subclass has `names`, `__call__`, `_checked` and `_texts`."""

    #: The parts that predict, in the order in which they do.
    names: ClassVar[tuple[str, ...]]
    main_part: ClassVar[str] = DECODER

    def __init__(
        self,
        models: dict[str, Model],
        tokenizer: ClipTokenizer,
        schedules: dict[str, UnCLIPConfig],
        checkpoint: Any,
        source: str,
        defaults: Any,
    ):
        """models: by part. schedules: by "prior" (where there is one), "decoder", "super_res".
        source: the path or Hub id it was loaded from.
        """
        super().__init__()
        self.models, self.tokenizer, self.checkpoint = models, tokenizer, checkpoint
        self.clip_tokenizer = tokenizer
        self.schedules, self.source, self.defaults = schedules, source, defaults
        for model in models.values():  # one for all, which work one after the other
            model.arena = self.decoder.arena
        self.stages = tuple(
            Stage(
                name,
                Evaluator(
                    cast(
                        Any,
                        PriorDenoiser(cast(Any, models[name])) if name == PRIOR else models[name],
                    )
                ),
            )
            for name in self.names
        )
        side, width = square(self.super_res_first.config), self.width
        decoder, small = self.decoder.config, square(self.decoder.config)
        channels = self.super_res_first.config.in_channels // 2
        self._shapes = Shapes((width,), (decoder.in_channels, small, small), (channels, side, side))

    # --- what it is -------------------------------------------------------------------------------

    @property
    def decoder(self) -> UNet2DConditionModel:
        return cast(UNet2DConditionModel, self.models[DECODER])

    @property
    def text_proj(self) -> UnCLIPTextProjModel:
        return cast(UnCLIPTextProjModel, self.models["text_proj"])

    @property
    def text_encoder(self) -> CLIPTextModelWithProjection:
        return cast(CLIPTextModelWithProjection, self.models["text_encoder"])

    @property
    def super_res_first(self) -> UNet2DModel:
        return cast(UNet2DModel, self.models[FIRST])

    @property
    def super_res_last(self) -> UNet2DModel:
        return cast(UNet2DModel, self.models[LAST])

    @property
    def width(self) -> int:
        """Of an embedding."""
        found: int = self.text_proj.config.clip_embeddings_dim
        return found

    @property
    def network(self) -> Model:
        return self.decoder

    @property
    def components(self) -> dict[str, Any]:
        return {**self.models, "tokenizer": self.tokenizer}

    # --- a subclass's part ------------------------------------------------------------------------

    def _texts(self, r: UnCLIPRequest, warned: list[str]) -> Texts:
        """Of each picture."""
        raise NotImplementedError

    def _prepared(self, r: UnCLIPRequest) -> UnCLIPRequest:
        """The request with what is computed of it first, such as pictures' embeddings."""
        return r

    # --- arguments --------------------------------------------------------------------------------

    def _request(
        self,
        a: dict[str, Any],
        batch: int,
        names: Sequence[str],
        words: Sequence[str] | None = None,
        **own: Any,
    ) -> UnCLIPRequest:
        """The arguments that both have, checked. names: of stages with steps and latents. batch:
        pictures, without num_images_per_prompt. words: the prompts, where they are given in words.
        """
        refuse_others(a["others"], self.__call__)
        simple = checked({"output_type": a["output_type"]}, self.defaults)
        count = batch * check("num_images_per_prompt", a["num_images_per_prompt"])
        side = self._shapes.super_res[1]
        checks.check_total(side, side, count)
        shapes = {
            "prior": self._shapes.prior,
            "decoder": self._shapes.decoder,
            "super_res": self._shapes.super_res,
        }
        latents: dict[str, Tensor | None] = {}
        for name in names:
            given = a[f"{name}_latents"]
            if given is not None:
                given = checks.check_latents(given, (count, *shapes[name]), f"{name}_latents")
                given = given.to(self.device, self.dtype)
            latents[name] = given
        seeds, generators = checks.seeds_and_generators(
            a["seed"], a["generator"], count, self.device
        )
        callback = a["callback_on_step_end"]
        return UnCLIPRequest(
            count=count,
            height=side,
            width=side,
            steps_of={name: self._steps(name, a[f"{name}_num_inference_steps"]) for name in names},
            latents_of=latents,
            output_type=simple["output_type"],
            seeds=seeds,
            guides=self._guides(a, words, batch, count),
            method=method_of(taken(a), has_negative=None),
            decoder_scale=self._scales("decoder", a["decoder_guidance_scale"], count),
            generators=generators,
            callback=callback,
            callback_inputs=checks.check_callback(
                callback, a["callback_on_step_end_tensor_inputs"], CALLBACK_TENSORS
            ),
            **checks.manners(a["run"], a["timeout"], a["return_dict"]),
            **own,
        )

    def _steps(self, stage: str, value: Any) -> int:
        name = f"{stage}_num_inference_steps"
        value = getattr(self.defaults, name) if value is None else value
        return checks.integer(name, value, 2, self.schedules[stage].num_train_timesteps)

    def _scales(self, stage: str, value: Any, count: int) -> tuple[float, ...]:
        name = f"{stage}_guidance_scale"
        value = getattr(self.defaults, name) if value is None else value
        return checks.guidance_scales(name, value, count)

    def _guides(
        self, a: dict[str, Any], words: Sequence[str] | None, batch: int, count: int
    ) -> Guides:
        """What guides the decoder's stage."""
        c, h, w = self._shapes.decoder
        own = find_classifier(a["classifier"], a["classifier_scale"], self.device, self._kept)
        labels = labels_to_follow(own, a["class_labels"], batch, count)
        found = guides_of(a, self, words, count, (c, h, w), own, labels)
        found.check_scheduler(DecoderSampler(self.schedules["decoder"]))
        return found

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: UnCLIPRequest) -> Report:
        scales = set(r.decoder_scale)
        return Report(
            model=self.source,
            pipeline=self._class_name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler="unclip",
            height=r.height,
            width=r.width,
            guidance_scale=scales.pop() if len(scales) == 1 else r.decoder_scale,
            weights=self.decoder.weights,
        )

    def _begin(self, r: UnCLIPRequest, report: Report) -> StagedCall[UnCLIPRequest]:
        plans = {
            name: unclip.plan(self.schedules[name], steps) for name, steps in r.steps_of.items()
        }
        r.run.settings = {"num_timesteps": r.evaluations}
        with report.stage("encode_prompt", self.device):
            r = self._prepared(r)
            texts, empty = self._texts(r, report.warnings), self._encode([""], report.warnings)
        noise = StageNoise(NoiseSource(r.generators, self.device), r.count, len(self.stages))
        course = UnCLIPCourse(
            self.stages,
            r,
            plans,
            self._shapes,
            noise,
            texts,
            empty,
            self.text_proj,
            self.source,
            r.guides.gradients(
                r.count, self, DecoderSampler(self.schedules["decoder"]), report.warnings
            ),
        )
        jobs = [StagedJob(r.run, i, seed, course) for i, seed in enumerate(r.seeds)]
        with report.stage("prepare", self.device):
            enter_stages(jobs)
            for job in jobs:
                job.raise_error()
        return StagedCall(self, r, report, jobs)

    def _encode(self, prompts: Sequence[str], warned: list[str]) -> Texts:
        hidden, projected = encode(self.tokenizer, self.text_encoder, prompts, None, warned)
        assert projected is not None  # this encoder projects
        check_finite(f"{self.source}: text encoder", hidden)
        seen = token_mask(self.tokenizer, prompts, hidden.shape[1]).to(self.device)
        return Texts(hidden, projected, seen)

    @property
    def denoiser(self) -> UNet2DConditionModel:
        """What makes the picture that a gradient goes through."""
        return self.decoder

    def pixels_of(self, latents: Tensor) -> Tensor:
        """[1, 3, h, w] in about -1..1 of what the decoder denoises."""
        return latents

    # --- pictures ---------------------------------------------------------------------------------

    def _pixels(self, job: StagedJob) -> Tensor:
        """Of the super-resolution; before it the decoder's, enlarged as it is for that."""
        return self._seen(job.latents)

    def _preview(self, latents: Tensor, output_type: str) -> Any:
        from ... import images as pictures

        return pictures.from_tensor(torch.cat([self._seen(x[None]) for x in latents]), output_type)

    def _seen(self, latents: Tensor) -> Tensor:
        """[1, 3, height, width] of what is denoised at any stage: of an embedding, of which there
        is nothing to see yet, grey.
        """
        side = self._shapes.super_res[1]
        if latents.dim() == 2:
            return torch.zeros(1, 3, side, side, dtype=latents.dtype, device=latents.device)
        return latents if latents.shape[2] == side else enlarged(latents, side, side)
