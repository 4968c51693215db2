"""From what a client asks to a job of the engine: the one door for all surfaces.

A surface gives names of pyengine's calls (pyengine.pipelines.arguments), with values as JSON has
them and pictures as bytes or base64; what it gets is a Drawing, whose pictures it encodes.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..engine import Engine, EngineJob
from ..errors import DeadlineError, QueueFullError, RequestError, TooLongError
from ..jobs import checks
from ..metadata import Settings
from ..pipelines import remembered
from ..pipelines.argument_kinds import (
    Argument,
    Choice,
    Data,
    Loaded,
    Picture,
    Real,
    Weighted,
    Whole,
    Words,
)
from ..pipelines.arguments import BY_NAME
from ..schedules import find_name
from ..weights.text import did_you_mean, show
from . import pictures
from .auth import Caller, key_name
from .budget import Budget
from .errors import Refusal, renamed
from .models import ServedModels
from .settings import ServerSettings

#: Items of a list that is given for an argument, and characters of a text.
MAX_ITEMS = 1024
MAX_TEXT = 200
#: Of LoRAs with their weights, which JSON may say block by block.
MAX_WEIGHTS = 8_000
#: Arguments that a client's request may hold.
PLAIN = Whole | Real | Choice | Words | Picture | Weighted | Data
#: Arguments by what the command line and a picture's settings call them: "steps", "guidance".
ALIASES = {
    alias: row.name
    for row in BY_NAME.values()
    if isinstance(row.kind, Whole | Real | Choice | Words)
    for alias in (row.option, row.setting)
    if alias is not None and alias not in BY_NAME
}
#: Seeds that are drawn where none is asked for: whole numbers that every client's JSON can hold.
RANDOM_SEEDS = 2**32


@dataclass
class Drawing:
    """A job and what its pictures are said to be.

    model: its public name. call: the arguments, checked; `seed` is always there. digests: of the
    pictures that went in, as Settings has them.
    """

    job: EngineJob
    model: str
    pipe: Any
    call: dict[str, Any]
    digests: dict[str, str | None] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Of its pictures: that of the call, and one more for each."""
        count: int = self.call.get("num_images_per_prompt", 1)
        return [self.call["seed"] + i for i in range(count)]

    def settings(self, output: Any) -> list[Settings]:
        """Of each of the output's pictures."""
        hashes = self.digests | remembered.hashes_beside(self.pipe, self.digests)
        whole = remembered.settings_of(
            self.pipe, self.call, output, model=self.model, hashes=hashes
        )
        return [remembered.of_picture(whole, output, i) for i in range(len(output.seeds))]

    def files(self, output: Any, kind: str = "png", compression: int | None = None) -> list[bytes]:
        """The pictures' files; see pictures.encoded. It takes time: not for an event loop."""
        return [
            pictures.encoded(image, own, kind, compression)
            for image, own in zip(output.images, self.settings(output), strict=True)
        ]


class Drawings:
    """Makes jobs of requests. Safe from any thread; `submit` takes time: not for an event loop.

    ended: called with every drawing once its job has ended, in the engine's thread, and with what
    `submit` was given as context.
    """

    def __init__(
        self,
        engine: Engine,
        models: ServedModels,
        settings: ServerSettings,
        held: Budget,
        ended: Callable[[Drawing, Any], None],
    ):
        self.engine, self.models, self.settings, self.held = engine, models, settings, held
        self._ended = ended

    def check_room(self, caller: Caller) -> None:
        """Raises QueueFullError where the caller has no place in the queue: before a request is
        read. Half of the queue is for who comes first; the other half is shared equally by the
        keys, so that none finds it full of another's jobs.
        """
        self.engine.check_room()
        keys = len(self.settings.api_keys)
        own = self.engine.max_waiting // (2 * keys) if keys > 1 else 0
        if not own or self.engine.waiting_of(caller.name) < own:
            return
        others = [key_name(i) for i in range(keys) if key_name(i) != caller.name]
        kept = sum(max(0, own - self.engine.waiting_of(name)) for name in others)
        if self.engine.waiting + kept >= self.engine.max_waiting:
            raise QueueFullError("the queue has no place for another job of this key", 1.0)

    def submit(
        self,
        caller: Caller,
        model: Any,
        given: Mapping[str, Any],
        *,
        previews: int = 0,
        deadline: float | None = None,
        priority: int = 0,
        names: Mapping[str, str] | None = None,
        context: Any = None,
        quick_previews: Any = None,
    ) -> Drawing:
        """A job for a request. given: arguments of the pipeline's call by name; None is not given.
        deadline: seconds, as the client said it. names: what the client calls arguments, where that
        is something else. context: see Drawings.

        Raises Refusal or PyengineError.
        """
        said = {ALIASES[name]: name for name in given if name in ALIASES} | dict(names or {})
        try:
            name = self.models.find(model)
            longest = self.settings.deadline
            seconds = longest
            if deadline is not None:
                seconds = checks.real("deadline", deadline, 1e-9, longest)
            call = self.arguments(given)
            self._fit_prompt(call, self.models.pipeline(name))
            how = {
                "previews": previews,
                "deadline": seconds,
                "priority": priority,
                "quick_previews": quick_previews or False,
            }
            return self._submit(caller, name, call, how, context)
        except DeadlineError as e:
            raise _too_late(e, asked=deadline is not None) from None
        except Exception as e:
            raise renamed(e, said) from None

    def _submit(
        self, caller: Caller, name: str, call: dict[str, Any], how: dict[str, Any], context: Any
    ) -> Drawing:
        digests: dict[str, str | None] = {
            remembered.DIGESTS[argument]: remembered.digest(value)
            for argument, value in call.items()
            if argument in remembered.DIGESTS
        }
        size = sum(_bytes_of(value) for value in call.values())
        self.held.take(size)
        try:
            job = self.engine.submit(
                self.models.engine_name(name),
                share=caller.name,
                check=self._check_size,
                **how,
                **call,
            )
        except BaseException:
            self.held.give_back(size)
            raise
        drawing = Drawing(job, name, self.models.pipeline(name), call, digests)

        def ended() -> None:
            self.held.give_back(size)
            self._ended(drawing, context)

        job.when_done(ended)
        return drawing

    def _check_size(self, request: Any) -> None:
        count = len(request.seeds) if request.seeds else request.count
        if count > self.settings.max_pictures:
            raise Refusal(
                400,
                f"n: expected at most {self.settings.max_pictures} pictures, given {count}",
                "n",
                "too_large",
            )
        if request.height * request.width * count > self.settings.max_pixels:
            raise Refusal(
                400,
                f"size: expected at most {self.settings.max_pixels} pixels of all pictures"
                f" together, given {count} of {request.width}x{request.height}",
                "size",
                "too_large",
            )

    @staticmethod
    def _fit_prompt(call: dict[str, Any], pipe: Any) -> None:
        """A model without texts may be asked with an empty prompt; one with texts needs one."""
        takes = "prompt" in call_parameters(pipe)
        if not takes and not call.get("prompt"):
            call.pop("prompt", None)
        if takes and call.get("prompt") is None:
            raise Refusal(400, "prompt: expected a text, given none", "prompt", "missing")

    # --- arguments --------------------------------------------------------------------------------

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The call's arguments, each of the kind that the table of arguments says, pictures
        decoded; what only a pipeline knows is its to check. Raises Refusal or RequestError.
        """
        call: dict[str, Any] = {}
        for said, value in given.items():
            name = ALIASES.get(said, said)
            if value is None:
                continue
            if name in call:
                raise RequestError(f"{said}: expected {name} once, given by two names")
            call[name] = self.argument(name, value)
        call.setdefault("seed", secrets.randbelow(RANDOM_SEEDS))
        if "scheduler" in call:
            call["scheduler"] = find_name(call["scheduler"])
        return call

    def argument(self, name: str, value: Any) -> Any:
        """One argument's value. Raises Refusal or RequestError, which name it."""
        row = BY_NAME.get(name)
        if row is None or not isinstance(row.kind, PLAIN) or name == "output_type":
            raise _unknown(name, row)
        kind = row.kind
        if isinstance(kind, Whole):
            if isinstance(value, float) and value.is_integer():  # JSON's 5.0 is a whole number
                value = int(value)
            return checks.integer(name, value, kind.low, kind.high)
        if isinstance(kind, Real | Choice):
            return kind.check(name, value)
        if isinstance(kind, Words):
            return self._words(name, value)
        if isinstance(kind, Picture):
            return self._picture(name, value)
        if isinstance(kind, Weighted) and isinstance(value, dict):
            return {
                key: weight
                if isinstance(weight, dict)  # the pipeline's to check
                else checks.real(f"{name}: {show(key)}", weight, kind.low, kind.high)
                for key, weight in value.items()
            }
        if isinstance(kind, Weighted):
            return self._words(name, value, MAX_WEIGHTS)
        return _data(name, value)

    def _words(self, name: str, value: Any, limit: int = MAX_TEXT) -> str:
        if not isinstance(value, str):
            raise checks.refuse(name, "a text", value)
        limit = self.settings.max_prompt if "prompt" in name else limit
        if len(value) > limit:
            raise RequestError(f"{name}: expected at most {limit} characters, given {len(value)}")
        return value

    def _picture(self, name: str, value: Any) -> Image.Image:
        if isinstance(value, Image.Image):
            return value
        if not isinstance(value, bytes):
            value = pictures.from_text(value, name, self.settings)
        read = pictures.to_mask if name == "mask_image" else pictures.to_picture
        return read(value, name, self.settings)


def call_parameters(pipe: Any) -> tuple[str, ...]:
    """Names of the arguments that a pipeline's call has itself."""
    import inspect

    parameters = inspect.signature(type(pipe).__call__).parameters.values()
    return tuple(p.name for p in parameters if p.kind != p.VAR_KEYWORD and p.name != "self")


def _data(name: str, value: Any) -> Any:
    """A number, a text or a list of numbers."""
    if isinstance(value, list):
        if len(value) > MAX_ITEMS or not all(_is_number(item) for item in value):
            raise checks.refuse(name, f"at most {MAX_ITEMS} numbers", value)
        return tuple(value) if len(value) <= 2 else value
    if isinstance(value, str):
        limit = 32_000 if "prompt" in name else MAX_TEXT
        if len(value) > limit:
            raise RequestError(f"{name}: expected at most {limit} characters, given {len(value)}")
        return value
    if isinstance(value, bool) or _is_number(value):
        return value
    raise checks.refuse(name, "a number, a text or a list of numbers", value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unknown(name: str, row: Argument | None) -> Refusal:
    """What says that an argument is none of a client's."""
    if row is not None and isinstance(row.kind, Loaded):
        text = "this server draws with what it was started with, and loads nothing for a request"
    elif row is not None:
        text = "it is for calls from Python"
    else:
        known = [r.name for r in BY_NAME.values() if isinstance(r.kind, PLAIN)]
        text = f"there is no such argument{did_you_mean(name, known)}"
    return Refusal(400, f"{show(name)[1:-1]}: {text}", name[:64], "unknown_parameter")


def _too_late(error: DeadlineError, asked: bool) -> Refusal:
    """asked: whether the deadline was the client's own."""
    if isinstance(error, TooLongError) and not asked:
        text = f"too large for this server: {str(error).removeprefix('deadline: ')}"
        return Refusal(400, text, code="too_large", again=False)
    again = not isinstance(error, TooLongError)
    return Refusal(429, str(error), "deadline", "deadline", error.retry_after, again=again)


def _bytes_of(value: Any) -> int:
    if not isinstance(value, Image.Image):
        return 0
    return value.width * value.height * len(value.getbands())
