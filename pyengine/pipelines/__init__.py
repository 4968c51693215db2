"""Whole models at work: encode the prompt, sample, decode. No math of their own.

pipe = pyengine.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
result = pipe("a red heart", seed=1, num_images_per_prompt=4)
result.images, result.seeds, result.report

What is asked for by name is imported then: a family's pipeline brings its models along.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..jobs.checks import StopSampling
    from ..jobs.output import PipelineOutput, Report
    from ..jobs.runs import Run
    from .amused.pipeline import AmusedPipeline
    from .biggan.pipeline import BigGANPipeline
    from .cascade.pipeline import CascadePipeline
    from .dcgan.pipeline import DCGANPipeline
    from .image_gpt.pipeline import ImageGPTPipeline
    from .janus.pipeline import JanusPipeline
    from .loading import from_pretrained
    from .picture_gpt.pipeline import PictureGPTPipeline
    from .registry import Family, Part, families, register, unregister
    from .stable_diffusion.defaults import Defaults
    from .stable_diffusion.pipeline import StableDiffusionPipeline
    from .stable_diffusion.xl import StableDiffusionXLPipeline
    from .tokens import TokenDefaults, TokenPipeline
    from .upscale.pipeline import UpscalePipeline

__all__ = [
    "AmusedPipeline",
    "BigGANPipeline",
    "CascadePipeline",
    "DCGANPipeline",
    "Defaults",
    "Family",
    "ImageGPTPipeline",
    "JanusPipeline",
    "Part",
    "PictureGPTPipeline",
    "PipelineOutput",
    "Report",
    "Run",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StopSampling",
    "TokenDefaults",
    "TokenPipeline",
    "UpscalePipeline",
    "families",
    "from_pretrained",
    "register",
    "unregister",
]

if not TYPE_CHECKING:
    #: Where a name is that is not the pipeline of a family.
    _HOMES = {
        "CascadePipeline": "pyengine.pipelines.cascade.pipeline",
        "Defaults": "pyengine.pipelines.stable_diffusion.defaults",
        "Family": "pyengine.pipelines.registry",
        "Part": "pyengine.pipelines.registry",
        "PipelineOutput": "pyengine.jobs.output",
        "Report": "pyengine.jobs.output",
        "Run": "pyengine.jobs.runs",
        "StopSampling": "pyengine.jobs.checks",
        "TokenDefaults": "pyengine.pipelines.tokens",
        "TokenPipeline": "pyengine.pipelines.tokens",
        "families": "pyengine.pipelines.registry",
        "from_pretrained": "pyengine.pipelines.loading",
        "register": "pyengine.pipelines.registry",
        "unregister": "pyengine.pipelines.registry",
    }

    def __getattr__(name: str) -> object:
        """Imports what is asked for by name."""
        from importlib import import_module

        if name in _HOMES:
            found = getattr(import_module(_HOMES[name]), name)
        elif name.endswith("Pipeline"):
            try:
                found = import_module(f"{__name__}.registry").pipeline_named(name)
            except KeyError:
                raise AttributeError(f"module {__name__!r} has no {name!r}") from None
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
