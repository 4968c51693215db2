"""diffusers' scheduler classes that pyengine has, by name: one for each of schedules.CLASSES."""

from .schedulers import NamedScheduler


class DDIMParallelScheduler(NamedScheduler):
    """The sampler "ddim"."""


class DDIMScheduler(NamedScheduler):
    """The sampler "ddim"."""


class DDPMParallelScheduler(NamedScheduler):
    """The sampler "ddpm"."""


class DDPMScheduler(NamedScheduler):
    """The sampler "ddpm"."""


class DPMSolverMultistepScheduler(NamedScheduler):
    """The samplers "dpmpp_2m", and by algorithm_type "dpmpp_2m_sde"."""


class EulerAncestralDiscreteScheduler(NamedScheduler):
    """The sampler "euler_ancestral"."""


class EulerDiscreteScheduler(NamedScheduler):
    """The sampler "euler"."""


class HeunDiscreteScheduler(NamedScheduler):
    """The sampler "heun"."""


class LCMScheduler(NamedScheduler):
    """The sampler "lcm"."""


class PNDMScheduler(NamedScheduler):
    """The sampler "pndm"."""


class UniPCMultistepScheduler(NamedScheduler):
    """The sampler "unipc"."""
