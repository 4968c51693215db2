"""Families of models: one record each, which the loader, the command line and the tests read.

A family is a folder of pyengine/pipelines with a `family.py`, whose records are found by
themselves; or a record that somebody else makes and gives to `register`. Nothing here imports a
model or a pipeline: a record names them, and whoever needs one asks for it.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ..weights.layout import Layout, Part, Reference, find
from ..weights.text import listing, show

#: What a pipeline may begin from: text (or a class, or nothing), a picture, a picture and a mask.
TASKS = ("text", "image", "inpaint")


@dataclass(frozen=True, kw_only=True)
class Family(Layout):
    """All that is known of a family of models besides its networks and its pipeline's code.

    The fields of Layout say how its checkpoints are recognised and what they hold. References are
    "module:name", or the object itself.

    name: its folder's, or any of your own that no other has. title, state: README's line: what it
    is, and what works. pipeline: the class, which the classes of diffusers that do one task derive
    from. build: makes the pipeline: build(load), see `pyengine.pipelines.reading.Load`. main: the
    part that predicts, whose dtype and 8-bit tiers are the pipeline's. defaults: of a call, where
    they are not the pipeline's `defaults_class`. takes_parts: whether parts may be given to
    from_pretrained as objects, and a scheduler. takes_control: whether ControlNets and T2I-Adapters
    may be given. tasks: diffusers' class for a task, where the
    pipeline is not the class for all; others: its further classes over the same models. sampler:
    what `info` calls the scheduler, where it is none of pyengine.schedules. rehearse: what `info
    --plan` runs: rehearse(models, batch, height, width) yields (part, function) in order; models:
    {part: network on the meta device}, sizes in pixels or None. joins: {keyword of
    from_pretrained: function (checkpoint, another) that makes one of both}. rank: lists of families
    are in this order.
    """

    name: str
    title: str
    state: str
    pipeline: Reference
    build: Reference
    main: str
    defaults: Reference | None = None
    takes_parts: bool = False
    takes_control: bool = False
    tasks: Mapping[str, Reference] = field(default_factory=dict)
    others: tuple[Reference, ...] = ()
    sampler: str | None = None
    rehearse: Reference | None = None
    joins: Mapping[str, Reference] = field(default_factory=dict)
    rank: int = 100

    @property
    def pipeline_class(self) -> type[Any]:
        found: type[Any] = find(self.pipeline)
        return found

    @property
    def defaults_class(self) -> type[Any]:
        found: type[Any] = find(self.defaults or self.pipeline_class.defaults_class)
        return found

    @property
    def tiers(self) -> tuple[str, ...]:
        """What from_pretrained's `weights` may be."""
        found: tuple[str, ...] = find(self.parts[self.main].network).tiers
        return found

    def made(self, cls: type[Any]) -> bool:
        """Whether `cls` is the pipeline's class; it is not imported for that."""
        return cls is self.pipeline or f"{cls.__module__}:{cls.__qualname__}" == self.pipeline


_families: dict[str, Family] = {}
_lock = threading.RLock()
_complete = False


def register(family: Family) -> None:
    """Makes a family known: from_pretrained loads its checkpoints, `pyengine info` tells of them.

    Raises TypeError for anything but a Family, ValueError where another family has its name, one of
    its classes or its signature.
    """
    if not isinstance(family, Family):
        raise TypeError(f"register: expected a pyengine.pipelines.Family, given {show(family)}")
    with _lock:
        _add_own()
        _add(family)


def unregister(name: str) -> None:
    """Forgets the family of that name. Raises KeyError where there is none."""
    with _lock:
        _add_own()
        if name not in _families:
            raise KeyError(
                f"unregister: no family {show(name)}; there are {listing(sorted(_families))}"
            )
        del _families[name]


def families() -> tuple[Family, ...]:
    """All that are known, in the order in which lists show them."""
    if not _complete:
        with _lock:
            _add_own()
    return tuple(sorted(_families.values(), key=lambda family: (family.rank, family.name)))


def family_of(pipeline_class: str) -> Family:
    """The family of the checkpoints of a class, as model_index.json names it.

    Raises KeyError where there is none.
    """
    for family in families():
        if pipeline_class in family.classes:
            return family
    raise KeyError(pipeline_class)


def family_of_pipeline(pipeline: Any) -> Family:
    """The family whose models a pipeline has."""
    names = (pipeline._class_name, *(cls.__name__ for cls in type(pipeline).__mro__))
    known = {name: family for family in families() for name in family.classes}
    found = next((known[name] for name in names if name in known), None)
    if found is None:
        found = next(f for f in families() for c in type(pipeline).__mro__ if f.made(c))
    return found


def class_name(cls: type[Any]) -> str:
    """What a class of pipelines goes by in model_index.json: its own name where a family has that,
    else that of the nearest class it derives from: a class of the caller's own is no other kind.
    """
    known = {name for family in families() for name in family.classes}
    return next((c.__name__ for c in cls.__mro__ if c.__name__ in known), cls.__name__)


def pipeline_named(name: str) -> type[Any]:
    """The pipeline's class of that name, a family's own or one for a task.

    Raises KeyError where there is none.
    """
    for family in families():
        for reference in (family.pipeline, *family.tasks.values(), *family.others):
            if isinstance(reference, str) and reference.rpartition(":")[2] == name:
                found: type[Any] = find(reference)
                return found
    raise KeyError(name)


def fits(cls: type[Any], family: Family) -> bool:
    """Whether a class of pipelines draws with the models of a family.

    A class is of the pipeline that is nearest among those it derives from: SDXL's derives from
    Stable Diffusion's, and does not draw with its models.
    """
    known = families()
    own = next((c for c in cls.__mro__ if any(other.made(c) for other in known)), None)
    return own is not None and family.made(own)


def _add(family: Family) -> None:
    for other in _families.values():
        if other.name == family.name:
            raise ValueError(f"name: expected a new one, given {family.name!r}, which is there")
        if both := sorted({*other.classes} & {*family.classes}):
            raise ValueError(f"classes: {', '.join(both)} of {family.name} are {other.name}'s too")
        if family.signature is not None and family.signature == other.signature:
            raise ValueError(f"signature: that of {family.name} is {other.name}'s too")
    _families[family.name] = family


def _add_own() -> None:
    """Every Family in a family.py below this package."""
    global _complete
    if _complete:
        return
    own = {
        family.name: family
        for package in sorted(p.name for p in iter_modules([str(Path(__file__).parent)]) if p.ispkg)
        if (Path(__file__).parent / package / "family.py").is_file()
        for family in vars(import_module(f"{__package__}.{package}.family")).values()
        if isinstance(family, Family)
    }
    for family in own.values():
        if family.name not in _families:
            _add(family)
    _complete = True


__all__ = [
    "TASKS",
    "Family",
    "Layout",
    "Part",
    "class_name",
    "families",
    "family_of",
    "family_of_pipeline",
    "fits",
    "register",
    "unregister",
]
