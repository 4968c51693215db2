"""How a call's prompts guide, and at which steps: what fits together, before anything runs."""

from collections.abc import Mapping
from typing import Any

from ..guidance import Method
from ..jobs import checks
from .arguments import check

#: The arguments of calls that say it.
NAMES = ("guidance_method", "negative_scale", "guidance_start", "guidance_end")
#: Of "cfg++" where a call names no guidance_scale: the paper's counterpart of 7.5.
PLUS_PLUS_SCALE = 0.6


def taken(arguments: dict[str, Any]) -> dict[str, Any]:
    """Takes those of NAMES that a pipeline has out of its call's arguments."""
    return {name: arguments.pop(name) for name in NAMES if name in arguments}


def method_of(
    given: Mapping[str, Any],
    *,
    has_negative: bool | None,
    rescale: float = 0.0,
    distilled: bool = False,
) -> Method:
    """The method that a call's arguments of NAMES name.

    has_negative: whether there is a negative prompt; None: what it is guided away from is no
    prompt. rescale: the call's guidance_rescale. distilled: whether the model is told the guidance
    scale. Raises RequestError.
    """
    name = check("guidance_method", given.get("guidance_method", "cfg"))
    negative_scale = given.get("negative_scale")
    own = Method(name, 1.0, *_interval(given))
    having = f"with guidance_method {name!r}"
    if name != "cfg" and distilled:
        raise checks.refuse(
            "guidance_method", "'cfg' for a model that is told its guidance scale", name
        )
    if name == "cfg++" and rescale:
        raise checks.refuse("guidance_rescale", f"0 {having}", rescale)
    if not own.three:
        if negative_scale is not None:
            raise checks.refuse("negative_scale", f"None {having}", negative_scale)
        return own
    if has_negative is None:
        raise checks.refuse(
            "guidance_method",
            "'cfg' or 'cfg++' for a model that is guided away from no prompt",
            name,
        )
    if not has_negative:
        raise checks.refuse("negative_prompt", f"one {having}", None)
    if negative_scale is None:
        return own
    return Method(name, check("negative_scale", negative_scale), own.start, own.end)


def _interval(given: Mapping[str, Any]) -> tuple[float, float]:
    """guidance_start and guidance_end: shares of the steps between which it guides."""
    begin: float = check("guidance_start", given.get("guidance_start", 0.0))
    end: float = check("guidance_end", given.get("guidance_end", 1.0))
    if begin > end:
        raise checks.refuse("guidance_start", f"at most guidance_end {end:g}", begin)
    return begin, end


def scale_or_default(given: Mapping[str, Any], value: Any, default: float) -> Any:
    """guidance_scale, or the default of the method that `given` names, or the model's, where it is
    None.
    """
    if value is not None:
        return value
    return PLUS_PLUS_SCALE if given.get("guidance_method") == "cfg++" else default
