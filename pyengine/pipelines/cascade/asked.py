"""What a cascade's call asks of each stage."""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import RequestError
from ...jobs import checks
from ...weights.jsonio import parse_object
from ...weights.text import show
from ..argument_kinds import Loaded
from ..arguments import BY_NAME
from ..keywords import refuse_others

#: What is one for all stages, and so no stage's own.
OF_ALL = (
    "prompt", "negative_prompt", "num_images_per_prompt", "num_images", "batch_size", "seed",
    "generator", "latents", "image", "original_image", "mask_image", "output_type",
    "callback_on_step_end", "callback_on_step_end_tensor_inputs", "progress", "return_dict", "run",
    "timeout", "upscaler", "class_labels", "prompt_embeds", "negative_prompt_embeds",
)  # fmt: skip
#: Arguments of the call that are the first stage's where no stage is told: another stage's picture
#: has a size of its own, and begins elsewhere.
OF_FIRST = ("height", "width")


def parameters(pipe: Any) -> frozenset[str]:
    """Names of the arguments of a pipeline's call."""
    found = inspect.signature(pipe.__call__).parameters.values()
    return frozenset(p.name for p in found if p.kind != p.VAR_KEYWORD)


def read_stages(value: Any, pipes: Sequence[Any]) -> list[dict[str, Any]]:
    """The settings of each stage, of `stages`: a list of dicts, or JSON of one; a shorter list says
    nothing of the last stages. Raises RequestError that names the argument.
    """
    expected = f"a list of at most {len(pipes)} dicts of arguments, one for each stage"
    if isinstance(value, str):
        text = f'{{"stages": {value}}}'.encode("utf-8", "surrogatepass")
        found = parse_object(text, "stages", error=RequestError)
        if len(found) > 1:
            raise checks.refuse("stages", expected, value)
        value = found["stages"]
    value = [] if value is None else value
    whole = isinstance(value, list | tuple) and len(value) <= len(pipes)
    if not whole or not all(item is None or isinstance(item, Mapping) for item in value):
        raise checks.refuse("stages", expected, value)
    settings = [dict(item or {}) for item in value]
    settings += [{} for _ in range(len(pipes) - len(settings))]
    for k, (own, pipe) in enumerate(zip(settings, pipes, strict=True)):
        _check_settings(k, own, pipe)
    return settings


def _check_settings(k: int, settings: dict[str, Any], pipe: Any) -> None:
    for name in settings:
        where = f"stages: {k + 1}"
        if not isinstance(name, str):
            raise checks.refuse(where, "names of arguments", name)
        if name in OF_ALL:
            raise RequestError(f"{where}: {name}: expected in the call, since it is of all stages")
        if name in BY_NAME and isinstance(BY_NAME[name].kind, Loaded):
            raise RequestError(
                f"{where}: {name}: expected none: a cascade's stages take no model"
                " besides their own"
            )
        if name not in parameters(pipe):
            try:
                refuse_others({name: settings[name]}, pipe.__call__)
            except RequestError as e:
                raise type(e)(f"{where}: {e}") from None


def shared(given: Mapping[str, Any], settings: list[dict[str, Any]], pipes: Sequence[Any]) -> None:
    """Adds arguments of the call to the settings of each stage that has them, and does not say
    otherwise. Raises RequestError for one that no stage has.
    """
    for name, value in given.items():
        if value is None:
            continue
        takers = [k for k, pipe in enumerate(pipes) if name in parameters(pipe)]
        if name in OF_FIRST:
            takers = [k for k in takers if k == 0]
        if not takers:
            refuse_others({name: value}, pipes[0].__call__)
            raise RequestError(f"{name}: no stage has such an argument, given {show(value)}")
        for k in takers:
            settings[k].setdefault(name, value)


def share_strength(
    strength: Any, begun: bool, settings: list[dict[str, Any]], pipes: Sequence[Any]
) -> None:
    """Adds it to the settings of the stages that begin from a picture: begun, whether the first
    does, and with it those that take the original. Raises RequestError where none does.
    """
    if strength is None:
        return
    takers = [
        k
        for k, pipe in enumerate(pipes)
        if "strength" in parameters(pipe)
        and (begun or (k > 0 and "original_image" not in parameters(pipe)))
    ]
    if not takers:
        raise RequestError("strength: expected only together with image")
    for k in takers:
        settings[k].setdefault("strength", strength)


def folded(call: Mapping[str, Any], pipes: Sequence[Any]) -> dict[str, Any]:
    """The arguments of a call with all that is the stages' own in `stages`, as JSON: what a picture
    remembers. call: arguments by name, of what JSON can hold, pictures and upscalers aside.
    """
    settings = read_stages(call.get("stages"), pipes)
    own = {n: v for n, v in call.items() if n not in (*OF_ALL, "stages") and v is not None}
    share_strength(own.pop("strength", None), call.get("image") is not None, settings, pipes)
    shared(own, settings, pipes)
    rest = {name: call[name] if name in OF_ALL else None for name in call}
    return {**rest, "stages": json.dumps(settings)}
