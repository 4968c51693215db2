"""The folder of LoRAs that calls and prompts may name."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..adapters import Lora, LoraFile, read_lora
from ..errors import CheckpointError, PyengineError
from ..jobs import checks
from ..jobs.output import issue
from ..weights.files import allowed_roots, is_inside, list_folder
from ..weights.text import show

#: Bytes of the tensors of LoRAs out of a folder that stay loaded; the one that was not asked for
#: the longest time goes first. One of rank 32 for SDXL's attentions takes some 200 MB.
CACHE_BYTES = 2 << 30


class LoraFolder:
    """A folder of LoRA files, each known by its name without .safetensors; some stay loaded.

    Names come from strangers' prompts: only files that lie in the folder itself are found.
    """

    def __init__(self, path: Path, models: Mapping[str, Any]):
        self.path, self._models = path, models
        self._kept: OrderedDict[str, Lora] = OrderedDict()

    def files(self) -> list[str]:
        """The names, sorted."""
        ends = ".safetensors"
        return [n.removesuffix(ends) for n in list_folder(self.path) if n.endswith(ends)]

    def get(self, name: str) -> Lora | None:
        """The LoRA of that name; None where there is none. Raises PyengineError for one that does
        not fit, in words without the folder's place, since a server's clients read them.
        """
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        if name not in self.files():
            return None
        path = self.path / f"{name}.safetensors"
        roots = allowed_roots(self.path)
        if not is_inside(path, roots):
            raise CheckpointError(f"lora {show(name)}: a link that leads outside of its folder")
        try:
            with LoraFile(path, f"lora {show(name)}", roots) as file:
                lora = self._kept[name] = read_lora(file, self._models)
        except PyengineError as e:
            raise type(e)(str(e).replace(str(path), f"lora {show(name)}")) from None
        issue(lora.warnings)
        while len(self._kept) > 1 and sum(own.nbytes for own in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return lora


def find_folder(value: Any, models: Mapping[str, Any]) -> LoraFolder | None:
    """The folder that lora_dir= names; None for None."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.path.isdir(os.path.expanduser(value)):
        raise checks.refuse("lora_dir", "a folder of .safetensors files", value)
    return LoraFolder(Path(os.path.expanduser(value)), models)
