"""`effort="fast"`: fewer steps of a better sampler, and deep layers at some of them alone.

What it comes to is a model's: `Defaults.fast_*`, which a checkpoint's pyengine.json may say.
"""

from collections.abc import Mapping
from typing import Any

from ..arguments import check
from .defaults import Defaults

#: Samplers in whose place fast_scheduler serves the same models. Others are for models of their
#: kind, which take few steps anyway.
REPLACED = frozenset(
    """
    ddim ddpm deis dpm2 dpm2_ancestral dpmpp_2m dpmpp_2m_sde dpmpp_2s dpmpp_sde euler
    euler_ancestral heun lms pndm sa_solver unipc
    """.split()  # noqa: SIM905
)
#: Steps from which deep layers are kept: fewer lie too far apart.
CACHED = 10


def fill(
    arguments: dict[str, Any], defaults: Defaults, sampler: str, controlled: bool
) -> list[str]:
    """Writes into a call's arguments what it leaves to the model, where it asks to be fast; gives
    what is to be warned of.

    sampler: the model's own. controlled: beside a ControlNet or T2I-Adapter, where all layers are
    evaluated at every step.
    """
    if check("effort", arguments["effort"]) == "full":
        return []
    asked = arguments.get("num_inference_steps")
    listed = next((arguments[n] for n in ("timesteps", "sigmas") if arguments.get(n)), None)
    few = defaults.num_inference_steps <= defaults.fast_num_inference_steps
    if sampler not in REPLACED or (few and asked is None and listed is None):
        return [
            f"effort: this model takes {defaults.num_inference_steps} steps of {sampler} by itself,"
            " and still does"
        ]
    if listed is None:
        if asked is None:
            arguments["num_inference_steps"] = asked = defaults.fast_num_inference_steps
        bound = arguments.get("guidance_method") == "cfg++" or arguments.get("timestep_spacing")
        if arguments.get("scheduler") is None and not bound:
            arguments["scheduler"] = defaults.fast_scheduler
    count = asked if listed is None else len(listed)
    if isinstance(count, int) and count >= CACHED and not controlled:
        for name in ("cache_interval", "cache_branch_id"):
            if arguments.get(name) is None:
                arguments[name] = getattr(defaults, f"fast_{name}")
    return []


def described(defaults: Defaults) -> Mapping[str, Any]:
    """What it comes to, by the call's arguments."""
    found: dict[str, Any] = {
        "num_inference_steps": defaults.fast_num_inference_steps,
        "scheduler": defaults.fast_scheduler,
    }
    if defaults.fast_num_inference_steps >= CACHED and defaults.fast_cache_interval > 1:
        found["cache_interval"] = defaults.fast_cache_interval
        found["cache_branch_id"] = defaults.fast_cache_branch_id
    return found
