"""A folder with one model that draws by itself, as transformers saves it: config.json, weights."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from .checkpoint import Checkpoint, tokenizer_files_in
from .config import check_ignored, ignoring
from .files import allowed_roots, check_inside
from .jsonio import load_json
from .source import TensorSource, available_variants, check_variant, open_weights
from .text import listing, show

#: model_type in config.json: what stands for a pipeline's class.
MODEL_TYPES = {
    "imagegpt": "ImageGPTForCausalImageModeling",
    "janus": "JanusForConditionalGeneration",
}
#: By pipeline class: files besides config.json and the weights, without which there is no picture.
NEEDED_FILES = {
    "ImageGPTForCausalImageModeling": ("preprocessor_config.json",),
    "JanusForConditionalGeneration": ("generation_config.json", "tokenizer.json"),
}
#: Names of other JSON files of the folder, as `config` takes them.
OTHER_FILES = {
    "pictures": "preprocessor_config.json",
    "generation": "generation_config.json",
}


class SingleModelCheckpoint(Checkpoint):
    """A folder that holds config.json and the weights of one of MODEL_TYPES.

    Its components are "model" and, where there are such files, "tokenizer".
    """

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
        kind = self.config("model").get("model_type")
        if kind not in MODEL_TYPES:
            raise CheckpointError(
                f"{self.where('model')}: model_type is {show(kind)}, expected"
                f" {listing(MODEL_TYPES)}"
            )
        self.pipeline_class = MODEL_TYPES[kind]
        self.components = ("model",)
        self.options = {}
        if tokenizer_files_in(self.folder):
            self.components += ("tokenizer",)
        found = available_variants(self.folder)
        if variant and variant not in found:
            known = sorted(v for v in found if v)
            raise CheckpointError(
                f"{self.folder}: no weights of variant {show(variant)};"
                f" it has {listing(known) or 'none but the plain ones'}"
            )

    def where(self, name: str) -> str:
        return str(self.folder / OTHER_FILES.get(name, "config.json"))

    def config(self, name: str) -> dict:
        """config.json ("model"), or one of OTHER_FILES."""
        config = load_json(self.where(name), roots=self._roots)
        code = [key for key in ("auto_map", "trust_remote_code") if key in config]
        if code:
            raise ConfigError(f"{self.where(name)}: {listing(code)} would run code")
        return ignoring(config, self.ignored)

    def tensors(self, name: str) -> TensorSource:
        self._check_name(name, ("model",))
        return open_weights(self.folder, variant=self.variant)

    def tokenizer_files(self, name: str) -> dict[str, Path]:
        self._check_name(name, ("tokenizer",))
        files = tokenizer_files_in(self.folder)
        for path in files.values():
            check_inside(path, self._roots)
        return files


def holds_single_model(folder: Path) -> bool:
    """Whether `folder` is one of these: no model_index.json, and a config.json that says so.

    Raises CheckpointError where that config.json leads outside the folder.
    """
    config, roots = folder / "config.json", allowed_roots(folder)
    if os.path.lexists(folder / "model_index.json") or not os.path.isfile(config):
        return False
    check_inside(config, roots)
    try:
        kind = load_json(config, roots=roots).get("model_type")
    except CheckpointError:
        return False  # FolderCheckpoint says what is wrong
    return isinstance(kind, str) and kind in MODEL_TYPES
