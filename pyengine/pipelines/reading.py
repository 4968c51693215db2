"""What families' builders share: what is asked of them, and the reading of a checkpoint's parts."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..tokenizer import ClipTokenizer
from ..weights import Checkpoint, load_json, load_module, open_weights, read_config
from ..weights.files import allowed_roots
from ..weights.layout import find
from ..weights.text import listing, show
from .arguments import bounds
from .registry import Family, class_name, family_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: A checkpoint's own defaults for a call; diffusers does not read it.
DEFAULTS_FILE = "pyengine.json"

#: Tokens of all drafts together.
MAX_DRAFTED = 1 << 22

D = TypeVar("D", bound="DataclassInstance")


@dataclass(frozen=True)
class Load:
    """What a family's builder is asked for.

    source: what to call the checkpoint. weights: one of the family's tiers, or None. wanted: the
    pipeline's class, where it is not the family's own. given: parts in place of the checkpoint's,
    scheduler in place of its own: of families that take them. beside: ControlNets and adapters, by
    keyword, of families that take them; hub: adapters.places.Hub, for those that come by place.
    """

    checkpoint: Checkpoint
    source: str
    device: torch.device
    dtype: torch.dtype
    weights: str | None = None
    wanted: Any = None
    given: dict[str, Any] = field(default_factory=dict)
    scheduler: Any = None
    beside: dict[str, Any] = field(default_factory=dict)
    hub: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The class of pipelines that the checkpoint names."""
        return self.checkpoint.pipeline_class

    @property
    def family(self) -> Family:
        return family_of(self.kind)

    @property
    def pipeline_class(self) -> Any:
        return self.family.pipeline_class if self.wanted is None else self.wanted

    @property
    def name(self) -> str:
        """What the pipeline goes by among diffusers' classes."""
        return self.kind if self.wanted is None else class_name(self.wanted)

    def networks(self) -> dict[str, Any]:
        """The classes of the models that the checkpoint has, by part."""
        parts = self.family.parts
        return {name: self._network(name) for name in parts if name in self.checkpoint.models}

    def _network(self, name: str) -> Any:
        part = self.family.parts[name]
        if not part.others or name in self.given:
            return find(part.network)
        return part.network_of(self.checkpoint.config(name))

    def defaults(self) -> Any:
        """The checkpoint's pyengine.json over the pipeline's own defaults."""
        own = self.family if self.wanted is None else self.wanted
        return read_defaults(self.checkpoint, own.defaults_class)

    def configs(
        self, names: Iterable[str], where: Callable[[str], str] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(parsed configs, tensors) of these models, by part. where: what errors call a config."""
        networks, configs, sources = self.networks(), {}, {}
        for name in names:
            data, sources[name] = self.checkpoint.component(name)
            place = f"{self.source}: {name}/config.json" if where is None else where(name)
            configs[name] = networks[name].config_class.from_dict(data, place)
        return configs, sources

    def network(self, name: str, config: Any, source: Any, upcast: bool = False) -> Any:
        """A model with its weights; the family's main part has them in the tier asked for.

        upcast: in float32 where float16 is asked for, in which some decoders overflow.
        """
        upcast = upcast and self.dtype == torch.float16
        return load_module(
            self.networks()[name].from_config(config),
            source,
            dtype=torch.float32 if upcast else self.dtype,
            device=self.device,
            weights=self.weights if name == self.family.main else None,
        )

    def compare(self, check: Callable[..., None], *configs: Any) -> None:
        """Runs a check of configs with one another; its errors name the checkpoint."""
        try:
            check(*configs)
        except ConfigError as e:
            raise ConfigError(f"{self.source}: {e}") from None


def read_tokenizer(checkpoint: Checkpoint, encoder: str, config: Any) -> ClipTokenizer:
    name = encoder.replace("text_encoder", "tokenizer")
    files = checkpoint.tokenizer_files(name)
    where = f"{checkpoint.source}: {name}"
    tokenizer = ClipTokenizer.from_files(files, where, checkpoint.tokenizer_pad(name))
    if tokenizer.size > config.vocab_size:
        raise ConfigError(
            f"{where}: ids up to {tokenizer.size - 1}, but {encoder}'s vocab_size is"
            f" {config.vocab_size}"
        )
    return tokenizer


def read_defaults(checkpoint: Checkpoint, cls: type[D]) -> D:
    """The checkpoint's pyengine.json over the pipeline's own defaults."""
    folder = getattr(checkpoint, "folder", None)
    path = None if folder is None else Path(folder) / DEFAULTS_FILE
    if path is None or not path.exists():
        return cls()
    json = load_json(path, max_bytes=1 << 16, roots=allowed_roots(path.parent))
    names = [f.name for f in fields(cls)]
    return read_config(cls, json, str(path), of_checkpoint=False, bounds=bounds(names))


def read_drafts(checkpoint: Checkpoint, part: str, side: int, codes: int) -> Tensor | None:
    """[M, side * side] int64: the drafts, int16 or int32 [M, side, side], that lie beside a part's
    config as model.safetensors; None where there are none. They change no picture: see drafts.py.
    """
    folder = getattr(checkpoint, "folder", None)
    if folder is None or not (Path(folder) / part / "model.safetensors").exists():
        return None
    with open_weights(folder, subfolder=part) as source:
        where = source.where
        if source.keys() != ["drafts"]:
            raise CheckpointError(
                f"{where}: expected one tensor, drafts, found {listing(map(show, source.keys()))}"
            )
        dtype, shape = source.spec("drafts")
        whole = dtype in (torch.int16, torch.int32) and len(shape) == 3 and shape[0] > 0
        if not whole or shape[1:] != (side, side) or math.prod(shape) > MAX_DRAFTED:
            raise CheckpointError(
                f"{where}: drafts: expected int16 or int32 [M, {side}, {side}],"
                f" at most {MAX_DRAFTED} in all, found {dtype}"
                f" {list(shape)}"
            )
        drafts = source.read("drafts").long().flatten(1)
    low, high = int(drafts.min()), int(drafts.max())
    if low < 0 or high >= codes:
        raise CheckpointError(
            f"{where}: drafts: expected tokens 0 to {codes - 1}, found {low} to {high}"
        )
    return drafts
