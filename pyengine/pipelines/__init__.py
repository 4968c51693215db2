"""Whole models at work: encode the prompt, sample, decode. No math of their own.

pipe = pyengine.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
result = pipe("a red heart", seed=1, num_images_per_prompt=4)
result.images, result.seeds, result.report
"""

from ..jobs.checks import StopSampling
from ..jobs.output import PipelineOutput, Report
from ..jobs.runs import Run
from .amused.pipeline import AmusedPipeline
from .image_gpt.pipeline import ImageGPTPipeline
from .janus.pipeline import JanusPipeline
from .loading import from_pretrained
from .picture_gpt.pipeline import PictureGPTPipeline
from .stable_diffusion.defaults import Defaults
from .stable_diffusion.pipeline import StableDiffusionPipeline
from .stable_diffusion.xl import StableDiffusionXLPipeline
from .tokens import TokenDefaults, TokenPipeline

__all__ = [
    "AmusedPipeline",
    "Defaults",
    "ImageGPTPipeline",
    "JanusPipeline",
    "PictureGPTPipeline",
    "PipelineOutput",
    "Report",
    "Run",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StopSampling",
    "TokenDefaults",
    "TokenPipeline",
    "from_pretrained",
]
