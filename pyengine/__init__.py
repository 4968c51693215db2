"""pyengine: a sampling engine for image generators.

    import pyengine
    pipe = pyengine.from_pretrained()          # the model that ships; or a folder, a file, a Hub id
    pipe("a red heart", seed=1).images[0].save("heart.png")

The names that scripts import from diffusers are here too: StableDiffusionPipeline and its like,
AutoPipelineForText2Image, EulerDiscreteScheduler (docs/from-diffusers.md).

Heavy imports (torch) happen on first use, not here.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import (
        engine,
        errors,
        images,
        metadata,
        metrics,
        models,
        ops,
        pipelines,
        preprocess,
        ray,
        schedules,
        weights,
    )
    from .engine import Engine
    from .pipelines import from_pretrained
    from .pipelines.amused.pipeline import AmusedPipeline
    from .pipelines.amused.tasks import AmusedImg2ImgPipeline, AmusedInpaintPipeline
    from .pipelines.cascade.loading import cascade
    from .pipelines.ddpm.pipeline import DDIMPipeline, DDPMPipeline
    from .pipelines.deepfloyd_if.pipeline import IFPipeline
    from .pipelines.deepfloyd_if.super_resolution import IFSuperResolutionPipeline
    from .pipelines.deepfloyd_if.tasks import (
        IFImg2ImgPipeline,
        IFImg2ImgSuperResolutionPipeline,
        IFInpaintingPipeline,
        IFInpaintingSuperResolutionPipeline,
    )
    from .pipelines.depth_to_image.pipeline import StableDiffusionDepth2ImgPipeline
    from .pipelines.diffusers_names.classes import (
        AutoPipelineForImage2Image,
        AutoPipelineForInpainting,
        AutoPipelineForText2Image,
        DiffusionPipeline,
    )
    from .pipelines.diffusers_names.scheduler_types import (
        DDIMParallelScheduler,
        DDIMScheduler,
        DDPMParallelScheduler,
        DDPMScheduler,
        DEISMultistepScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSDEScheduler,
        DPMSolverSinglestepScheduler,
        EDMDPMSolverMultistepScheduler,
        EDMEulerScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        HeunDiscreteScheduler,
        IPNDMScheduler,
        KDPM2AncestralDiscreteScheduler,
        KDPM2DiscreteScheduler,
        LCMScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
        SASolverScheduler,
        TCDScheduler,
        UniPCMultistepScheduler,
    )
    from .pipelines.dit.pipeline import DiTPipeline
    from .pipelines.image_variation.pipeline import StableDiffusionImageVariationPipeline
    from .pipelines.instruct_pix2pix.pipeline import StableDiffusionInstructPix2PixPipeline
    from .pipelines.instruct_pix2pix.xl import StableDiffusionXLInstructPix2PixPipeline
    from .pipelines.kandinsky.combined import KandinskyV22CombinedPipeline
    from .pipelines.kandinsky.pipeline import KandinskyV22Pipeline
    from .pipelines.kandinsky.prior import KandinskyV22PriorPipeline
    from .pipelines.kandinsky.tasks import (
        KandinskyV22ControlnetImg2ImgPipeline,
        KandinskyV22ControlnetPipeline,
        KandinskyV22Img2ImgCombinedPipeline,
        KandinskyV22Img2ImgPipeline,
        KandinskyV22InpaintCombinedPipeline,
        KandinskyV22InpaintPipeline,
    )
    from .pipelines.latent_upscale.pipeline import StableDiffusionLatentUpscalePipeline
    from .pipelines.stable_diffusion.control_tasks import (
        StableDiffusionAdapterPipeline,
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionControlNetInpaintPipeline,
        StableDiffusionControlNetPipeline,
        StableDiffusionXLAdapterPipeline,
        StableDiffusionXLControlNetImg2ImgPipeline,
        StableDiffusionXLControlNetInpaintPipeline,
        StableDiffusionXLControlNetPipeline,
        StableDiffusionXLControlNetUnionImg2ImgPipeline,
        StableDiffusionXLControlNetUnionInpaintPipeline,
        StableDiffusionXLControlNetUnionPipeline,
    )
    from .pipelines.stable_diffusion.pipeline import StableDiffusionPipeline
    from .pipelines.stable_diffusion.tasks import (
        LatentConsistencyModelImg2ImgPipeline,
        LatentConsistencyModelPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
    )
    from .pipelines.stable_diffusion.xl import StableDiffusionXLPipeline
    from .pipelines.stable_diffusion_upscale.pipeline import StableDiffusionUpscalePipeline
    from .pipelines.unclip.pipeline import UnCLIPPipeline
    from .pipelines.unclip.variation import UnCLIPImageVariationPipeline

__all__ = [
    "AmusedImg2ImgPipeline",
    "AmusedInpaintPipeline",
    "AmusedPipeline",
    "AutoPipelineForImage2Image",
    "AutoPipelineForInpainting",
    "AutoPipelineForText2Image",
    "DDIMParallelScheduler",
    "DDIMPipeline",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMPipeline",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "DiTPipeline",
    "DiffusionPipeline",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "Engine",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IFImg2ImgPipeline",
    "IFImg2ImgSuperResolutionPipeline",
    "IFInpaintingPipeline",
    "IFInpaintingSuperResolutionPipeline",
    "IFPipeline",
    "IFSuperResolutionPipeline",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KandinskyV22CombinedPipeline",
    "KandinskyV22ControlnetImg2ImgPipeline",
    "KandinskyV22ControlnetPipeline",
    "KandinskyV22Img2ImgCombinedPipeline",
    "KandinskyV22Img2ImgPipeline",
    "KandinskyV22InpaintCombinedPipeline",
    "KandinskyV22InpaintPipeline",
    "KandinskyV22Pipeline",
    "KandinskyV22PriorPipeline",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "LatentConsistencyModelImg2ImgPipeline",
    "LatentConsistencyModelPipeline",
    "PNDMScheduler",
    "SASolverScheduler",
    "StableDiffusionAdapterPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionDepth2ImgPipeline",
    "StableDiffusionImageVariationPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionLatentUpscalePipeline",
    "StableDiffusionPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionXLAdapterPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLControlNetUnionImg2ImgPipeline",
    "StableDiffusionXLControlNetUnionInpaintPipeline",
    "StableDiffusionXLControlNetUnionPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableDiffusionXLPipeline",
    "TCDScheduler",
    "UnCLIPImageVariationPipeline",
    "UnCLIPPipeline",
    "UniPCMultistepScheduler",
    "__version__",
    "cascade",
    "engine",
    "errors",
    "from_pretrained",
    "images",
    "metadata",
    "metrics",
    "models",
    "ops",
    "pipelines",
    "preprocess",
    "ray",
    "schedules",
    "weights",
]

if not TYPE_CHECKING:  # or pyengine.nothing would have a type

    def __getattr__(name: str) -> object:
        """Imports what is asked for by name, so that `import pyengine` takes no time."""
        import importlib

        if name not in __all__:
            raise _absent(name)
        if name[0].islower() and name not in ("from_pretrained", "cascade"):
            return importlib.import_module(f"{__name__}.{name}")
        names = f"{__name__}.pipelines.diffusers_names"
        place = (
            f"{names}.scheduler_types"
            if name.endswith("Scheduler")
            else f"{__name__}.engine"
            if name == "Engine"
            else f"{__name__}.pipelines.cascade.loading"
            if name == "cascade"
            else f"{names}.classes"
            if name == "DiffusionPipeline" or name.startswith("Auto")
            else f"{__name__}.pipelines"
        )
        found = globals()[name] = getattr(importlib.import_module(place), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

    def _absent(name: str) -> Exception:
        """AttributeError that says what there is; where `from pyengine import name` asks, which
        hides the words of an AttributeError, ImportError. That import goes on to modules that are
        not in __all__ after an AttributeError alone.
        """
        import sys
        from importlib.util import find_spec

        if name.startswith("_") or find_spec(f"{__name__}.{name}"):
            return AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .absent import explain

        text = f"module {__name__!r} has no {name!r}: {explain(name, __all__)}"
        asks = sys._getframe(2).f_code.co_name  # importlib's, for the from of an import
        return (ImportError if asks == "_handle_fromlist" else AttributeError)(text)
