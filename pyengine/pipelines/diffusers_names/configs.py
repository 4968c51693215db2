"""A config as diffusers' objects show it: a frozen dict whose keys are attributes too."""

from typing import Any, NoReturn

from ...weights.text import did_you_mean, show


class Config(dict[str, Any]):
    """{key: value}; `config.key` is `config["key"]`. Copies (dict(config)) are ordinary dicts."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"config: no key {show(name)}{did_you_mean(name, self)}") from None

    def _frozen(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("config: not to be changed; from_config(config, key=value) makes another")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = _frozen
    clear = pop = popitem = setdefault = update = _frozen
    __ior__ = _frozen

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self),))
