"""What the checkpoints of one family hold: the half of a family's record that weights/ reads.

The other half, and the registry, are in pyengine/pipelines/registry.py. Names of classes in a
checkpoint are compared with these, never imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from .text import listing, nearest, show

#: A class or function: itself, or "module:name", which is imported when it is asked for.
Reference = Any
#: What model_index.json calls networks beside a model's own, and diffusers' class of several.
BESIDE = {"controlnet": "MultiControlNetModel", "adapter": "MultiAdapter"}
#: Parts that diffusers' pipelines may have and pyengine's do without.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def find(reference: Reference) -> Any:
    """The object that a Reference stands for."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Part:
    """A part of a checkpoint.

    kind: "model" has a config.json and weights, "settings" a config.json alone, "scheduler" a
    scheduler_config.json, "tokenizer" vocabularies. library, classes: what model_index.json calls
    it, [library, class]; classes None: of any class that pyengine.schedules knows. other_libraries:
    what else the library may be called. model_types: what config.json's model_type may be, as
    transformers writes it. network: the class of ours that holds a model, or a tokenizer. config:
    the class of its config, where no network says so. summary: the config's fields that `pyengine
    info` shows, dots leading into nested ones.
    others: networks of further `classes`, in their order, which may be in its place. file: the
    config's name, where it is none of these.
    """

    kind: Literal["model", "settings", "scheduler", "tokenizer"]
    library: str
    classes: tuple[str, ...] | None = None
    other_libraries: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    network: Reference | None = None
    config: Reference | None = None
    summary: tuple[str, ...] = ()
    others: tuple[Reference, ...] = ()
    file: str | None = None

    @property
    def config_file(self) -> str:
        if self.file is not None:
            return self.file
        return "scheduler_config.json" if self.kind == "scheduler" else "config.json"

    def network_of(self, config: Mapping[str, Any]) -> Any:
        """The class of ours that holds a model with this config.json, by its _class_name."""
        own: tuple[Reference, ...] = (self.network, *self.others)
        networks = dict(zip(self.classes or (), own, strict=False))
        return find(networks.get(str(config.get("_class_name")), self.network))

    def config_class(self, config: Mapping[str, Any] | None = None) -> Any:
        """The dataclass of the part's config, by what `config` says of its class; None where
        nothing reads it by one.
        """
        if self.config is not None:
            return find(self.config)
        return None if self.network is None else self.network_of(config or {}).config_class


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How checkpoints of a family are recognised, and what they hold.

    classes: the pipelines that model_index.json may name; of a single model, the class that
    config.json stands for. parts: by name. optional: parts that may be missing, but only all of
    them. unused: parts that are left unread. index: what model_index.json is written with besides
    parts and options. refused: {class: one of `classes`}: diffusers' pipelines of the same parts
    that sample in ways of their own. beside: {class: one of `classes`}: diffusers' pipelines of the
    same parts and BESIDE's. data: other values of model_index.json, which its builder
    checks. flat: whether files of a part may lie beside
    model_index.json instead of in a folder of the part's name, as google/ddpm-* has them; of a
    family with one model.
    signature: of a single model's config.json, by which it is known: {key: value, None: any}; such
    a folder has no model_index.json, and its parts are "model" and perhaps "tokenizer".
    files: its other JSON files, by the name that `Checkpoint.config` takes. needed: files without
    which it draws nothing.
    tensors: names of tensors by which a single .safetensors file is known, all of them together;
    other_tensors: those of files that others have written. file: the Checkpoint's
    class for such a file, called with its path.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    optional: tuple[str, ...] = ()
    unused: tuple[str, ...] = UNUSED
    index: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    flat: bool = False
    signature: Mapping[str, str | None] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    other_tensors: tuple[tuple[str, ...], ...] = ()
    file: Reference | None = None

    def named(self, kind: str) -> tuple[str, ...]:
        """The parts of a kind."""
        return tuple(name for name, part in self.parts.items() if part.kind == kind)

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Whether a folder with this config.json, and no model_index.json, is a single model of
        this family.
        """
        return self.signature is not None and all(
            key in config and value in (None, config[key]) for key, value in self.signature.items()
        )


def layouts() -> tuple[Layout, ...]:
    """Of all families, in the order in which lists show them."""
    # The registry is above this package. It is asked by name, and imports no family's models.
    from ..pipelines.registry import families

    return families()


def layout_of(pipeline_class: object) -> Layout | None:
    """The layout of the checkpoints of a class; None where no family has that class."""
    return next((found for found in layouts() if pipeline_class in found.classes), None)


def without_beside(pipeline_class: object) -> object:
    """The class of the same parts without BESIDE's; the class itself where it has none."""
    if not isinstance(pipeline_class, str):
        return pipeline_class
    own = (found.beside for found in layouts())
    return next((b[pipeline_class] for b in own if pipeline_class in b), pipeline_class)


def layout_of_model(config: Mapping[str, Any]) -> Layout | None:
    """The layout of a single model's folder with this config.json."""
    return next((found for found in layouts() if found.describes(config)), None)


def pipeline_classes() -> list[str]:
    """All that model_index.json may name."""
    return [name for found in layouts() if found.signature is None for name in found.classes]


def expected_model_types() -> str:
    """What a single model's config.json may say of itself, for an error."""
    types = {(found.signature or {}).get("model_type") for found in layouts()}
    return listing(sorted(name for name in types if name is not None))


def why_not_class(name: object) -> str:
    """Why model_index.json's _class_name names no pipeline of ours."""
    refused = {other: same for found in layouts() for other, same in found.refused.items()}
    if isinstance(name, str) and name in refused:
        return (
            f"_class_name is {name}, which guides or samples in a way of its own that pyengine does"
            f" not have; its parts are {refused[name]}'s: change _class_name to that to draw"
            " without it"
        )
    known = pipeline_classes()
    meant = nearest(name, known)
    like = f"; the nearest is {meant}" if meant else ""
    return f"_class_name is {show(name)}, expected {listing(known)}{like}"
