"""A checkpoint as the pipeline sees it: components by name, whatever layout they are stored in."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import CheckpointError, ConfigError
from .config import check_ignored, how_to_ignore, ignoring, is_off
from .digest import model_hash
from .files import (
    allowed_roots,
    check_inside,
    is_pickle_name,
    link_to_nothing,
    list_folder,
)
from .jsonio import load_json
from .layout import BESIDE, Layout, Part, layout_of, why_not_class, without_beside
from .source import (
    MappedSource,
    TensorSource,
    available_variants,
    check_variant,
    model_folder,
    open_weights,
)
from .text import listing, show

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
)

#: ControlNets or adapters of one checkpoint.
MOST_BESIDE = 16

#: A tokenizer has one of these.
VOCABULARIES = ("vocab.json", "tokenizer.json", "spiece.model")


class Checkpoint:
    """What `resolve` returns; a folder and a single file look the same from here.

    source: the path or Hub id that was asked for. pipeline_class: the diffusers pipeline's name,
    one of its layout's classes. components: the names of the parts, such as "unet", "tokenizer".
    options: the pipeline's own settings, {"force_zeros_for_empty_prompt": True, ...}.
    ignored: keys of configs that may be left unread although pyengine does not know them.
    data: what model_index.json says under the names of the layout's `data`, unchecked.
    beside: {name of layout.BESIDE: folders}: ControlNets and adapters that it has.
    """

    source: str
    pipeline_class: str
    components: tuple[str, ...]
    options: dict[str, bool]
    ignored: tuple[str, ...] = ()
    data: dict[str, Any]
    beside: Mapping[str, tuple[Path, ...]] = MappingProxyType({})
    _held: dict[str, TensorSource | MappedSource] | None = None
    _hash: str | None = None

    @property
    def layout(self) -> Layout:
        """What its family's checkpoints hold."""
        found = layout_of(self.pipeline_class)
        assert found is not None  # whoever set pipeline_class has looked
        return found

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the parts that have weights."""
        return tuple(n for n in self.components if self.layout.parts[n].kind == "model")

    def config(self, name: str) -> dict[str, Any]:
        """The part's parsed config: config.json, or scheduler_config.json for the scheduler."""
        raise NotImplementedError

    def where(self, name: str) -> str:
        """What to call the part's config in a message: its path."""
        return f"{self.source}: {name}"

    def tensors(self, name: str) -> TensorSource | MappedSource:
        """The tensors of a model, under diffusers' and transformers' names."""
        raise NotImplementedError

    def component(self, name: str) -> tuple[dict[str, Any], TensorSource | MappedSource]:
        """(config, tensors) of a model: "unet", "vae", "text_encoder"..."""
        return self.config(name), self.tensors(name)

    def place(self, name: str) -> Path:
        """The folder that a part's files lie in."""
        raise NotImplementedError

    def tokenizer_files(self, name: str) -> dict[str, Path]:
        """{file name: path} of those TOKENIZER_FILES that the tokenizer has."""
        raise NotImplementedError

    def tokenizer_pad(self, name: str) -> str | None:
        """The padding token where the files are another model's; None: as the files say."""
        return None

    @property
    def model_hash(self) -> str:
        """SHA-256, in hexadecimal, of the weights; see digest.model_hash for what it covers."""
        held = self._held  # before the hash is looked for: it is let go after that is there
        if self._hash is None:
            opened = held or {n: self.tensors(n) for n in self.models}
            self._hash = model_hash(opened)
            self._held = None
        return self._hash

    def hold(self, sources: Mapping[str, TensorSource | MappedSource]) -> None:
        """Keeps the models' open `sources` until `model_hash` has read them: a folder that was
        loaded may be gone by then, or hold other weights. Not hashed at once: of a load of 0.12 s,
        0.03 s would go into what few ask for.
        """
        self._held = dict(sources)

    def _check_name(self, name: str, among: tuple[str, ...] | None = None) -> None:
        if name not in self.components or (among is not None and name not in among):
            raise CheckpointError(
                f"{self.source}: no {show(name)}; it has {listing(self.components)}"
            )


class FolderCheckpoint(Checkpoint):
    """A folder in diffusers' layout: model_index.json and a folder for each part, or all in one."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        variant: str | None = None,
        source: str = "",
        ignore_config_keys: Iterable[str] = (),
    ):
        self.folder = Path(folder)
        self.source = source or str(folder)
        self.ignored = check_ignored(ignore_config_keys)
        check_variant(variant)
        self.variant = variant
        self.data = {}
        self._roots = allowed_roots(self.folder)
        self._index = self.folder / "model_index.json"
        if not os.path.exists(self._index):
            raise CheckpointError(f"{self.folder}: {_why_no_index(self.folder)}")
        index = load_json(self._index, roots=self._roots)
        self.pipeline_class = self._read_class(index)
        self.components, self.options = self._read_parts(index)
        places = {name: self.place(name) for name in self.components}
        self._variants = {name: available_variants(places[name]) for name in self.models}
        self._check_variant_exists()

    def _read_class(self, index: dict[str, Any]) -> str:
        name = index.get("_class_name")
        if isinstance(name, list):
            raise CheckpointError(
                f"{self._index}: _class_name {show(name)} is a custom pipeline, which would run"
                " code from the checkpoint"
            )
        own = without_beside(name)
        layout = layout_of(own)
        if not isinstance(own, str) or layout is None or layout.signature is not None:
            raise CheckpointError(f"{self._index}: {why_not_class(name)}")
        if own != name:
            given = {part: index.pop(part) for part in BESIDE if part in index}
            self.beside = {part: self._beside(part, value) for part, value in given.items()}
            if not given:
                names = listing(BESIDE)
                raise CheckpointError(f"{self._index}: {name} needs one of {names}, found neither")
        return own

    def _beside(self, name: str, value: Any) -> tuple[Path, ...]:
        """The folders of a network beside the model's, or of several: name, name_1 and so on."""
        if not _is_class(value):
            raise CheckpointError(
                f"{self._index}: {name} should be [library, class], found {show(value)}"
            )
        folders = [model_folder(self.folder, name)]
        while value[1] == BESIDE[name] and len(folders) < MOST_BESIDE:
            following = f"{name}_{len(folders)}"
            if not os.path.isdir(self.folder / following):
                break
            folders.append(model_folder(self.folder, following))
        return tuple(folders)

    def _read_parts(self, index: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, bool]]:
        parts, options, problems, unknown = [], {}, [], []
        layout = self.layout
        self._named: dict[str, str] = {}
        for name, value in index.items():
            if name.startswith("_") or name in layout.unused:
                continue
            if name in self.ignored and name not in layout.parts:
                continue
            if name in layout.data:
                self.data[name] = value
                continue
            if isinstance(value, bool):
                options[name] = value
            elif is_absent(value):
                continue
            elif name not in layout.parts and not _is_class(value):
                unknown.append(name)
            elif problem := _class_problem(name, value, layout.parts.get(name)):
                problems.append(problem)
            else:
                parts.append(name)
                self._named[name] = value[1]
        if unknown:
            names = listing(map(show, sorted(unknown)))
            problems.append(f"unknown keys {names} ({how_to_ignore(sorted(unknown))})")
        optional = () if any(name in parts for name in layout.optional) else layout.optional
        if missing := [p for p in layout.parts if p not in (*parts, *optional)]:
            problems.append(f"{self.pipeline_class} needs {listing(missing)} too")
        if problems:
            raise CheckpointError(f"{self._index}: {'; '.join(problems)}")
        return tuple(parts), options

    def _check_variant_exists(self) -> None:
        """A part may lack the variant, as in diffusers, and gives its plain weights; not all."""
        if self.variant and not any(self.variant in found for found in self._variants.values()):
            known = sorted({v for found in self._variants.values() for v in found if v})
            raise CheckpointError(
                f"{self.folder}: no weights of variant {show(self.variant)};"
                f" it has {listing(known) or 'none but the plain ones'}"
            )

    def place(self, name: str) -> Path:
        """The folder that a part's files lie in: its own, or the checkpoint's where it has none and
        the layout allows that, as in diffusers.
        """
        subfolder = None if self._lies_flat(name) else name
        return model_folder(self.folder, subfolder)

    def _lies_flat(self, name: str) -> bool:
        return self.layout.flat and not os.path.isdir(self.folder / name)

    def where(self, name: str) -> str:
        part = self.layout.parts.get(name)
        place = self.folder if self._lies_flat(name) else self.folder / name
        return str(place / (part.config_file if part else "config.json"))

    def config(self, name: str) -> dict[str, Any]:
        self._check_name(name)
        # diffusers saves DPMSolverMultistepScheduler's default for this key as -Infinity.
        part = self.layout.parts[name]
        unbounded = frozenset({"lambda_min_clipped"} if part.kind == "scheduler" else ())
        config = load_json(self.where(name), roots=self._roots, unbounded=unbounded)
        check_config_class(part, config, self.where(name))
        if part.others:
            config = self._of_named_class(name, config)
        return ignoring(config, self.ignored)

    def _of_named_class(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        """The config of a part of several classes, with the one that model_index.json names.

        Raises ConfigError where it says another itself.
        """
        named = self._named[name]
        own = config.get("_class_name", named)
        if own != named:
            raise ConfigError(
                f"{self.where(name)}: _class_name is {show(own)}, expected {named}, which"
                " model_index.json names"
            )
        return {**config, "_class_name": named}

    def tensors(self, name: str) -> TensorSource:
        self._check_name(name, self.models)
        variant = self.variant if self.variant in self._variants[name] else None
        subfolder = None if self._lies_flat(name) else name
        return open_weights(self.folder, subfolder=subfolder, variant=variant)

    def tokenizer_files(self, name: str) -> dict[str, Path]:
        self._check_name(name, self.layout.named("tokenizer"))
        files = tokenizer_files_in(self.folder / name)
        for path in files.values():
            check_inside(path, self._roots)
        return files


def tokenizer_files_in(folder: Path) -> dict[str, Path]:
    """{name: path} of the TOKENIZER_FILES in `folder`."""
    return {n: folder / n for n in TOKENIZER_FILES if os.path.exists(folder / n)}


def check_config_class(part: Part, config: dict[str, Any], where: str) -> None:
    """Raises ConfigError if a part's config names another class or code of its own."""
    code = [key for key in ("auto_map", "custom_pipelines", "trust_remote_code") if key in config]
    if code:
        raise ConfigError(f"{where}: {listing(code)} would run code from the checkpoint")
    named = config.get("_class_name")
    if named is not None and part.classes is not None and named not in part.classes:
        raise ConfigError(
            f"{where}: _class_name is {show(named)}, expected {listing(part.classes)}"
        )
    kind = config.get("model_type")
    if part.model_types and kind not in (None, *part.model_types):
        raise ConfigError(
            f"{where}: model_type is {show(kind)}, expected {show(part.model_types[0])}"
        )


def is_absent(value: object) -> bool:
    """Whether model_index.json says by `value` that there is no such part: null or [null, null]."""
    return is_off(value) or value == [None, None]


def _is_class(value: object) -> bool:
    """Whether `value` is [library, class], as a part is named in model_index.json."""
    return isinstance(value, list) and len(value) == 2 and all(type(v) is str for v in value)


def _class_problem(name: str, value: Any, part: Part | None) -> str | None:
    if part is None:
        return (
            f"{show(name)} {show(value)} is no part that pyengine knows ({how_to_ignore([name])})"
        )
    if not _is_class(value):
        return f"{name} should be [library, class], found {show(value)}"
    library, kind = value
    libraries = (part.library, *part.other_libraries)
    if library not in libraries or (part.classes is not None and kind not in part.classes):
        wanted = listing(part.classes) if part.classes else "a scheduler"
        return f"{name} is {show(value)}, expected {wanted} of {part.library}"
    return None


def _why_no_index(folder: Path) -> str:
    names = list_folder(folder)
    for name in ("model_index.json", "config.json"):
        if nothing := link_to_nothing(folder / name):
            return f"{name} is a link to {nothing}, where nothing is"
    if "config.json" in names:
        return "one model, not a whole checkpoint: there is no model_index.json"
    single = [n for n in names if n.endswith(".safetensors")]
    if single:
        return f"no model_index.json; to load a single file give its path: {listing(single)}"
    if any(is_pickle_name(n) for n in names):
        return "no model_index.json, only pickles, which can run code when they are opened"
    return "no model_index.json, so this is no checkpoint in diffusers' layout"
