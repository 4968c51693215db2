"""Reading a saved scheduler's keys, which another sampler may take instead of its own."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import ConfigError
from ..weights.config import read_config
from ..weights.text import nearest, show
from .config import SamplerConfig
from .samplers import CLASSES, SAMPLERS, find_name, sampler

# What a solver makes of another family's solver_type and algorithm_type. As diffusers does; what it
# has no answer for (a stochastic algorithm under DEIS, say) becomes the class's nearest.
_SOLVER_TYPES = dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint")
_DATA = dict.fromkeys(("deis", "data_prediction"), "dpmsolver++")
_SYNONYMS: dict[str, dict[str, dict[str, str]]] = {
    "DPMSolverMultistepScheduler": {
        "solver_type": _SOLVER_TYPES,
        "algorithm_type": _DATA | {"noise_prediction": "dpmsolver"},
    },
    "DPMSolverSinglestepScheduler": {
        "solver_type": _SOLVER_TYPES,
        "algorithm_type": _DATA | {"noise_prediction": "dpmsolver", "sde-dpmsolver": "dpmsolver"},
    },
    "EDMDPMSolverMultistepScheduler": {
        "solver_type": _SOLVER_TYPES,
        "algorithm_type": _DATA | dict.fromkeys(("dpmsolver", "noise_prediction"), "dpmsolver++"),
    },
    # Its old word, which the x2 latent upscaler's folder has.
    "EulerDiscreteScheduler": {"prediction_type": {"original_sample": "sample"}},
    "UniPCMultistepScheduler": {
        "solver_type": {"midpoint": "bh2", "heun": "bh2", "logrho": "bh2"},
    },
    "DEISMultistepScheduler": {
        "solver_type": dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
        "algorithm_type": dict.fromkeys(
            (
                *("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
                *("data_prediction", "noise_prediction"),
            ),
            "deis",
        ),
    },
    "SASolverScheduler": {
        "algorithm_type": dict.fromkeys(
            ("dpmsolver++", "sde-dpmsolver++", "deis"), "data_prediction"
        )
        | dict.fromkeys(("dpmsolver", "sde-dpmsolver"), "noise_prediction"),
    },
}

# The values that the __init__ of diffusers' pipelines gives to the scheduler that it is given.
_LATENT = {"steps_offset": 1, "clip_sample": False}
_MENDS: dict[str, dict[str, bool | int]] = {
    "StableDiffusionPipeline": _LATENT,
    "StableDiffusionImg2ImgPipeline": _LATENT,
    "StableDiffusionInpaintPipeline": {"steps_offset": 1, "skip_prk_steps": True},
}

_CONVENTIONS = {
    "EDM": "EDM's preconditioning",
    "IPNDM": "times of 0 to 1",
    "FlowMatch": "flow matching",
}

#: Samplers near to classes that are not here, by the class's beginning.
_NEAR = {
    "CMStochasticIterative": "lcm",
    "CosineDPMSolver": "dpmpp_2m",
    "DDIMInverse": "ddim",
    "DPMSolverMultistepInverse": "dpmpp_2m",
    "FlowMatch": "flow_euler",
}


def convention(class_name: object) -> str:
    """What schedulers of a class tell the model about noise, in words."""
    name = class_name if isinstance(class_name, str) else ""
    for begin, what in _CONVENTIONS.items():
        if name.startswith(begin):
            return what
    return "noise levels as training timesteps"


def read_scheduler_config(
    data: object, name: str | None, pipeline: str, where: str
) -> tuple[str, SamplerConfig]:
    """Our name for the sampler and its checked config; see `from_config` for the arguments."""
    named = None if name is None else find_name(name)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a JSON object, found {type(data).__name__}")
    saved_class = data.get("_class_name")
    if named is None:
        if not isinstance(saved_class, str) or saved_class not in CLASSES:
            raise ConfigError(_unknown_class(saved_class, where))
        named = CLASSES[saved_class]
    chosen = sampler(named)
    known = isinstance(saved_class, str) and saved_class in CLASSES
    keys = _translate(data, str(saved_class))
    if name is not None:
        for default in _defaults_of(keys):
            keys.pop(default, None)
    _mend(keys, chosen.config if name is None else None, pipeline)
    if not known:  # a stranger's own keys mean nothing here
        ours = {f.name for f in fields(chosen.config)}
        keys = {key: value for key, value in keys.items() if key in ours}
    if saved_class != chosen.class_name:
        keys = _without_null(keys, chosen.config)
    keys = (
        _translate(keys, chosen.class_name) | dict(chosen.keys) | {"_class_name": chosen.class_name}
    )
    return named, read_config(chosen.config, keys, where)


def _unknown_class(saved: object, where: str) -> str:
    near = nearest(saved, CLASSES)
    if near is not None:
        near = CLASSES[near]
    elif isinstance(saved, str):
        near = next((n for begin, n in _NEAR.items() if saved.startswith(begin)), None)
    advice = f"the nearest is {near!r}: " if near else ""
    return (
        f"{where}: _class_name is {show(saved)}, which is no Scheduler that pyengine has; "
        f'{advice}name one with scheduler="{near or "ddim"}" to run it with the keys saved here '
        f"(there are {', '.join(sorted(SAMPLERS))})"
    )


def _defaults_of(keys: Mapping[str, Any]) -> list[str]:
    """Keys that diffusers notes as its class's defaults, not the checkpoint's choice."""
    noted = keys.get("_use_default_values", ())
    return [k for k in noted if isinstance(k, str)] if isinstance(noted, list | tuple) else []


def _without_null(keys: dict[str, Any], config: type[SamplerConfig]) -> dict[str, Any]:
    """`keys` without another class's null where this one's field has no such value."""
    plain = {f.name for f in fields(config) if f.type in (int, float, bool, str)}
    return {key: value for key, value in keys.items() if value is not None or key not in plain}


def _translate(keys: Mapping[str, Any], cls_name: str) -> dict[str, Any]:
    """`keys` in the words of a diffusers class."""
    result = dict(keys)
    for key, words in _SYNONYMS.get(cls_name, {}).items():
        if isinstance(result.get(key), str):
            result[key] = words.get(result[key], result[key])
    if result.get("lambda_min_clipped") == -math.inf:
        del result["lambda_min_clipped"]
    return result


def _mend(keys: dict[str, Any], own_class: type[SamplerConfig] | None, pipeline: str) -> None:
    """What a pipeline of diffusers does to the scheduler that it is given.

    A sampler that is named instead takes a mended value only where the checkpoint saved the key at
    all.  own_class: the config class if the checkpoint's own sampler runs, else None.
    """
    for key, right in _MENDS.get(pipeline, {}).items():
        if hasattr(own_class, key):
            keys.setdefault(key, getattr(own_class, key))
        if type(keys.get(key)) is type(right):  # other types are read_config's to refuse
            keys[key] = right
