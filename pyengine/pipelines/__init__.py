"""Whole models at work: encode the prompt, sample, decode. No math of their own.

pipe = pyengine.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
result = pipe("a red heart", seed=1, num_images_per_prompt=4)
result.images, result.seeds, result.report
"""

from .amused import AmusedPipeline
from .arguments import Defaults
from .image_gpt import ImageGPTPipeline
from .janus import JanusPipeline
from .loading import from_pretrained
from .output import PipelineOutput, Report
from .picture_gpt import PictureGPTPipeline
from .request import StopSampling
from .runs import Run
from .stable_diffusion import StableDiffusionPipeline
from .stable_diffusion_xl import StableDiffusionXLPipeline
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
