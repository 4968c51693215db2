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


class DEISMultistepScheduler(NamedScheduler):
    """The sampler "deis"."""


class DPMSolverMultistepScheduler(NamedScheduler):
    """The samplers "dpmpp_2m", and by algorithm_type "dpmpp_2m_sde"."""


class DPMSolverSDEScheduler(NamedScheduler):
    """The sampler "dpmpp_sde"."""


class DPMSolverSinglestepScheduler(NamedScheduler):
    """The sampler "dpmpp_2s"."""


class EDMDPMSolverMultistepScheduler(NamedScheduler):
    """The sampler "edm_dpmpp_2m"."""


class EDMEulerScheduler(NamedScheduler):
    """The sampler "edm_euler"."""


class EulerAncestralDiscreteScheduler(NamedScheduler):
    """The sampler "euler_ancestral"."""


class EulerDiscreteScheduler(NamedScheduler):
    """The sampler "euler"."""


class FlowMatchEulerDiscreteScheduler(NamedScheduler):
    """The sampler "flow_euler"."""


class HeunDiscreteScheduler(NamedScheduler):
    """The sampler "heun"."""


class IPNDMScheduler(NamedScheduler):
    """The sampler "ipndm"."""


class KDPM2AncestralDiscreteScheduler(NamedScheduler):
    """The sampler "dpm2_ancestral"."""


class KDPM2DiscreteScheduler(NamedScheduler):
    """The sampler "dpm2"."""


class LCMScheduler(NamedScheduler):
    """The sampler "lcm"."""


class LMSDiscreteScheduler(NamedScheduler):
    """The sampler "lms"."""


class PNDMScheduler(NamedScheduler):
    """The sampler "pndm"."""


class SASolverScheduler(NamedScheduler):
    """The sampler "sa_solver"."""


class TCDScheduler(NamedScheduler):
    """The sampler "tcd"."""


class UniPCMultistepScheduler(NamedScheduler):
    """The sampler "unipc"."""
