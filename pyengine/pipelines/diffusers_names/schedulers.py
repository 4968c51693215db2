"""diffusers' schedulers by their class names: configs in, pyengine's samplers out.

EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing") and the like;
a class for every one that pyengine.schedules knows, made from its table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import RequestError
from ...schedules import CLASSES, Plan, Scheduler, from_config
from ...weights import load_json
from ...weights.text import did_you_mean, listing, show
from .configs import Config

if TYPE_CHECKING:
    from typing_extensions import Self


class NamedScheduler:
    """A sampler under the name of one of diffusers' classes; see `scheduler_class`.

    name: the sampler's, one of pyengine.schedules.SAMPLER_NAMES.
    """

    #: Names of the saved keys, for `ConfigMixin`'s users.
    config_name: ClassVar[str] = "scheduler_config.json"
    sampler: Scheduler

    def __init__(self, **keys: Any):
        """keys: those of diffusers' class; its defaults for the rest. Raises ConfigError."""
        self.sampler = from_config({**keys, "_class_name": type(self).__name__})

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **changes: Any
    ) -> Self:
        """This class with another's config, as diffusers'.

        Args:
            config: another's, or the parsed JSON; keys that its owner had from its own defaults are
                left to this class' defaults.
            return_unused_kwargs: whether the keys that this class has not are given back too,
                beside it.
            changes: over the config's keys.

        Raises:
            ConfigError: for keys that are not known or cannot be.
        """
        if return_unused_kwargs:
            raise RequestError("return_unused_kwargs: unused keys are refused by name here")
        if not isinstance(config, Mapping):
            raise RequestError(
                f"config: expected one such as pipe.scheduler.config, given"
                f" {type(config).__name__}; a saved one: {cls.__name__}.from_pretrained(folder)"
            )
        made = cls.__new__(cls)
        keys = set_keys(config)
        keys.setdefault("_class_name", cls.__name__)
        made.sampler = from_config(keys | changes, cls.__name__)
        return made

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **changes: Any,
    ) -> Self:
        """A scheduler as it was saved.

        Args:
            folder: a checkpoint's, with subfolder="scheduler", or a scheduler's own.
            subfolder: of it.
            return_unused_kwargs, changes: as from_config's.
        """
        place = Path(folder) / (subfolder or "")
        if (place / "scheduler").is_dir() and not (place / cls.config_name).exists():
            place = place / "scheduler"
        if not place.is_dir():
            raise RequestError(
                f"{cls.__name__}: expected the folder of a checkpoint or scheduler, found none at"
                f" {show(str(place))}; of a Hub id: from_config(pipe.scheduler.config)"
            )
        unbounded = frozenset({"lambda_min_clipped"})
        data = load_json(place / cls.config_name, unbounded=unbounded)
        return cls.from_config(data, return_unused_kwargs, **changes)

    @property
    def name(self) -> str:
        return self.sampler.name

    @property
    def config(self) -> Config:
        """diffusers' keys, those too that only other schedulers read: from_config takes it."""
        return Config(self.sampler.as_dict())

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """pyengine.schedules.Scheduler.plan."""
        return self.sampler.plan(*args, **kwargs)

    def other(self, name: str) -> NamedScheduler:
        """The sampler called `name` with this one's config; its own defaults for the rest."""
        return saved(set_keys(self.config), name, "")

    def register_to_config(self, **changes: Any) -> None:
        """Changes keys of the config, as diffusers' does."""
        self.sampler = type(self).from_config(self.config, **changes).sampler

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:
        """Writes scheduler_config.json into the folder `save_directory`."""
        from .saving import write_scheduler

        write_scheduler(self, Path(save_directory))

    def __len__(self) -> int:
        """num_train_timesteps, as diffusers'."""
        return int(self.config.num_train_timesteps)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        keys = {k: v for k, v in self.config.items() if not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in keys.items())})"


def set_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys that only its owner's defaults fill, and without diffusers' list of
    these.
    """
    unset = ("_use_default_values", *config.get("_use_default_values", ()))
    return {key: value for key, value in config.items() if key not in unset}


def scheduler_class(name: str) -> type[NamedScheduler]:
    """The class of diffusers' name `name`, such as "EulerDiscreteScheduler".

    Raises AttributeError, with the nearest, for those that there are not.
    """
    from . import scheduler_types  # which needs this module

    if name not in CLASSES:
        raise AttributeError(
            f"no scheduler {show(name)}{did_you_mean(name, CLASSES)} (there are"
            f" {listing(sorted(CLASSES), 60)})"
        )
    found: type[NamedScheduler] = getattr(scheduler_types, name)
    return found


def saved(keys: Mapping[str, Any], name: str | None, pipeline: str) -> NamedScheduler:
    """The scheduler that a checkpoint saved, or the one that `name` says with its keys.

    pipeline: diffusers' class that it is loaded into.
    """
    sampler = from_config(dict(keys), name, pipeline=pipeline)
    made = object.__new__(scheduler_class(sampler.class_name))
    made.sampler = sampler
    return made


def choose(value: Any, keys: Mapping[str, Any], pipeline: str) -> NamedScheduler:
    """What `pipe.scheduler = value` means; None: the one that the keys, a checkpoint's, ask for.

    Raises RequestError for what is no scheduler, ConfigError for one that pyengine has not.
    """
    if value is None or isinstance(value, str):
        return saved(keys, value, pipeline)
    if isinstance(value, NamedScheduler):
        return value
    if isinstance(value, Scheduler):
        return saved(value.as_dict(), None, "")
    if isinstance(value, type):
        raise RequestError(
            f"scheduler: expected {value.__name__}.from_config(pipe.scheduler.config), given the"
            " class itself"
        )
    config = getattr(value, "config", None)
    if isinstance(config, Mapping):  # one of diffusers', which is never imported
        return saved({**config, "_class_name": type(value).__name__}, None, "")
    raise RequestError(
        "scheduler: expected a sampler's name or a scheduler such as"
        f" EulerDiscreteScheduler.from_config(pipe.scheduler.config), given {show(value)}"
    )
