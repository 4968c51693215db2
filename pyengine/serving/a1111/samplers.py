"""Samplers and their spacings of steps, by that web UI's names."""

from typing import Any

from ...errors import RequestError
from ...metadata import A1111_SAMPLERS, A1111_SPACINGS
from ...schedules import find_name
from ...weights.text import did_you_mean, show
from ..samplers import own_sampler

#: Spacings by name: the label, and what follows our sampler's name. That web UI's "uniform" and
#: "automatic" are the sampler's own spacing.
SCHEDULERS: dict[str, tuple[str, str]] = {
    "automatic": ("Automatic", ""),
    "uniform": ("Uniform", ""),
    **{shown.lower().replace(" ", "_"): (shown, name) for name, shown in A1111_SPACINGS.items()},
}


def sampler_of(sampler: str | None, scheduler: str | None, pipe: Any) -> str | None:
    """Our name for a sampler and a spacing; None where the request names neither.

    sampler: whatever pyengine.schedules.find_name knows. scheduler: of SCHEDULERS or a label; with
    the model's own sampler where that is not named. Raises RequestError.
    """
    suffix = "" if scheduler is None else _suffix(scheduler)
    name = None if sampler is None else _found(sampler)
    if not suffix or (name or "").endswith(f"_{suffix}"):
        return name
    base = own_sampler(pipe) if name is None else name
    if base is None:
        return None
    try:
        return find_name(f"{base}_{suffix}")
    except RequestError:
        raise RequestError(f"scheduler: {label(base)} has no spacing {show(scheduler)}") from None


def _found(sampler: str) -> str:
    try:
        return find_name(sampler)
    except RequestError as e:
        raise RequestError(str(e).replace("scheduler:", "sampler_name:", 1)) from None


def _suffix(scheduler: str) -> str:
    plain = scheduler.casefold().replace(" ", "_")
    if plain not in SCHEDULERS:
        near = did_you_mean(scheduler, SCHEDULERS)
        raise RequestError(
            f"scheduler: expected one of {', '.join(SCHEDULERS)}, given {show(scheduler)}{near}"
        )
    return SCHEDULERS[plain][1]


def label(name: str) -> str:
    """That web UI's name for one of our samplers."""
    return A1111_SAMPLERS.get(name, name)
