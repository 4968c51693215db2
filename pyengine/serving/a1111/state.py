"""What is kept for each caller of that web UI's API: chosen options, and jobs that are
not done. There, a server has one user; here nobody chooses for, interrupts or watches another.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from ...pipelines.argument_kinds import Choice, Whole
from ..auth import Caller
from ..drawing import Drawing
from ..models import ServedModels

#: Callers that are remembered; the one that has not come for longest is forgotten first.
MOST_CALLERS = 1000
#: Our formats by that web UI's names.
FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
#: Options that a caller may change besides the model.
CHANGED: Mapping[str, Whole | Choice] = {
    "CLIP_stop_at_last_layers": Whole(1, 129),
    "samples_format": Choice(tuple(FORMATS)),
}
#: Options that are told, and are what they are.
UNCHANGED: Mapping[str, Any] = {
    "sd_checkpoint_hash": "",
    "sd_vae": "Automatic",
    "eta_noise_seed_delta": 0,
    "live_previews_enable": True,
}


@dataclass(frozen=True)
class Options:
    """What a caller has chosen: model (None: the first that is served), the layer of CLIP that is
    taken from the end (1: the last), the kind of file.
    """

    model: str | None = None
    CLIP_stop_at_last_layers: int = 1
    samples_format: str = "png"

    def changed(
        self, given: Mapping[str, Any], models: ServedModels
    ) -> tuple["Options", list[str]]:
        """With the options of a request in place of these, and the names that mean nothing here.
        Raises RequestError or Refusal.
        """
        found, ignored = dict(vars(self)), []
        for name, value in given.items():
            if value is None:
                continue
            if name == "sd_model_checkpoint":
                found["model"] = find_model(value, models)
            elif name in CHANGED:
                found[name] = CHANGED[name].check(name, value)
            elif name not in UNCHANGED:
                ignored.append(name[:64])
        return Options(**found), ignored[:20]


def find_model(title: Any, models: ServedModels) -> str:
    """The public name of a model that a client calls by its name, or by its name and hash: "emoji
    [bc5ca30f1b]". Raises Refusal or RequestError.
    """
    if isinstance(title, str):
        name, bracket, _ = title.rpartition(" [")
        if bracket and title.endswith("]") and name in models.names:
            return name
    return models.find(title)


@dataclass
class Work:
    """A drawing that is not done. begun: seconds of time.monotonic; stamp: then, as that web UI
    writes it. interrupted: whether the caller has ended it.
    """

    drawing: Drawing
    begun: float = field(default_factory=time.monotonic)
    stamp: str = field(default_factory=lambda: time.strftime("%Y%m%d%H%M%S"))
    interrupted: bool = False

    def interrupt(self) -> None:
        self.interrupted = True
        self.drawing.job.interrupt()

    @property
    def steps(self) -> tuple[int, int]:
        """(steps that are done, all of them); (0, 0) where it waits."""
        last = self.drawing.job.events.last("step")
        return (0, 0) if last is None else (last.step or 0, last.steps or 0)


class Callers:
    """Options and work by caller; safe from any thread."""

    def __init__(self, most: int = MOST_CALLERS):
        self._options: OrderedDict[str, Options] = OrderedDict()
        self._work: dict[str, list[Work]] = {}
        self._most = most
        self._lock = threading.Lock()

    def options(self, caller: Caller) -> Options:
        """What the caller has chosen."""
        with self._lock:
            return self._options.get(caller.name, Options())

    def choose(self, caller: Caller, options: Options) -> None:
        """Has the caller's requests go by the options from now on."""
        with self._lock:
            self._options[caller.name] = options
            self._options.move_to_end(caller.name)
            if len(self._options) > self._most:
                self._options.popitem(last=False)

    def work(self, caller: Caller) -> list[Work]:
        """What the caller has begun and is not done, oldest first."""
        with self._lock:
            return list(self._work.get(caller.name, ()))

    @contextmanager
    def working(self, caller: Caller, drawing: Drawing) -> Iterator[Work]:
        """Within it, the drawing is the caller's work."""
        work = Work(drawing)
        with self._lock:
            self._work.setdefault(caller.name, []).append(work)
        try:
            yield work
        finally:
            with self._lock:
                left = [other for other in self._work[caller.name] if other is not work]
                self._work[caller.name] = left
                if not left:
                    del self._work[caller.name]


def callers_of(request: Request) -> Callers:
    """Those of the app that the request came to."""
    found: Callers = request.app.state.a1111
    return found
