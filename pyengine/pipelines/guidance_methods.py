"""`guidance_method=` in a call: what fits together, before anything runs."""

from typing import Any

from ..guidance import Method
from ..jobs import checks
from .arguments import check

#: Of "cfg++" where a call names no guidance_scale: the paper's counterpart of 7.5.
PLUS_PLUS_SCALE = 0.6


def method_of(
    name: Any, negative_scale: Any, *, has_negative: bool, rescale: float = 0.0,
    distilled: bool = False,
) -> Method:  # fmt: skip
    """The method that a call's arguments name.

    has_negative: whether there is a negative prompt. rescale: the call's guidance_rescale.
    distilled: whether the model is told the guidance scale. Raises RequestError.
    """
    name = check("guidance_method", name)
    method = Method(name)
    having = f"with guidance_method {name!r}"
    if name != "cfg" and distilled:
        raise checks.refuse(
            "guidance_method", "'cfg' for a model that is told its guidance scale", name
        )
    if name == "cfg++" and rescale:
        raise checks.refuse("guidance_rescale", f"0 {having}", rescale)
    if not method.three:
        if negative_scale is not None:
            raise checks.refuse("negative_scale", f"None {having}", negative_scale)
        return method
    if not has_negative:
        raise checks.refuse("negative_prompt", f"one {having}", None)
    if negative_scale is None:
        return method
    return Method(name, check("negative_scale", negative_scale))


def scale_or_default(method: Any, value: Any, default: float) -> Any:
    """guidance_scale, or the method's own default or the model's where it is None."""
    if value is not None:
        return value
    return PLUS_PLUS_SCALE if method == "cfg++" else default
