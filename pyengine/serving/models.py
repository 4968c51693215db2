"""Names of the models that a server has, as its clients know them: no path of this machine."""

from typing import Any

from ..engine import Engine
from ..errors import RequestError
from ..pipelines.loading import NAMED
from ..pipelines.remembered import model_name
from ..weights.text import did_you_mean, show
from .errors import Refusal
from .settings import ServerSettings


class ServedModels:
    """Models by public name: that of a model which ships or of the Hub; of a folder or file the
    last part of its path. Where two have the same, the second is followed by -2.
    """

    def __init__(self, engine: Engine, settings: ServerSettings):
        self._engine, self._settings = engine, settings
        #: What the engine calls a model, by public name, in the order of loading.
        self._names: dict[str, str] = {}
        for own in engine.models:
            base = own if own in NAMED else model_name(own)
            base = base.removesuffix(".safetensors") or "model"
            name, n = base, 1
            while name in self._names:
                n += 1
                name = f"{base}-{n}"
            self._names[name] = own

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def find(self, name: Any) -> str:
        """The public name of the model that a client means: the first where it says nothing.

        Raises Refusal (404) for a name that there is not.
        """
        if name is None or name == "":
            return self.names[0]
        if not isinstance(name, str):
            raise RequestError(f"model: expected a name, given {show(name)}")
        if name in self._names:
            return name
        if self._settings.alias_unknown_models:
            return self.names[0]
        near = did_you_mean(name, self._names)
        raise Refusal(
            404,
            f"model: expected one of {', '.join(self._names)}, given {show(name)}{near}",
            "model",
            "model_not_found",
        )

    def engine_name(self, name: str) -> str:
        """What the engine calls the model of a public name."""
        return self._names[name]

    def pipeline(self, name: str) -> Any:
        return self._engine.pipeline(self._names[name])
