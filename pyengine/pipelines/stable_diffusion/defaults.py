"""What a call uses where the caller says nothing."""

from dataclasses import dataclass

from ..defaults import bounded


@dataclass(frozen=True)
class Defaults:
    """What a call uses where the caller says nothing; a checkpoint's pyengine.json may say more.

    strength: of image-to-image; inpaint_strength, inpaint_guidance_scale (None: guidance_scale):
    of inpainting. control_strength (None: strength): of image-to-image beside a ControlNet, where
    guidance_scale is inpainting's, too. fast_*: what effort="fast" takes in their place.
    """

    num_inference_steps: int = bounded(50, 1, 1000)
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    strength: float = 0.8
    inpaint_strength: float = bounded(1.0, 0, 1)
    inpaint_guidance_scale: float | None = bounded(None, 0, 1000)
    control_strength: float | None = bounded(None, 0, 1)
    cache_interval: int = 1
    cache_branch_id: int = 0
    fast_num_inference_steps: int = bounded(20, 1, 1000)
    fast_scheduler: str = "dpmpp_2m"
    fast_cache_interval: int = bounded(2, 1, 1000)
    fast_cache_branch_id: int = bounded(0, 0, 1000)


@dataclass(frozen=True)
class DistilledDefaults(Defaults):
    """Of diffusers' LatentConsistencyModelPipeline."""

    num_inference_steps: int = bounded(4, 1, 1000)
    guidance_scale: float = 8.5
