"""Which samplers a served model can draw with."""

from typing import Any

from ..errors import ConfigError, RequestError
from ..schedules import SAMPLER_NAMES, find_name
from .drawing import call_parameters


def own_sampler(pipe: Any) -> str | None:
    """The name of the sampler that a model draws with where none is named; None: it has none."""
    scheduler = getattr(pipe, "scheduler", None) if takes_sampler(pipe) else None
    return None if scheduler is None else find_name(scheduler.sampler.name)


def takes_sampler(pipe: Any) -> bool:
    return "scheduler" in call_parameters(pipe)


def samplers_of(pipe: Any) -> tuple[str, ...]:
    """Names of those that draw with a model, without those for models of other kinds."""
    return tuple(name for name in SAMPLER_NAMES if takes_sampler(pipe) and _fits(pipe, name))


def _fits(pipe: Any, name: str) -> bool:
    try:
        return not pipe.scheduler.other(name).sampler.warnings
    except (ConfigError, RequestError):
        return False
