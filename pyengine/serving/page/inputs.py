"""What each model can be asked, as the page makes inputs of it: from the table of arguments."""

import inspect
from typing import Any

from ...errors import PyengineError
from ...pipelines.argument_kinds import (
    Argument,
    Choice,
    Loaded,
    Picture,
    Real,
    Weighted,
    Whole,
    Words,
)
from ...pipelines.arguments import OPTIONS
from ...weights.text import listing
from ..drawing import call_parameters
from ..models import ServedModels
from ..samplers import own_sampler, samplers_of
from ..schema import Answer
from ..settings import ServerSettings

#: The whole numbers that a browser holds exactly.
MAX_WHOLE = 2**53 - 1
#: Inputs that are always shown, in the table's order; the rest is behind "More settings".
MAIN = frozenset({
    "class_labels", "guidance_scale", "height", "negative_prompt", "num_inference_steps",
    "scheduler", "seed", "temperature", "top_k", "width",
})  # fmt: skip


#: Of use only with a ControlNet, or with a T2I-Adapter, beside the model.
CONTROLNET = frozenset(
    {
        "control_guidance_end",
        "control_guidance_start",
        "control_mode",
        "controlnet_conditioning_scale",
    }
)
T2I_ADAPTER = frozenset({"adapter_conditioning_factor", "adapter_conditioning_scale"})
#: LoRAs that are told by name.
MAX_NAMES = 50
#: Labels that are not the command line's words.
LABELS = {"guidance_scale": "Guidance scale"}
#: Of use only beside a model that no request can name.
AIDS = frozenset(
    {
        "classifier_scale",
        "clip_guidance_scale",
        "clip_image",
        "clip_prompt",
    }
)


class Input(Answer):
    """An argument of the call.

    kind: "whole", "real", "choice", "text" or "picture". low, high: what it may be; usual: a
    slider's ends. default: what the model takes where nothing is said, null: it has no number or
    name. setting: its name in a picture's settings. main: whether it is always shown.
    """

    name: str
    label: str
    help: str
    kind: str
    low: float | None = None
    high: float | None = None
    usual: tuple[float, float] | None = None
    default: float | int | str | None = None
    choices: list[str] | None = None
    setting: str | None = None
    main: bool = False


class PageModel(Answer):
    """prompt: whether it draws from texts. width, height: pixels, where nothing is said; null:
    those of what it is given. hash: of its weights.
    """

    name: str
    hash: str
    prompt: bool
    width: int | None
    height: int | None
    inputs: list[Input]


class Limits(Answer):
    """pictures: of one request. previews: of one job. file: bytes of a picture that comes in."""

    pictures: int
    previews: int
    file: int
    prompt: int


class PageInputs(Answer):
    models: list[PageModel]
    limits: Limits


def inputs_of(models: ServedModels, settings: ServerSettings) -> PageInputs:
    """Of all models that are served."""
    limits = Limits(
        pictures=settings.max_pictures,
        previews=settings.max_previews,
        file=settings.max_file,
        prompt=settings.max_prompt,
    )
    return PageInputs(models=[_model(models, name) for name in models.names], limits=limits)


def _model(models: ServedModels, name: str) -> PageModel:
    pipe, has = models.pipeline(name), call_parameters(models.pipeline(name))
    size, fixed = _size(pipe, has)
    hidden = _useless(pipe, has) | ({"width", "height"} if fixed else set())
    rows = [
        row
        for row in OPTIONS
        if row.name in (*has, "seed")
        and not isinstance(row.kind, Loaded)
        and row.name not in hidden
        and type(row.kind) in _KINDS
    ]
    return PageModel(
        name=name,
        hash=pipe.model_hash,
        prompt="prompt" in has,
        width=size[0],
        height=size[1],
        inputs=[_input(row, pipe, size) for row in rows],
    )


def _useless(pipe: Any, has: tuple[str, ...]) -> set[str]:
    """Arguments that are refused, or do nothing, without what is not loaded beside the model."""
    parts = getattr(pipe, "parts", None)
    controlnets, adapters = (getattr(parts, name, ()) for name in ("controlnets", "t2i_adapters"))
    hidden = set(AIDS)
    hidden |= set() if controlnets else CONTROLNET
    hidden |= set() if adapters else T2I_ADAPTER
    hidden |= set() if controlnets or adapters else {"control_image"}
    hidden |= set() if getattr(pipe, "lora_names", ()) else {"lora"}
    return hidden | ({"class_labels"} if "prompt" in has else set())  # there for a classifier


def _size(pipe: Any, has: tuple[str, ...]) -> tuple[tuple[int | None, int | None], bool]:
    """(width, height) where nothing is said, and whether there is no other."""
    call = {"prompt": "a cat"} if "prompt" in has else {}
    try:
        request = pipe.request(**call)
    except PyengineError:  # it needs more than a text: a picture
        return (None, None), False
    size = request.width, request.height
    try:
        pipe.request(**call, width=2 * size[0], height=2 * size[1])
    except PyengineError:
        return size, True
    return size, False


def _input(row: Argument, pipe: Any, size: tuple[int | None, int | None]) -> Input:
    kind = row.kind
    label = LABELS.get(row.name) or str(row.option).replace("_", " ").capitalize()
    found = Input(
        name=row.name,
        label=label,
        help=row.help,
        kind=_KINDS[type(kind)],
        default=_default(row, pipe, size),
        setting=row.setting,
        main=row.name in MAIN,
    )
    if isinstance(kind, Whole | Real):
        found.low, found.high, found.usual = kind.low, min(kind.high, MAX_WHOLE), row.usual
    elif isinstance(kind, Weighted):
        found.help = f"Such as name:0.8, of {listing(pipe.lora_names, MAX_NAMES)}."
    elif isinstance(kind, Choice):
        found.choices = list(kind.names)
    elif row.name == "scheduler":
        found.kind, found.choices = "choice", list(samplers_of(pipe))
    return found


_KINDS: dict[type, str] = {
    Whole: "whole", Real: "real", Choice: "choice", Words: "text", Weighted: "text",
    Picture: "picture",
}  # fmt: skip


def _default(row: Argument, pipe: Any, size: tuple[int | None, int | None]) -> Any:
    """A number or a name, or None."""
    if row.name in ("width", "height"):
        return size[row.name == "height"]
    if row.name == "scheduler":
        return own_sampler(pipe)
    declared = inspect.signature(type(pipe).__call__).parameters.get(row.name)
    own = getattr(getattr(pipe, "defaults", None), row.name, None)
    default = own if own is not None else getattr(declared, "default", None)
    usable = isinstance(default, int | float | str) and not isinstance(default, bool)
    return default if usable else None
