"""The LoRAs of a pipeline: loaded ones by name, a folder of them, and what calls ask of them."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..adapters import Lora, LoraFile, Preset, Row, open_lora, read_lora
from ..adapters.fuse import Fused
from ..adapters.tags import MAX_SCALE, Tag
from ..errors import RequestError
from ..jobs import checks
from ..jobs.output import issue
from ..weights.files import allowed_roots, list_folder
from ..weights.text import did_you_mean, listing, show

#: Bytes of the tensors of LoRAs out of a folder that stay loaded; the one that was not asked for
#: the longest time goes first. One of rank 32 for SDXL's attentions takes some 200 MB.
CACHE_BYTES = 2 << 30
MAX_NAME = 200
#: LoRAs of one picture.
MAX_LORAS = 64


@dataclass(frozen=True)
class Use:
    """A LoRA in a picture: what it counts in each part. text_2: in SDXL's second text encoder;
    None: as `text`.
    """

    name: str
    lora: Lora
    unet: float
    text: float
    text_2: float | None = None

    def scale(self, part: str) -> float:
        if part == "text_encoder_2" and self.text_2 is not None:
            return self.text_2
        return self.unet if part == "unet" else self.text

    def scaled(self, factor: float) -> "Use":
        if factor == 1:
            return self
        second = None if self.text_2 is None else factor * self.text_2
        return replace(self, unet=factor * self.unet, text=factor * self.text, text_2=second)


#: The LoRAs of one picture, or of one prompt.
Uses = tuple[Use, ...]
#: What a call's `lora` may be.
LoraArgument = str | Mapping[str, float] | Sequence[Mapping[str, float] | None] | None
#: The parts of a pipeline that LoRAs may change.
ADAPTED = ("unet", "text_encoder", "text_encoder_2")


class Loras:
    """What LoRAs a pipeline has. Safe from any thread.

    models: the pipeline's, by part: "unet", "text_encoder", "text_encoder_2".
    """

    def __init__(self, models: Mapping[str, Any]):
        self.models = dict(models)
        self.loaded: dict[str, Lora] = {}
        #: What set_adapters chose: by name the scale of each part.
        self.active: dict[str, dict[str, float]] = {}
        self.enabled = True
        self.fused: Fused | None = None
        #: What was fused: by name the scale of each part.
        self.fused_names: dict[str, dict[str, float]] = {}
        self.folder: LoraFolder | None = None
        self._lock = threading.RLock()

    @staticmethod
    def moved(old: "Loras | None", models: Mapping[str, Any]) -> "Loras":
        """The same LoRAs for other models, read again; fused ones are fused again."""
        new = Loras(models)
        if old is None:
            return new
        if old.models.keys() == models.keys() and all(old.models[n] is m for n, m in
                                                      models.items()):  # fmt: skip
            return old
        for name, lora in old.loaded.items():
            with LoraFile(lora.path, lora.source) as file:
                new.loaded[name] = read_lora(file, models)
        new.active, new.enabled = old.active, old.enabled
        fused = ((n, own) for n, own in old.fused_names.items() if n in new.loaded)
        again = [(n, scale, (part,)) for n, own in fused for part, scale in own.items()]
        old.unfuse()  # some of the models may be the same
        if old.folder is not None:
            new.folder = LoraFolder(old.folder.path, models)
        new.fuse(again)
        return new

    # --- loading ----------------------------------------------------------------------------------

    def load(self, place: Any, name: str | None, options: Mapping[str, Any]) -> tuple[str, Lora]:
        """(the LoRA's name, the LoRA); name None: the file's."""
        with open_lora(place, **options) as file:
            name = check_name("name", file.path.stem if name is None else name)
            with self._lock:
                self._check_free(name)
            lora = read_lora(file, self.models)
        with self._lock:
            self._check_free(name)
            self.loaded[name] = lora
        return name, lora

    def _check_free(self, name: str) -> None:
        if name in self.loaded:
            raise RequestError(f"name: a LoRA {show(name)} is loaded already; unload it first, or"
                               " name this one otherwise")  # fmt: skip

    def unload(self, name: Any, argument: str = "name") -> None:
        with self._lock:
            self.get(name, argument, folder=False)
            if name in self.fused_names:
                raise RequestError(f"{argument}: {show(name)} is fused into the weights; call"
                                   " unfuse_lora() first")  # fmt: skip
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

    def fuse(self, wanted: Iterable[tuple[str, float, tuple[str, ...]]]) -> None:
        """Merges LoRAs, with a scale each, into the weights of these parts."""
        with self._lock:
            for name, scale, parts in wanted:
                lora = self.get(name, "adapter_names", folder=False)
                self.fused = self.fused or Fused()
                for part in parts:
                    if part in lora.adapters:
                        own = self.models[part].dtype
                        self.fused.add(lora.adapters[part], scale, own)
                self.fused_names.setdefault(name, {}).update(dict.fromkeys(parts, scale))

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
                    "weight": own.get("unet", 0.0),
                    "text": own.get("text_encoder", 0.0),
                    "sha256": self.loaded[name].sha256,
                    "fused": True,
                }
                for name, own in self.fused_names.items()
                if name in self.loaded
            }

    # --- what calls ask ---------------------------------------------------------------------------

    def by_default(self) -> Uses:
        """What a call that names none has: what set_adapters chose."""
        with self._lock:
            if not self.enabled:
                return ()
            return tuple(
                Use(name, self.loaded[name], s["unet"], s["text_encoder"], s["text_encoder_2"])
                for name, s in self.active.items()
                if name not in self.fused_names
            )

    def uses(self, given: Any) -> Uses:
        """What one mapping {name: scale}, or text "name:scale,name", asks for."""
        if isinstance(given, str):
            given = _from_text(given)
        if not isinstance(given, Mapping):
            raise checks.refuse("lora", "{name: weight}, a list of such or None", given)
        if len(given) > MAX_LORAS:
            raise checks.refuse("lora", f"at most {MAX_LORAS} of them", f"{len(given)} of them")
        found = []
        for name, weight in given.items():
            lora = self.get(name)
            scale = checks.real(f"lora: {show(name)}", weight, -MAX_SCALE, MAX_SCALE)
            found.append(Use(name, lora, scale, scale))
        return tuple(found)

    def tagged(self, tags: Sequence[Tag]) -> Uses:
        """What a prompt's tags ask for."""
        if len(tags) > MAX_LORAS:
            raise checks.refuse("prompt", f"at most {MAX_LORAS} LoRAs", f"{len(tags)} of them")
        return tuple(Use(t.name, self.get(t.name, "prompt"), t.unet, t.text) for t in tags)

    def rows(self, part: str, uses: Sequence[Uses]) -> list[Row]:
        """What rows of a part's batch have, of each picture or prompt; [] where none has any."""
        always = [] if self.fused is None else [
            (adapter, scale) for adapter, scale in self.fused.left
            if set(adapter.layers) & set(self.models[part].modules())
        ]  # fmt: skip
        found = [
            [*always, *(own for use in row for own in use.lora.row(part, use.scale(part)))]
            for row in uses
        ]
        return [*found] if any(found) else []


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
        """The LoRA of that name; None where there is none."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        if name not in self.files():
            return None
        path = self.path / f"{name}.safetensors"
        with LoraFile(path, str(path), allowed_roots(self.path)) as file:
            lora = self._kept[name] = read_lora(file, self._models)
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


def check_name(argument: str, name: Any) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise checks.refuse(argument, f"a name of 1 to {MAX_NAME} characters", name)
    return name


def _from_text(text: str) -> dict[str, float]:
    """a:0.8,b as {"a": 0.8, "b": 1.0}."""
    found: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, weight = item.rpartition(":")
        try:
            own = {name: float(weight)} if colon else {item: 1.0}
        except ValueError:
            raise checks.refuse("lora", "NAME:WEIGHT", item) from None
        found |= own
    if not found:
        raise checks.refuse("lora", "NAME:WEIGHT, separated by commas", text)
    return found


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
    shown = [
        {
            **fused,
            **{u.name: {"weight": u.unet, "text": u.text, "sha256": u.lora.sha256} for u in uses},
        }
        for uses in pictures or ((),) * count
    ]
    return shown if any(shown) else []


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
            raise checks.refuse("lora", f"one mapping, or one per prompt: {batch}",
                                f"{len(self.each)} of them")  # fmt: skip
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
        return tuple(base[0] + more for more in own), False
    if len(base) % len(own):
        raise checks.refuse("lora", f"one mapping, or one per prompt: {len(own)}",
                            f"{len(base)} of them")  # fmt: skip
    each = len(base) // len(own)
    return tuple(uses + own[i // each] for i, uses in enumerate(base)), False
