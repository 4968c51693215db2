"""diffusers' pipelines and ours over the same tiny random checkpoints, and how far they differ."""

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import diffusers
import numpy as np
import tiny
import torch

import pyengine
from pyengine.schedules.samplers import SAMPLERS

#: The whole pictures' bar. Typical is 110 to 130: see the assertion messages.
LEAST_PSNR = 40.0
SMALL = {"layers_per_block": 1}
LCM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
}
PNDM = {k: v for k, v in tiny.SD1_SCHEDULER.items() if k != "clip_sample"}
PNDM["skip_prk_steps"] = True


def xl_scheduler():
    """SDXL's, with the keys that its published config keeps for other samplers. Without them DDIM
    would clip, and a random network clipped for 20 steps is chaotic: diffusers itself, begun with
    noise that differs by 1e-7, then draws another picture.
    """
    keys = {**tiny.SDXL_SCHEDULER, "clip_sample": False, "set_alpha_to_one": False}
    return diffusers.EulerDiscreteScheduler.from_config(keys)


def write_lcm(folder, pipeline_class="StableDiffusionPipeline"):
    """A latent consistency model, for the pipeline class of diffusers that it names."""
    unet, scheduler = {**SMALL, "time_cond_proj_dim": 32}, diffusers.LCMScheduler(**LCM)
    folder = tiny.write_sd1(folder, unet=unet, scheduler=scheduler)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', f'"{pipeline_class}"'))
    return folder


WRITERS = {
    "sd1": lambda folder: tiny.write_sd1(folder, unet=SMALL),
    "sd2": lambda folder: tiny.write_sd2(folder, unet=SMALL),
    "sdxl": lambda folder: tiny.write_sdxl(folder, unet=SMALL, scheduler=xl_scheduler()),
    "sdxl_bare": lambda folder: tiny.write_sdxl(folder, unet=SMALL),
    "inpaint": lambda folder: tiny.write_sd1(folder, unet={**SMALL, "in_channels": 9}),
    "inpaint_xl": lambda folder: tiny.write_sdxl(folder, unet={**SMALL, "in_channels": 9}),
    "pndm": lambda folder: tiny.write_sd1(
        folder, unet=SMALL, scheduler=diffusers.PNDMScheduler(**PNDM)
    ),
    "lcm": lambda folder: write_lcm(folder),
    "lcm_own": lambda folder: write_lcm(folder, "LatentConsistencyModelPipeline"),
}

#: sampler -> (diffusers' class, keys that the name sets). A PNDM without skip_prk_steps in the
#: checkpoint begins with its warm-up in both. DPM++ SDE draws other noise than diffusers' (it needs
#: torchsde besides); SciPy may be missing for LMS.
REFERENCES = {
    name: (getattr(diffusers, sampler.class_name), dict(sampler.keys))
    for name, sampler in SAMPLERS.items()
    if sampler.class_name != "DPMSolverSDEScheduler"
    and (sampler.class_name != "LMSDiscreteScheduler" or find_spec("scipy"))
}
DETERMINISTIC = ("ddim", "euler", "heun", "dpmpp_2m", "dpmpp_2m_karras", "unipc")
RANDOM = ("ddpm", "euler_ancestral", "lcm")
#: Those whose formulas tests/schedules compares; one picture each is compared here. diffusers'
#: Stable Diffusion cannot run flow matching's: it has no init_noise_sigma.
OTHERS = tuple(name for name in REFERENCES if name not in (*DETERMINISTIC, *RANDOM, "flow_euler"))


@dataclass
class Pair:
    """A checkpoint folder, opened by diffusers (by the class for each task) and by pyengine."""

    folder: Path

    @cached_property
    def own(self):
        return pyengine.from_pretrained(self.folder, device="cpu")

    @cached_property
    def text_to_image(self):
        return self._load(diffusers.DiffusionPipeline)

    @cached_property
    def image_to_image(self):
        if self.own.parts.pipeline_class.startswith("LatentConsistency"):
            return self._load(diffusers.LatentConsistencyModelImg2ImgPipeline)
        xl = self._xl
        return self._load(
            diffusers.StableDiffusionXLImg2ImgPipeline
            if xl
            else diffusers.StableDiffusionImg2ImgPipeline
        )

    @cached_property
    def inpainting(self):
        return self._load(
            diffusers.StableDiffusionXLInpaintPipeline
            if self._xl
            else diffusers.StableDiffusionInpaintPipeline
        )

    @property
    def _xl(self) -> bool:
        return "XL" in self.own.parts.pipeline_class

    def _load(self, cls):
        pipe = cls.from_pretrained(self.folder, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        encoder = getattr(pipe, "text_encoder", None)
        if encoder is not None and not hasattr(encoder, "text_model"):
            # diffusers 0.42 looks for the norm of clip-skip where transformers 4 had it.
            object.__setattr__(encoder, "text_model", encoder)
        return pipe

    def compare(
        self, prompt="a red heart", *, task="text_to_image", scheduler=None, seed=7, **call
    ):
        """(diffusers' pictures, ours, PSNR in dB); seed: of one torch.Generator for each."""
        reference = getattr(self, task)
        own_scheduler = reference.scheduler
        if scheduler is not None:
            cls, extra = REFERENCES[scheduler]
            reference.scheduler = cls.from_config(own_scheduler.config, **extra)
        sizes = {k: call[k] for k in ("height", "width") if k in call}
        same = {k: v for k, v in call.items() if k not in sizes}
        try:
            expected = reference(
                prompt,
                generator=generators(seed),
                output_type="np",
                **same,
                **({} if task == "image_to_image" else sizes),
            ).images
        finally:
            reference.scheduler = own_scheduler
        got = self.own(
            prompt, generator=generators(seed), scheduler=scheduler, output_type="np", **call
        ).images
        return expected, got, psnr(expected, got)

    def check(self, *args, **call) -> float:
        """Asserts that both draw the same pictures, and that these hold something."""
        expected, _, decibel = self.compare(*args, **call)
        assert expected.std() > 0.02, "an empty picture would prove nothing"
        assert decibel >= LEAST_PSNR, f"{decibel:.1f} dB for {args} {call}"
        return decibel


def generators(seed):
    """A torch.Generator for a seed; a list of them for a list."""
    if isinstance(seed, list):
        return [generators(s) for s in seed]
    return torch.Generator("cpu").manual_seed(seed)


def psnr(a, b) -> float:
    """Peak signal to noise ratio in dB of pictures in [0, 1]; 200 for equal ones."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    mse = float(((a - b) ** 2).mean())
    return 200.0 if mse == 0 else min(200.0, -10 * math.log10(mse))


def quiet():
    """diffusers without its deprecation notes."""
    diffusers.utils.logging.set_verbosity_error()


def draw(pipe, **call):
    """A picture in three steps, always of the same prompt and, unless told another, seed."""
    call = {"num_inference_steps": 3, "output_type": "np", "seed": 3, **call}
    return pipe("a red heart", **call).images
