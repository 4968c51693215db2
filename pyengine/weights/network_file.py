"""One safetensors file with one network and nothing else; its config is what the shapes say."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint
from .header import SafetensorsFile
from .source import MappedSource, TensorSource

Shapes = Mapping[str, tuple[int, ...]]


class NetworkFile(Checkpoint):
    """A file of a network's tensors under the network's own names: a Layout's `file`.

    Its only component is "model". A subclass has `pipeline_class` and `infer`.
    """

    components: tuple[str, ...] = ("model",)

    def __init__(self, path: str | os.PathLike[str]):
        self.path, self.source = Path(path), str(path)
        self.options: dict[str, bool] = {}
        with self.tensors("model") as source:
            self._shapes = {tensor: source.spec(tensor)[1] for tensor in source}

    def infer(self, shapes: Shapes) -> dict[str, Any]:
        """The config.json that a folder with these tensors would have."""
        raise NotImplementedError

    def where(self, name: str) -> str:
        return f"{self.source}: what its tensors' shapes say"

    def config(self, name: str) -> dict[str, Any]:
        self._check_name(name)
        return self.infer(self._shapes)

    def tensors(self, name: str) -> TensorSource | MappedSource:
        self._check_name(name)
        return TensorSource([SafetensorsFile(self.path)], self.source)
