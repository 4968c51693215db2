"""A checkpoint as the pipeline sees it: components by name, whatever layout they are stored in."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

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
from .source import (
    MappedSource,
    TensorSource,
    available_variants,
    check_variant,
    model_folder,
    open_weights,
)
from .text import listing, nearest, show

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)

# What model_index.json may name. Nothing is ever imported by these names: they are only compared.
PARTS = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "tokenizer_2": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "scheduler": ("diffusers", None),  # pyengine.schedules knows which
    "vqvae": ("diffusers", ("VQModel",)),
    "transformer": ("diffusers", ("UVit2DModel",)),
    "tokens": ("pyengine", ("PictureTokens",)),
}
# "model": the only one of a single model's folder.
MODELS = ("unet", "vae", "text_encoder", "text_encoder_2", "vqvae", "transformer", "model")
# Parts that diffusers' pipelines may have and pyengine's do without.
UNUSED_PARTS = {"safety_checker", "feature_extractor", "image_encoder"}
SD_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
XL_PARTS = (*SD_PARTS, "text_encoder_2", "tokenizer_2")
REFINER_PARTS = tuple(p for p in XL_PARTS if p not in ("text_encoder", "tokenizer"))
AMUSED_PARTS = ("transformer", "vqvae", "text_encoder", "tokenizer", "scheduler")
GPT_PARTS = ("transformer", "vqvae", "tokenizer", "tokens")
PIPELINES = {
    "StableDiffusionPipeline": SD_PARTS,
    "StableDiffusionImg2ImgPipeline": SD_PARTS,
    "StableDiffusionInpaintPipeline": SD_PARTS,
    "LatentConsistencyModelPipeline": SD_PARTS,
    "LatentConsistencyModelImg2ImgPipeline": SD_PARTS,
    "StableDiffusionXLPipeline": XL_PARTS,
    "StableDiffusionXLImg2ImgPipeline": XL_PARTS,
    "StableDiffusionXLInpaintPipeline": XL_PARTS,
    "AmusedPipeline": AMUSED_PARTS,
    "AmusedImg2ImgPipeline": AMUSED_PARTS,
    "AmusedInpaintPipeline": AMUSED_PARTS,
    "PictureGPTPipeline": GPT_PARTS,  # pyengine's own
}
# The first text encoder and its tokenizer, which SDXL's refiner does without: both or neither.
OPTIONAL_PARTS = {
    name: ("text_encoder", "tokenizer") for name, parts in PIPELINES.items() if parts is XL_PARTS
}
# diffusers' pipelines of the same parts that guide in ways of their own, which pyengine lacks.
GUIDED_OTHERWISE = {
    "StableDiffusionPipelineSafe": "StableDiffusionPipeline",
    "StableDiffusionPAGPipeline": "StableDiffusionPipeline",
    "StableDiffusionPAGImg2ImgPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPAGInpaintPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionSAGPipeline": "StableDiffusionPipeline",
    "StableDiffusionPanoramaPipeline": "StableDiffusionPipeline",
    "StableDiffusionAttendAndExcitePipeline": "StableDiffusionPipeline",
    "SemanticStableDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionKDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLKDiffusionPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLPAGPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLPAGImg2ImgPipeline": "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLPAGInpaintPipeline": "StableDiffusionXLInpaintPipeline",
}
# Parts that only the pipelines that need them may have.
OF_TOKENS = ("vqvae", "transformer", "tokens")
# Parts that are of another class than in PARTS.
CLASSES = {
    name: {
        "text_encoder": ("transformers", ("CLIPTextModelWithProjection",)),
        "scheduler": ("diffusers", ("AmusedScheduler",)),
    }
    for name in ("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline")
} | {"PictureGPTPipeline": {"transformer": ("transformers", ("LlamaForCausalLM",))}}


class Checkpoint:
    """What `resolve` returns; a folder and a single file look the same from here.

    source: the path or Hub id that was asked for. pipeline_class: the diffusers pipeline's name,
    one of PIPELINES. components: the names of the parts, such as "unet" and "tokenizer".
    options: the pipeline's own settings, {"force_zeros_for_empty_prompt": True, ...}.
    ignored: keys of configs that may be left unread although pyengine does not know them.
    """

    source: str
    pipeline_class: str
    components: tuple[str, ...]
    options: dict[str, bool]
    ignored: tuple[str, ...] = ()
    _held: dict[str, TensorSource | MappedSource] | None = None
    _hash: str | None = None

    def config(self, name: str) -> dict:
        """The part's parsed config: config.json, or scheduler_config.json for the scheduler."""
        raise NotImplementedError

    def where(self, name: str) -> str:
        """What to call the part's config in a message: its path."""
        return f"{self.source}: {name}"

    def tensors(self, name: str) -> TensorSource | MappedSource:
        """The tensors of a model, under diffusers' and transformers' names."""
        raise NotImplementedError

    def component(self, name: str) -> tuple[dict, TensorSource | MappedSource]:
        """(config, tensors) of a model: "unet", "vae", "text_encoder"...: one of MODELS."""
        return self.config(name), self.tensors(name)

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
            opened = held or {n: self.tensors(n) for n in MODELS if n in self.components}
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
    """A folder in diffusers' layout: model_index.json and a folder for each part."""

    def __init__(
        self, folder: str | os.PathLike, *, variant: str | None = None, source: str = "",
        ignore_config_keys: Iterable[str] = (),
    ):  # fmt: skip
        self.folder = Path(folder)
        self.source = source or str(folder)
        self.ignored = check_ignored(ignore_config_keys)
        check_variant(variant)
        self.variant = variant
        self._roots = allowed_roots(self.folder)
        self._index = self.folder / "model_index.json"
        if not os.path.exists(self._index):
            raise CheckpointError(f"{self.folder}: {_why_no_index(self.folder)}")
        index = load_json(self._index, roots=self._roots)
        self.pipeline_class = self._read_class(index)
        self.components, self.options = self._read_parts(index)
        self._variants = {}
        for name in self.components:
            place = model_folder(self.folder, name)
            if name in MODELS:
                self._variants[name] = available_variants(place)
        self._check_variant_exists()

    def _read_class(self, index: dict) -> str:
        name = index.get("_class_name")
        if isinstance(name, list):
            raise CheckpointError(
                f"{self._index}: _class_name {show(name)} is a custom pipeline, which would run"
                " code from the checkpoint"
            )
        if not isinstance(name, str) or name not in PIPELINES:
            raise CheckpointError(f"{self._index}: {_why_not_class(name)}")
        return name

    def _read_parts(self, index: dict) -> tuple[tuple[str, ...], dict[str, bool]]:
        parts, options, problems, unknown = [], {}, [], []
        for name, value in index.items():
            if name.startswith("_") or name in UNUSED_PARTS:
                continue
            if name in self.ignored and name not in PIPELINES[self.pipeline_class]:
                continue
            if isinstance(value, bool):
                options[name] = value
            elif is_absent(value):
                continue
            elif name not in PARTS and not _is_class(value):
                unknown.append(name)
            elif problem := _class_problem(name, value, self.pipeline_class):
                problems.append(problem)
            else:
                parts.append(name)
        if unknown:
            names = listing(map(show, sorted(unknown)))
            problems.append(f"unknown keys {names} ({how_to_ignore(sorted(unknown))})")
        optional = OPTIONAL_PARTS.get(self.pipeline_class, ())
        if any(name in parts for name in optional):
            optional = ()
        needed = (p for p in PIPELINES[self.pipeline_class] if p not in optional)
        if missing := [p for p in needed if p not in parts]:
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

    def where(self, name: str) -> str:
        file = {"scheduler": "scheduler_config.json"}.get(name, "config.json")
        return str(self.folder / name / file)

    def config(self, name: str) -> dict:
        self._check_name(name)
        # diffusers saves DPMSolverMultistepScheduler's default for this key as -Infinity.
        unbounded = frozenset({"lambda_min_clipped"} if name == "scheduler" else ())
        config = load_json(self.where(name), roots=self._roots, unbounded=unbounded)
        check_config_class(name, config, self.where(name), self.pipeline_class)
        return ignoring(config, self.ignored)

    def tensors(self, name: str) -> TensorSource:
        self._check_name(name, MODELS)
        variant = self.variant if self.variant in self._variants[name] else None
        return open_weights(self.folder, subfolder=name, variant=variant)

    def tokenizer_files(self, name: str) -> dict[str, Path]:
        self._check_name(name, ("tokenizer", "tokenizer_2"))
        files = tokenizer_files_in(self.folder / name)
        for path in files.values():
            check_inside(path, self._roots)
        return files


def tokenizer_files_in(folder: Path) -> dict[str, Path]:
    """{name: path} of the TOKENIZER_FILES in `folder`."""
    return {n: folder / n for n in TOKENIZER_FILES if os.path.exists(folder / n)}


def check_config_class(name: str, config: dict, where: str, pipeline_class: str = "") -> None:
    """Raises ConfigError if a part's config names another class or code of its own."""
    code = [key for key in ("auto_map", "custom_pipelines", "trust_remote_code") if key in config]
    if code:
        raise ConfigError(f"{where}: {listing(code)} would run code from the checkpoint")
    classes = CLASSES.get(pipeline_class, {}).get(name, PARTS[name])[1]
    named = config.get("_class_name")
    if named is not None and classes is not None and named not in classes:
        raise ConfigError(f"{where}: _class_name is {show(named)}, expected {listing(classes)}")
    kind = config.get("model_type")
    if name.startswith("text_encoder") and kind not in (None, "clip_text_model", "clip"):
        raise ConfigError(f"{where}: model_type is {show(kind)}, expected 'clip_text_model'")


def _why_not_class(name: object) -> str:
    if isinstance(name, str) and name in GUIDED_OTHERWISE:
        same = GUIDED_OTHERWISE[name]
        return (
            f"_class_name is {name}, which guides or samples in a way of its own that pyengine does"
            f" not have; its parts are {same}'s: change _class_name to that to draw without it"
        )
    meant = nearest(name, PIPELINES)
    like = f"; the nearest is {meant}" if meant else ""
    return f"_class_name is {show(name)}, expected {listing(PIPELINES)}{like}"


def is_absent(value: object) -> bool:
    """Whether model_index.json says by `value` that there is no such part: null or [null, null]."""
    return is_off(value) or value == [None, None]


def _is_class(value: object) -> bool:
    """Whether `value` is [library, class], as a part is named in model_index.json."""
    return isinstance(value, list) and len(value) == 2 and all(type(v) is str for v in value)


def _class_problem(name: str, value: object, pipeline_class: str) -> str | None:
    if name not in PARTS or (name in OF_TOKENS and name not in PIPELINES[pipeline_class]):
        return (
            f"{show(name)} {show(value)} is no part that pyengine knows ({how_to_ignore([name])})"
        )
    if not _is_class(value):
        return f"{name} should be [library, class], found {show(value)}"
    library, classes = CLASSES.get(pipeline_class, {}).get(name, PARTS[name])
    if value[0] != library or (classes is not None and value[1] not in classes):
        wanted = listing(classes) if classes else "a scheduler"
        return f"{name} is {show(value)}, expected {wanted} of {library}"
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
