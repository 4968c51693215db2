"""The LoRAs of a pipeline: loaded ones by name, a folder of them, and what calls ask of them."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..adapters import Lora, Preset, Row, open_lora, read_lora
from ..adapters.fuse import Fused
from ..adapters.lora import Opened
from ..adapters.tags import MAX_SCALE, Tag
from ..adapters.tensors import LoraTensors, no_options
from ..errors import RequestError
from ..jobs import checks
from ..weights.text import did_you_mean, listing, show
from .by_block import attention_of
from .lora_folder import LoraFolder
from .lora_weights import LoraWeight, read_text, read_weight

MAX_NAME = 200
#: LoRAs of one picture.
MAX_LORAS = 64


@dataclass(frozen=True)
class Use:
    """A LoRA in a picture and what it counts there. chosen: by set_adapters, not by the call."""

    name: str
    lora: Lora
    weight: LoraWeight
    chosen: bool = False

    def row(self, part: str) -> Row:
        """What a row of a part's batch has of it."""
        weight = self.weight
        if part != "unet" or not weight.blocks:
            return self.lora.row(part, weight.of(part))
        numbers = dict(weight.blocks)
        own = self.lora.weighted(part, weight, lambda layer: _in_unet(numbers, layer, weight.unet))
        return () if own is None or not own.layers else [(own, 1.0)]

    def scaled(self, factor: float) -> "Use":
        return replace(self, weight=self.weight.scaled(factor))


#: The LoRAs of one picture, or of one prompt.
Uses = tuple[Use, ...]
#: What a call's `lora` may be: of each mapping the values are as read_weight takes them.
LoraArgument = str | Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None


@dataclass(frozen=True)
class FusedUse:
    """A LoRA that was fused into the weights of `parts`. lora: without its adapters, which need not
    stay.
    """

    lora: Lora
    weight: LoraWeight
    parts: tuple[str, ...]


class Loras:
    """What LoRAs a pipeline has. Safe from any thread.

    models: the pipeline's, by part: "unet", "text_encoder", "text_encoder_2".
    """

    def __init__(self, models: Mapping[str, Any]):
        self.models = dict(models)
        self.loaded: dict[str, Lora] = {}
        #: What set_adapters chose.
        self.active: dict[str, LoraWeight] = {}
        self.enabled = True
        self.fused: Fused | None = None
        #: What was fused, loaded still or not.
        self.fused_names: dict[str, FusedUse] = {}
        self.folder: LoraFolder | None = None
        self._lock = threading.RLock()

    @staticmethod
    def moved(old: "Loras | None", models: Mapping[str, Any]) -> "Loras":
        """The same LoRAs for other models, read again; fused ones are fused again."""
        new = Loras(models)
        if old is None:
            return new
        if old.models.keys() == models.keys() and all(
            old.models[n] is m for n, m in models.items()
        ):
            return old
        for name, lora in old.loaded.items():
            with lora.opened() as file:
                new.loaded[name] = read_lora(file, models)
        new.active, new.enabled = old.active, old.enabled
        again = []
        for name, own in old.fused_names.items():
            with own.lora.opened() as file:
                again.append((Use(name, read_lora(file, models), own.weight), own.parts))
        old.unfuse()  # some of the models may be the same
        if old.folder is not None:
            new.folder = LoraFolder(old.folder.path, models)
        new.fuse(again)
        return new

    # --- loading ----------------------------------------------------------------------------------

    def load(self, place: Any, name: str | None, options: Mapping[str, Any]) -> tuple[str, Lora]:
        """(the LoRA's name, the LoRA); name None: the file's."""
        with opened_lora(place, options) as file:
            if name is None and file.path is None:
                raise RequestError("name: expected one for tensors, which are in no file")
            name = check_name("name", file.path.stem if name is None and file.path else name)
            with self._lock:
                self._check_free(name)
            lora = read_lora(file, self.models)
        with self._lock:
            self._check_free(name)
            self.loaded[name] = lora
        return name, lora

    def is_free(self, name: str) -> bool:
        """Whether no LoRA is loaded, or was fused into the weights, under that name."""
        return name not in self.loaded and name not in self.fused_names

    def _check_free(self, name: str) -> None:
        if name not in self.loaded and not self.is_free(name):
            raise RequestError(
                f"name: a LoRA {show(name)} is fused into the weights; unfuse_lora()"
                " first, or name this one otherwise"
            )
        if name in self.loaded:
            raise RequestError(
                f"name: a LoRA {show(name)} is loaded already; unload it first, or"
                " name this one otherwise"
            )

    def unload(self, name: Any, argument: str = "name") -> None:
        with self._lock:
            self.get(name, argument, folder=False)
            if name in self.fused_names:
                raise RequestError(
                    f"{argument}: {show(name)} is fused into the weights; call unfuse_lora() first"
                )
            del self.loaded[name]
            self.active.pop(name, None)

    def clear(self) -> None:
        with self._lock:
            self.loaded.clear()
            self.active.clear()
            self.enabled = True

    def get(self, name: Any, argument: str = "lora", folder: bool = True) -> Lora:
        """The LoRA of that name, out of the folder where it is not loaded."""
        if not isinstance(name, str):
            raise checks.refuse(argument, "a LoRA's name", name)
        with self._lock:
            lora = self.loaded.get(name)
            if lora is None and folder and self.folder is not None:
                lora = self.folder.get(name)
            if lora is not None:
                return lora
            known = self.names(folder)
        raise RequestError(
            f"{argument}: no LoRA is named {show(name)}; there are"
            f" {listing(map(show, known), 8) or 'none'}{did_you_mean(name, known)}"
        )

    def names(self, folder: bool = True) -> tuple[str, ...]:
        """Those that are loaded, and those of the folder."""
        with self._lock:
            files = self.folder.files() if folder and self.folder is not None else ()
            return tuple(dict.fromkeys([*self.loaded, *files]))

    # --- fusing -----------------------------------------------------------------------------------

    def fuse(self, wanted: Iterable[tuple[Use, tuple[str, ...]]]) -> None:
        """Merges LoRAs, with what each counts, into the weights of these parts."""
        with self._lock:
            for use, parts in wanted:
                self.fused = self.fused or Fused()
                for part in parts:
                    for adapter, scale in use.row(part):
                        self.fused.add(adapter, scale, self.models[part].dtype)
                light = replace(use.lora, adapters={})
                self.fused_names[use.name] = FusedUse(light, use.weight, parts)

    def unfuse(self) -> None:
        with self._lock:
            if self.fused is not None:
                self.fused.undo()
            self.fused = None
            self.fused_names.clear()

    def shown_fused(self) -> dict[str, dict[str, Any]]:
        """What reports say of the LoRAs that are fused: their scales, the file's hash."""
        with self._lock:
            return {
                name: {
                    **own.weight.of_parts(own.parts).shown,
                    "sha256": own.lora.sha256,
                    "fused": True,
                }
                for name, own in self.fused_names.items()
            }

    # --- what calls ask ---------------------------------------------------------------------------

    def by_default(self) -> Uses:
        """What a call that names none has: what set_adapters chose."""
        with self._lock:
            if not self.enabled:
                return ()
            return tuple(
                Use(name, self.loaded[name], weight, chosen=True)
                for name, weight in self.active.items()
                if name not in self.fused_names
            )

    def uses(self, given: Any) -> Uses:
        """What one mapping {name: weight}, or text "name:weight,name", asks for."""
        if not isinstance(given, str | Mapping):
            raise checks.refuse("lora", "{name: weight}, a list of such or None", given)
        pairs = read_text(given) if isinstance(given, str) else list(given.items())
        _check_count("lora", pairs)
        return _merged(
            Use(name, self.get(name), self.read_weight(f"lora: {show(name)}", weight))
            for name, weight in pairs
        )

    def read_weight(self, field: str, value: Any) -> LoraWeight:
        """What a LoRA counts, as calls and set_adapters say it; see lora_weights.read_weight."""
        unet = self.models.get("unet")
        names = () if unet is None else unet.cross_attentions
        return read_weight(field, value, [*map(attention_of, names)])

    def tagged(self, tags: Sequence[Tag]) -> Uses:
        """What a prompt's tags ask for."""
        _check_count("prompt", tags)
        return _merged(
            Use(t.name, self.get(t.name, "prompt"), LoraWeight(t.unet, t.text)) for t in tags
        )

    def rows(self, part: str, uses: Sequence[Uses]) -> list[Row]:
        """What rows of a part's batch have, of each picture or prompt; [] where none has any."""
        always = (
            []
            if self.fused is None
            else [
                (adapter, scale)
                for adapter, scale in self.fused.left
                if set(adapter.layers) & set(self.models[part].modules())
            ]
        )
        found = [[*always, *(own for use in row for own in use.row(part))] for row in uses]
        return [*found] if any(found) else []


def _check_count(field: str, items: Sequence[Any]) -> None:
    if len(items) > MAX_LORAS:
        raise checks.refuse(field, f"at most {MAX_LORAS} LoRAs", f"{len(items)} of them")


def _merged(uses: Iterable[Use]) -> Uses:
    """Those of one name together: what is asked for twice counts the sum."""
    found: dict[str, Use] = {}
    for use in uses:
        before = found.get(use.name)
        found[use.name] = (
            use
            if before is None
            else replace(
                before, weight=before.weight.plus(use.weight), chosen=before.chosen and use.chosen
            )
        )
    return tuple(found.values())


def _in_unet(numbers: Mapping[str, float], layer: str, other: float) -> float:
    """What a layer of the U-Net counts where its attentions have `numbers`. As in diffusers a
    block's other layers count what its attention of the same number does; those beside an
    attention of the middle, and all others, count `other`.
    """
    parts = layer.split(".")
    if len(parts) > 3 and parts[0] in ("down_blocks", "up_blocks"):
        return numbers.get(".".join((*parts[:2], "attentions", parts[3])), other)
    return numbers.get(attention_of(layer), other)


def opened_lora(place: Any, options: Mapping[str, Any]) -> Opened:
    """What load_lora takes: a file, a folder, a Hub id or tensors by name."""
    if not isinstance(place, Mapping):
        return open_lora(place, **options)
    no_options(options)
    return LoraTensors(place)


def check_name(argument: str, name: Any) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise checks.refuse(argument, f"a name of 1 to {MAX_NAME} characters", name)
    return name


def lora_factor(argument: str, value: Any) -> float:
    """What all LoRAs' weights are multiplied by; 1 for None."""
    return 1.0 if value is None else checks.real(argument, value, -MAX_SCALE, MAX_SCALE)


def cross_attention_scale(value: Any) -> float:
    """diffusers' cross_attention_kwargs, of which the LoRAs' scale is read."""
    if value is None:
        return 1.0
    if not isinstance(value, Mapping) or set(value) - {"scale"}:
        raise checks.refuse("cross_attention_kwargs", '{"scale": a number} or None', value)
    return lora_factor("cross_attention_kwargs: scale", value.get("scale"))


def shown_uses(
    pictures: Sequence[Uses], count: int, fused: Mapping[str, dict[str, Any]]
) -> list[dict[str, dict[str, Any]]]:
    """What a report says of the LoRAs of each of `count` pictures; [] where none has any. pictures:
    () for none. fused: see Loras.shown_fused.
    """
    shown = [{**fused, **{u.name: _shown(u) for u in uses}} for uses in pictures or ((),) * count]
    return shown if any(shown) else []


def _shown(use: Use) -> dict[str, Any]:
    chosen = {"chosen": True} if use.chosen else {}
    return {**use.weight.shown, "sha256": use.lora.sha256, **chosen}


# --- of one call ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What a call asks of LoRAs: of all pictures, or of each prompt or picture in turn."""

    each: tuple[Uses, ...]
    one_for_all: bool

    def of_pictures(self, count: int, batch: int) -> tuple[Uses, ...]:
        """For each of `count` pictures of `batch` prompts."""
        if self.one_for_all:
            return self.each * count
        if len(self.each) not in (count, batch):
            raise checks.refuse(
                "lora", f"one mapping, or one per prompt: {batch}", f"{len(self.each)} of them"
            )
        return tuple(u for u in self.each for _ in range(count // len(self.each)))

    def preset(self, warned: list[str]) -> Preset | None:
        """The few-step sampler that all pictures' LoRAs were made for."""
        found = [next((u.lora.preset for u in uses if u.lora.preset), None) for uses in self.each]
        if len(set(found)) > 1:
            warned.append(
                "lora: some of the pictures' LoRAs are for few steps and others are not: the"
                " sampler, steps and guidance are not theirs unless the call says them"
            )
            return None
        return found[0] if found else None


def asked(
    loras: Loras, lora: Any, tags: Sequence[Sequence[Tag]], scale: float, warned: list[str]
) -> Asked:
    """What a call asks. tags: of each prompt. scale: of cross_attention_kwargs."""
    base: tuple[Uses, ...]
    if lora is None:
        base, one = (loras.by_default(),), True
    elif isinstance(lora, list | tuple):
        if not 1 <= len(lora) <= checks.MAX_PICTURES:
            raise checks.refuse("lora", f"1 to {checks.MAX_PICTURES} mappings", len(lora))
        base, one = tuple(() if own is None else loras.uses(own) for own in lora), False
    else:
        base, one = (loras.uses(lora),), True
    if any(tags):
        base, one = _with_tags(loras, base, one, tags)
    if scale != 1 and not any(base):
        warned.append("cross_attention_kwargs: scale changes nothing: no LoRA is in use")
    return Asked(tuple(tuple(u.scaled(scale) for u in uses) for uses in base), one)


def _with_tags(
    loras: Loras, base: tuple[Uses, ...], one: bool, tags: Sequence[Sequence[Tag]]
) -> tuple[tuple[Uses, ...], bool]:
    own = [loras.tagged(of_prompt) for of_prompt in tags]
    if one:
        return tuple(_merged(base[0] + more) for more in own), False
    if len(base) % len(own):
        raise checks.refuse(
            "lora", f"one mapping, or one per prompt: {len(own)}", f"{len(base)} of them"
        )
    each = len(base) // len(own)
    return tuple(_merged(uses + own[i // each]) for i, uses in enumerate(base)), False
