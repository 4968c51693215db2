"""A folder with one model that draws by itself, as transformers saves it: config.json, weights."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from .checkpoint import Checkpoint, tokenizer_files_in
from .config import check_ignored, ignoring
from .files import allowed_roots, check_inside
from .jsonio import load_json
from .layout import expected_model_types, layout_of_model
from .source import TensorSource, available_variants, check_variant, open_weights
from .text import listing, show


class SingleModelCheckpoint(Checkpoint):
    """A folder that holds config.json and the weights of one model that draws by itself.

    Its components are "model" and, where there are such files, "tokenizer".
    """

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
        self._roots = allowed_roots(self.folder)
        config = self._read("config.json")
        layout = layout_of_model(config)
        if layout is None:
            raise CheckpointError(
                f"{self.folder / 'config.json'}: model_type is {show(config.get('model_type'))},"
                f" expected {expected_model_types()}"
            )
        self.pipeline_class = layout.classes[0]
        self.components = ("model",)
        self.options = {}
        if "tokenizer" in layout.parts and tokenizer_files_in(self.folder):
            self.components += ("tokenizer",)
        found = available_variants(self.folder)
        if variant and variant not in found:
            known = sorted(v for v in found if v)
            raise CheckpointError(
                f"{self.folder}: no weights of variant {show(variant)};"
                f" it has {listing(known) or 'none but the plain ones'}"
            )

    def where(self, name: str) -> str:
        return str(self.folder / self.layout.files.get(name, "config.json"))

    def config(self, name: str) -> dict[str, Any]:
        """config.json ("model"), or another JSON file that the layout names."""
        return self._read(self.layout.files.get(name, "config.json"))

    def _read(self, file: str) -> dict[str, Any]:
        path = str(self.folder / file)
        config = load_json(path, roots=self._roots)
        code = [key for key in ("auto_map", "trust_remote_code") if key in config]
        if code:
            raise ConfigError(f"{path}: {listing(code)} would run code")
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
        return layout_of_model(load_json(config, roots=roots)) is not None
    except CheckpointError:
        return False  # FolderCheckpoint says what is wrong
