"""The table of samplers, and the names that people call them by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import RequestError
from ..weights.text import did_you_mean, show
from . import (
    ddim,
    ddpm,
    deis,
    dpmsolver,
    dpmsolver_sde,
    edm,
    euler,
    flow,
    heun,
    ipndm,
    kdpm2,
    lcm,
    lms,
    pndm,
    sasolver,
    singlestep,
    tcd,
    unipc,
)
from .config import (
    DDIMConfig,
    DDPMConfig,
    EulerAncestralConfig,
    EulerConfig,
    FlowEulerConfig,
    HeunConfig,
    IPNDMConfig,
    KDPM2Config,
    LCMConfig,
    LMSConfig,
    PNDMConfig,
    SamplerConfig,
    SDEConfig,
    SpacedConfig,
)
from .plan import Plan
from .request import Request
from .solver_config import (
    DEISConfig,
    DPMSolverConfig,
    EDMDPMSolverConfig,
    EDMEulerConfig,
    SAConfig,
    SinglestepConfig,
    UniPCConfig,
)

#: What may follow a sampler's name with an underscore, and the key that it sets.
SPACINGS: dict[str, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "trailing": {"timestep_spacing": "trailing"},
}


@dataclass(frozen=True)
class Sampler:
    """class_name: diffusers' class.  config: of its keys.  plan: (config, request) -> Plan.
    keys: those that the name itself sets.
    """

    class_name: str
    config: type[SamplerConfig]
    plan: Callable[[Any, Request], Plan]
    keys: Mapping[str, Any] = field(default_factory=dict)

    def having(self, **keys: Any) -> "Sampler":
        """The same one with more keys set."""
        return Sampler(self.class_name, self.config, self.plan, {**self.keys, **keys})


_DPM = Sampler("DPMSolverMultistepScheduler", DPMSolverConfig, dpmsolver.plan)
_DPM_SDE = _DPM.having(algorithm_type="sde-dpmsolver++")
_SDE = Sampler("DPMSolverSDEScheduler", SDEConfig, dpmsolver_sde.plan)

SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler", DDIMConfig, ddim.plan),
    "ddpm": Sampler("DDPMScheduler", DDPMConfig, ddpm.plan),
    "deis": Sampler("DEISMultistepScheduler", DEISConfig, deis.plan),
    "dpm2": Sampler("KDPM2DiscreteScheduler", KDPM2Config, kdpm2.plan),
    "dpm2_ancestral": Sampler("KDPM2AncestralDiscreteScheduler", KDPM2Config, kdpm2.plan_ancestral),
    "dpmpp_2m": _DPM,
    "dpmpp_2m_karras": _DPM.having(use_karras_sigmas=True),
    "dpmpp_2m_sde": _DPM_SDE,
    "dpmpp_2m_sde_karras": _DPM_SDE.having(use_karras_sigmas=True),
    "dpmpp_2s": Sampler("DPMSolverSinglestepScheduler", SinglestepConfig, singlestep.plan),
    "dpmpp_sde": _SDE,
    "dpmpp_sde_karras": _SDE.having(use_karras_sigmas=True),
    "edm_dpmpp_2m": Sampler(
        "EDMDPMSolverMultistepScheduler", EDMDPMSolverConfig, edm.plan_dpmsolver
    ),
    "edm_euler": Sampler("EDMEulerScheduler", EDMEulerConfig, edm.plan),
    "euler": Sampler("EulerDiscreteScheduler", EulerConfig, euler.plan),
    "euler_ancestral": Sampler(
        "EulerAncestralDiscreteScheduler", EulerAncestralConfig, euler.plan_ancestral
    ),
    "flow_euler": Sampler("FlowMatchEulerDiscreteScheduler", FlowEulerConfig, flow.plan),
    "heun": Sampler("HeunDiscreteScheduler", HeunConfig, heun.plan),
    "ipndm": Sampler("IPNDMScheduler", IPNDMConfig, ipndm.plan),
    "lcm": Sampler("LCMScheduler", LCMConfig, lcm.plan),
    "lms": Sampler("LMSDiscreteScheduler", LMSConfig, lms.plan),
    "pndm": Sampler("PNDMScheduler", PNDMConfig, pndm.plan),
    "sa_solver": Sampler("SASolverScheduler", SAConfig, sasolver.plan),
    "tcd": Sampler("TCDScheduler", LCMConfig, tcd.plan),
    "unipc": Sampler("UniPCMultistepScheduler", UniPCConfig, unipc.plan),
}
#: Names that `from_config` takes; "euler_beta" and the like are taken too, see `find_name`.
SAMPLER_NAMES = tuple(sorted(SAMPLERS))

#: diffusers class -> our name
CLASSES: dict[str, str] = {s.class_name: name for name, s in SAMPLERS.items() if not s.keys} | {
    # Methods for batches of timesteps besides; their steps are the plain classes'.
    "DDIMParallelScheduler": "ddim",
    "DDPMParallelScheduler": "ddpm",
}

#: Names of other tools, without case, spaces, hyphens and underscores -> ours.
_SYNONYMS = {
    "eulera": "euler_ancestral",
    "dpm++2m": "dpmpp_2m",
    "dpmsolver++": "dpmpp_2m",
    "dpm++2msde": "dpmpp_2m_sde",
    "dpm++sde": "dpmpp_sde",
    "dpm++2s": "dpmpp_2s",
    "dpm2a": "dpm2_ancestral",
    "dpm2ancestral": "dpm2_ancestral",
    "dpmsolversinglestep": "dpmpp_2s",
    "unipcbh2": "unipc",
    "plms": "pndm",
}
_SUFFIXES = {
    "sgmuniform": "trailing",
    "uniform": "trailing",
    "trailing": "trailing",
    "karras": "karras",
    "exponential": "exponential",
    "beta": "beta",
}


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in "-_ ")


def _short(cls: str) -> str:
    """diffusers' class as people call it: KDPM2 for KDPM2DiscreteScheduler."""
    for word in ("Scheduler", "Discrete", "Multistep"):
        cls = cls.replace(word, "")
    return cls


_KNOWN = (
    {_plain(_short(cls)): name for cls, name in CLASSES.items()}
    | _SYNONYMS
    | {_plain(cls.removesuffix("Scheduler")): name for cls, name in CLASSES.items()}
    | {_plain(cls): name for cls, name in CLASSES.items()}
    | {_plain(name): name for name in SAMPLERS}
)


def find_name(name: object) -> str:
    """Our name for the sampler that somebody calls `name`.

    Args:
        name: one of SAMPLER_NAMES, diffusers' class, or a name of A1111 or ComfyUI, in any case:
            "DDIM", "Euler a", "DPM++ 2M Karras", "dpmpp_2m_sde", "PNDMScheduler". Where diffusers'
            class has the option, "karras", "exponential", "beta" or "trailing" (also "SGM uniform")
            may follow: "Euler beta" is "euler_beta".

    Raises:
        RequestError: that names the nearest.
    """
    plain = _plain(name) if isinstance(name, str) and len(name) <= 120 else ""
    if plain in _KNOWN:
        return _KNOWN[plain]
    for ending, suffix in _SUFFIXES.items():
        base = _KNOWN.get(plain.removesuffix(ending)) if plain.endswith(ending) else None
        if base is not None and (composed := _composed(base, suffix)):
            return composed
    raise RequestError(
        f"scheduler: expected one of {', '.join(SAMPLER_NAMES)}, got {show(name)}"
        f"{did_you_mean(name, [*SAMPLER_NAMES, *CLASSES])}"
    )


def _composed(base: str, suffix: str) -> str | None:
    """The name of `base` with a spacing, or None where it has no such option or another one."""
    sampler, (key,) = SAMPLERS[base], SPACINGS[suffix]
    taken = any(k in sampler.keys for spacing in SPACINGS.values() for k in spacing)
    has = hasattr(sampler.config, key) and not taken and not sampler.config.thins
    if suffix == "trailing":
        has = has and issubclass(sampler.config, SpacedConfig)
    return f"{base}_{suffix}" if has else None


def sampler(name: str) -> Sampler:
    """Of a name that `find_name` has given."""
    if name in SAMPLERS:
        return SAMPLERS[name]
    base, _, suffix = name.rpartition("_")
    return SAMPLERS[base].having(**SPACINGS[suffix])
