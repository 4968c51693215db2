"""Keywords of a call that a pipeline does not have: other pipelines', diffusers', misspelt ones."""

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import RequestError, UnknownArgumentError
from ..weights.text import did_you_mean, show
from .arguments import ARGUMENTS

#: Arguments of some pipelines' calls, and the value besides None that asks the others for nothing.
OTHERS: dict[str, Any] = {row.name: row.nothing for row in ARGUMENTS if not row.everywhere}

_CALLBACK = (
    "diffusers deprecated it; give callback_on_step_end, called as (pipe, step, timestep, tensors)"
)
#: Arguments that only diffusers' pipelines have, and where to go.
ELSEWHERE = {
    "callback": _CALLBACK,
    "callback_steps": _CALLBACK,
    "clean_caption": "prompts are lowered and stripped, and not cleaned of HTML and addresses;"
    " clean them before, or give clean_caption=False",
    "cross_attention_kwargs": "this model takes no LoRAs or attention processors that would read"
    " it",
    "image_guidance_scale": "InstructPix2Pix is not here; diffusers has it",
    "lora_scale": "a call's LoRAs have their weights in lora={name: weight}",
    "max_sequence_length": "no model here has a text encoder with a length to choose",
}


def refuse_others(others: dict[str, Any], call: Callable[..., Any]) -> None:
    """Raises RequestError for an argument that only other pipelines have, unless it asks for
    nothing, and UnknownArgumentError with the nearest name, a TypeError too, for one that none has.

    others: what came as **others. call: whose arguments the others were not.
    """
    for name, value in others.items():
        if name in ELSEWHERE:
            if value is not None and value is not False and value != {}:
                raise RequestError(f"{name}: {ELSEWHERE[name]}")
        elif name in OTHERS:
            if not _asks_nothing(value, OTHERS[name]):
                raise RequestError(f"{name}: this model has no such argument, given {show(value)}")
        else:
            own = [
                p.name
                for p in inspect.signature(call).parameters.values()
                if p.kind != p.VAR_KEYWORD
            ]
            raise UnknownArgumentError(
                f"{show(name)[1:-1]}: __call__() got an unexpected keyword argument {show(name)}"
                f"{did_you_mean(name, own) or did_you_mean(name, OTHERS)}"
            )


def _asks_nothing(value: Any, nothing: Any) -> bool:
    plain = isinstance(value, int | float | str)
    plain = plain and isinstance(value, bool) == isinstance(nothing, bool)
    return value is None or (plain and nothing is not None and value == nothing)
