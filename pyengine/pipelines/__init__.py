"""Whole models at work: encode the prompt, sample, decode. No math of their own.

pipe = pyengine.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
result = pipe("a red heart", seed=1, num_images_per_prompt=4)
result.images, result.seeds, result.report
"""

from .arguments import Defaults
from .loading import from_pretrained
from .output import PipelineOutput, Report
from .stable_diffusion import StableDiffusionPipeline, StopSampling
from .stable_diffusion_xl import StableDiffusionXLPipeline

__all__ = [
    "Defaults",
    "PipelineOutput",
    "Report",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StopSampling",
    "from_pretrained",
]
