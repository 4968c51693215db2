"""What is asked of a run of denoising, checked."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..guidance import Method
from ..jobs.request import CallRequest, expected
from .step_caching import StepCaching


@dataclass(kw_only=True)
class Request(CallRequest):
    """A call's arguments, with defaults filled in; see StableDiffusionPipeline.__call__.

    texts: embeddings.Texts, B prompts. count: pictures, B x num_images_per_prompt, those of a
    prompt together. guidance_scale: one for all, or one per picture. images, masks: pictures as
    pyengine.images.as_list gives them, or None. masked_latents: [M, C, h, w] of the masked picture,
    where they were given. part: crop.Crop where only a part of the picture is painted. plan: what
    schedules.Scheduler.plan is told besides steps, strength and eta. callback_known: tensors that
    the callback may change. guides: pipelines.guides.Guides. method: how, and at which steps,
    guidance_scale guides. cache_interval, cache_branch_id: of step_caching.StepCaching. effort:
    what was filled in where nothing was said.
    loras: pipelines.loras.Uses of each picture.
    warnings: what was not done as asked, for the report. control: control.ControlRequest, or None.
    image_prompts: image_prompts.ImageGiven of each IP-Adapter.
    """

    texts: Any
    per_prompt: int
    height: int
    width: int
    steps: int
    guidance_scale: float | tuple[float, ...]
    guidance_rescale: float
    eta: float
    clip_skip: int | None
    strength: float = 1.0
    scheduler: str | None = None
    generators: list[torch.Generator] | torch.Generator | None = None
    latents: torch.Tensor | None = None
    images: list[Any] | None = None
    masks: list[Any] | None = None
    callback_inputs: tuple[str, ...] = ("latents",)
    callback_known: tuple[str, ...] = ("latents",)
    masked_latents: torch.Tensor | None = None
    part: Any = None
    plan: dict[str, Any] = field(default_factory=dict)
    guides: Any = None
    control: Any = None
    image_prompts: tuple[Any, ...] = ()
    cache_interval: int = 1
    cache_branch_id: int = 0
    effort: str = "full"
    method: Method = field(default_factory=Method)
    loras: tuple[Any, ...] = ()
    warnings: list[str] = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        """Whether the run goes on with noisy latents of another: nothing is added to them."""
        return "denoising_start" in self.plan

    @property
    def caching(self) -> StepCaching | None:
        """None where every evaluation computes all of the network."""
        if self.cache_interval == 1:
            return None
        return StepCaching(self.cache_interval, self.cache_branch_id)

    @property
    def scales(self) -> tuple[float, ...]:
        """guidance_scale of every picture."""
        g = self.guidance_scale
        return g if isinstance(g, tuple) else (g,) * self.count

    @property
    def count(self) -> int:
        batch: int = self.texts.batch
        return batch * self.per_prompt

    @property
    def evaluations(self) -> int:
        return expected(self.plan, self.steps, self.strength)

    @property
    def begun_from(self) -> list[Any]:
        """`images`, of a run that begins from some."""
        assert self.images is not None
        return self.images
