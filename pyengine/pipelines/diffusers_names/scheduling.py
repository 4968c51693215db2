"""A diffusion pipeline's scheduler under diffusers' name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .schedulers import NamedScheduler, choose


class SchedulerNames:
    """Base of the pipelines whose calls run a sampler: `pipe.scheduler`.

    A subclass has `_scheduler_keys` and `_class_name`.
    """

    _sampler: NamedScheduler

    if TYPE_CHECKING:

        @property
        def _class_name(self) -> str: ...

    @property
    def _scheduler_keys(self) -> Mapping[str, Any]:
        """The checkpoint's scheduler_config.json."""
        raise NotImplementedError

    @property
    def scheduler(self) -> NamedScheduler:
        """The sampler that calls use unless they name another: its name, config, plan.

        Set it to a sampler's name (pyengine.schedules.SAMPLER_NAMES, or diffusers' class name), to
        one of pyengine's schedulers, such as EulerDiscreteScheduler.from_config(
        pipe.scheduler.config), or to diffusers' own: its class name and config are read.
        """
        return self._sampler

    @scheduler.setter
    def scheduler(self, value: Any) -> None:
        if isinstance(value, str) and "_sampler" in self.__dict__:
            self._sampler = self._named_scheduler(value)
        else:
            self._sampler = choose(value, self._scheduler_keys, self._class_name)

    def _named_scheduler(self, name: str) -> NamedScheduler:
        """What a call's `scheduler=name` means: that sampler with the keys of the present one."""
        return self.scheduler.other(name)
