"""A LoRA file against a pipeline's models: adapters beside their layers."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..branches import Adapter, Difference, Row, Target, weight_of
from ..errors import CheckpointError
from ..weights.quantised import FLOATS_8
from ..weights.text import listing, show
from .file import LoraFile, check_peft, peft_alpha
from .formulas import BESIDE, KINDS, difference, kind_of
from .keys import Key, parse
from .names import Layers
from .ordinal import is_ordinal, is_token, ordered, parse_ordinal
from .presets import Preset, preset_of
from .tensors import LoraTensors

#: Weightings by layer of one LoRA that are kept.
MAX_WEIGHTED = 32


#: What a LoRA is read from.
Opened = LoraFile | LoraTensors


@dataclass(eq=False)
class Lora:
    """A LoRA file, loaded beside a pipeline's models.

    source: its path or Hub id. path: of the file, None where it came as tensors, which `tensors`
    then has. sha256: of it. adapters: by part of the pipeline.
    unfit: names of tensors that the models have no layer for. tokens: names of learnt tokens beside
    it, which are not part of it. preset: the few-step sampler that its metadata names.
    """

    source: str
    path: Path | None
    sha256: str
    adapters: dict[str, Adapter]
    unfit: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    preset: Preset | None = None
    tensors: LoraTensors | None = None
    _weighted: dict[tuple[str, Hashable], Adapter] = field(default_factory=dict, init=False)

    def opened(self) -> Opened:
        """What it was read from, to be read again."""
        if self.tensors is not None:
            return self.tensors
        assert self.path is not None
        return LoraFile(self.path, self.source)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors beside the models."""
        return sum(adapter.nbytes for adapter in self.adapters.values())

    def row(self, part: str, scale: float) -> Row:
        """What a row of a part's batch has of it."""
        own = self.adapters.get(part)
        return () if own is None or scale == 0 else [(own, scale)]

    def weighted(self, part: str, key: Hashable, factor: Callable[[str], float]) -> Adapter | None:
        """A part's adapter with each layer's difference times factor(its name). key: the same for
        the same factors; rows with one adapter are computed together.
        """
        own = self.adapters.get(part)
        made = self._weighted.get((part, key))
        if made is None and own is not None:
            made = own.weighted(factor)
            if len(self._weighted) >= MAX_WEIGHTED:
                self._weighted.clear()
            self._weighted[part, key] = made
        return made

    @property
    def warnings(self) -> list[str]:
        """What of the file was left out, in words."""
        found = []
        if self.unfit:
            found.append(
                f"{self.source}: {len(self.unfit)} tensors fit no layer of this model and were left"
                f" out: {listing(map(show, self.unfit), 8)}"
            )
        if self.tokens:
            found.append(
                f"{self.source}: the learnt tokens {listing(map(show, self.tokens), 8)} are no part"
                " of the LoRA and were left out; load_textual_inversion reads them"
            )
        return found


@dataclass
class _Module:
    """The tensors of one layer: by leaf their names in the file."""

    target: Target
    original: bool
    names: dict[str, str] = field(default_factory=dict)


def read_lora(file: Opened, models: Mapping[str, nn.Module]) -> Lora:
    """The LoRA of a file, for a pipeline's models by part (keys.PARTS).

    Raises CheckpointError that names a tensor: for a file that has none for these models, for
    shapes that are not their layers', for tensors that are no LoRA's, incomplete or not finite.
    """
    check_peft(file.configs, file.source)
    layers = {part: Layers(part, model) for part, model in models.items()}
    modules, unfit, tokens = _matched(file, layers)
    if not modules:
        raise CheckpointError(_no_fit(file, unfit, layers.values()))
    changes: dict[str, dict[str, Difference]] = {}
    for (part, name), module in modules.items():
        changes.setdefault(part, {})[name] = _change(file, part, name, module)
    adapters = {part: Adapter(layers[part].model, own) for part, own in changes.items()}
    return Lora(
        file.source,
        file.path,
        file.sha256,
        adapters,
        tuple(unfit),
        tuple(tokens),
        preset_of(file.metadata, file.source),
        file if isinstance(file, LoraTensors) else None,
    )


def _matched(
    file: Opened, layers: Mapping[str, Layers]
) -> tuple[dict[tuple[str, str], _Module], list[str], list[str]]:
    """(the modules by part and layer, tensors that fit none, learnt tokens)."""
    modules: dict[tuple[str, str], _Module] = {}
    unfit, tokens, unknown = [], [], []
    numbered: dict[str, list[str]] | None = None
    if is_ordinal(file.tensors):
        numbered = {
            part: ordered(part, own.targets, file.metadata, file.source)
            for part, own in layers.items()
            if part != "text_encoder_2"
        }
    for tensor in file.tensors:
        if is_token(tensor, file.metadata):
            tokens.append(tensor)
            continue
        key = parse(tensor)
        if key is None and numbered is not None:
            key = parse_ordinal(tensor, numbered, file.source)
        if key is None:
            unknown.append(tensor)
        elif not _place(file, key, tensor, layers, modules):
            unfit.append(tensor)
    if unknown and (modules or not unfit):
        raise CheckpointError(
            f"{file.source}: {len(unknown)} tensors are of no LoRA format that is known:"
            f" {listing(map(show, unknown), 8)}"
        )
    return modules, [*unfit, *unknown], tokens


def _place(
    file: Opened,
    key: Key,
    tensor: str,
    layers: Mapping[str, Layers],
    modules: dict[tuple[str, str], _Module],
) -> bool:
    """Notes the tensor among its module's; False where no layer is its own.

    Of a layer that is there under diffusers' and under the original code's name, the former wins.
    """
    own = layers.get(key.part)
    found = None if own is None else own.find(key.module, key.flat)
    if own is None or found is None:
        return False
    name, original = found
    module = modules.get((key.part, name))
    if module is None or (module.original and not original):
        module = modules[key.part, name] = _Module(own.targets[name], original)
    elif original and not module.original:
        return True  # the other naming has won
    if key.leaf in module.names:
        raise CheckpointError(
            f"{file.source}: {show(module.names[key.leaf])} and {show(tensor)} are both of {name}"
        )
    module.names[key.leaf] = tensor
    return True


def _change(file: Opened, part: str, name: str, module: _Module) -> Difference:
    """What a module's tensors are to its layer."""
    shape, norm = module.target.shape, len(module.target.shape) == 1
    first = next(iter(module.names.values()))
    kind = kind_of(set(module.names))
    if kind is None or (norm and kind not in ("full", "bias")):
        raise CheckpointError(f"{file.source}: {show(first)}: {_incomplete(module)}")
    _check_sizes(file, module)
    tensors = {leaf: _read(file, tensor) for leaf, tensor in module.names.items()}
    if kind == "LoRA" and "alpha" not in tensors:
        config = file.configs.get(part, file.configs.get("", {}))
        alpha = peft_alpha(config, name, max(len(tensors["down"]), 1), file.source)
        if alpha is not None:
            tensors["alpha"] = torch.tensor(alpha, dtype=torch.float64)
    decomposed = {"dora_scale", "magnitude"} & set(tensors)
    if decomposed and kind == "bias":
        raise CheckpointError(f"{file.source}: {show(first)}: {_incomplete(module)}")
    weight = weight_of(module.target) if decomposed else None
    try:
        change = difference(tensors, shape, weight)
    except CheckpointError as e:
        leaf = str(e).partition(":")[0]
        tensor = module.names.get(leaf, module.names.get("magnitude", first))
        raise CheckpointError(
            f"{file.source}: {show(tensor)}:{str(e).partition(':')[2]}, for {name} of {[*shape]}"
        ) from None
    _check_result(file, change, first)
    return change


def _incomplete(module: _Module) -> str:
    """What is wrong with the tensors that a layer has."""
    leaves = set(module.names)
    own = leaves - BESIDE
    kinds = [kind for kind, known in KINDS.items() if own & known]
    if len(kinds) > 1:
        return f"expected one kind of adapter for a layer, found {' and '.join(kinds)}"
    if len(module.target.shape) == 1:
        return f"expected w_norm and b_norm for a norm, found {', '.join(sorted(leaves))}"
    what = f"the tensors of a {kinds[0]}" if kinds else "a LoRA's tensors"
    return f"expected {what}, found {', '.join(sorted(leaves))} alone"


def _check_sizes(file: Opened, module: _Module) -> None:
    """Refuses dtypes and sizes that no formula takes, before anything is read."""
    biggest = math.prod(module.target.shape)
    for leaf, name in module.names.items():
        dtype, shape = file.tensors.spec(name)
        size = math.prod(shape)
        if leaf == "alpha":
            if size != 1 or dtype.is_complex:
                raise CheckpointError(
                    f"{file.source}: {show(name)}: expected one number, found {dtype} {[*shape]}"
                )
        elif not dtype.is_floating_point:
            raise CheckpointError(
                f"{file.source}: {show(name)}: expected floating-point numbers, found {dtype}"
            )
        elif not size or len(shape) > 4 or size > 4096 * 4096 + 4096 * biggest:
            raise CheckpointError(
                f"{file.source}: {show(name)}: found shape {[*shape]}, for a layer of"
                f" {[*module.target.shape]}"
            )


def _read(file: Opened, name: str) -> Tensor:
    """A tensor as stored; of 64 or 8 bits as float32 or what holds it. Refuses NaN and infinity."""
    dtype = file.tensors.spec(name)[0]
    wide = torch.float32 if dtype == torch.float64 else FLOATS_8.get(dtype, dtype)
    tensor = file.tensors.read(name, wide)
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise CheckpointError(
            f"{file.source}: {show(name)}: expected finite numbers, found NaN or infinity"
        )
    return tensor


def _check_result(file: Opened, change: Difference, first: str) -> None:
    held = (change.down, change.up, change.dense, change.gain, change.bias)
    finite = all(bool(t.isfinite().all()) for t in held if t is not None)
    if not finite or not math.isfinite(change.ratio):
        raise CheckpointError(f"{file.source}: {show(first)}: what it stands for is not finite")


def _no_fit(file: Opened, unfit: list[str], layers: Iterable[Layers]) -> str:
    what = " and ".join(type(own.model).__name__ for own in layers)
    if not unfit:
        return f"{file.source}: expected a LoRA's tensors, found none"
    return (
        f"{file.source}: none of its {len(unfit)} tensors fits a layer of this model ({what}):"
        f" {listing(map(show, unfit), 8)}"
    )
