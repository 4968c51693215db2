"""LoRAs of a pipeline: load_lora and unload_lora, and diffusers' names for what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...adapters import Preset, Tag, find_preset, find_tags
from ...adapters.tags import has_tags
from ...cuda import within_memory
from ...errors import RequestError
from ...guard import inference
from ...jobs import checks
from ...jobs.output import issue
from ...jobs.runs import Run, Runs
from ...weights.text import listing, show
from ..lora_folder import find_folder
from ..lora_weights import ADAPTED, LoraWeight
from ..loras import Loras, Use, asked, lora_factor

#: Keywords of diffusers' load_lora_weights that find the file, as adapters.open_lora takes them.
_FINDS = (
    "weight_name", "subfolder", "revision", "cache_dir", "token", "local_files_only",
    "force_download",
)  # fmt: skip
#: Those that cost or change nothing here.
_ACCEPTED = ("low_cpu_mem_usage", "use_safetensors", "proxies", "user_agent", "resume_download")


class LoraNames:
    """Base of the pipelines whose U-Nets and text encoders take LoRAs."""

    _loras: Loras
    _runs: Runs
    _loaded: object
    _preset: Preset | None = None
    device: Any
    scheduler: Any
    defaults: Any

    def _release(self) -> None:
        raise NotImplementedError

    # --- ours -------------------------------------------------------------------------------------

    @inference
    def load_lora(self, place: Any, name: str | None = None, **where: Any) -> str:
        """Loads a LoRA beside the models and returns its name; calls name it: lora={name: 0.8}.

        place: a .safetensors file, a folder that holds one, a Hub id, or tensors by name, which are
        copied. name: the file's unless told; tensors need one. where: weight_name, subfolder,
        revision, cache_dir, token, local_files_only, force_download, for folders and Hub ids.
        The models' weights stay as they are. Warns of tensors that fit no layer.
        Raises CheckpointError that names a tensor, for a file that does not fit or is no LoRA;
        RequestError for a name that is taken.
        """
        unknown = sorted(set(where) - set(_FINDS))
        if unknown:
            raise RequestError(f"load_lora: expected some of {', '.join(_FINDS)}, given"
                               f" {', '.join(map(show, unknown))}")  # fmt: skip
        advice = "a LoRA of a smaller rank, or fewer of them, would help"
        name, lora = within_memory(lambda: self._loras.load(place, name, where), advice)
        issue(lora.warnings)
        return name

    def unload_lora(self, name: str) -> None:
        """Forgets a LoRA. Pictures have the bits that they had before it was loaded."""
        self._loras.unload(name)

    @property
    def lora_dir(self) -> str | None:
        """A folder of LoRAs that calls and prompts (<lora:name:0.8>) may name; None for none.

        What it holds is loaded when it is asked for; at most 2 GB stay loaded.
        """
        folder = self._loras.folder
        return None if folder is None else str(folder.path)

    @lora_dir.setter
    def lora_dir(self, value: Any) -> None:
        self._loras.folder = find_folder(value, self._loras.models)

    @property
    def lora_names(self) -> tuple[str, ...]:
        """LoRAs that calls may name: those that are loaded, and those of the folder."""
        return self._loras.names()

    @property
    def preset(self) -> str | None:
        """The few-step model that calls draw as: see `pyengine.adapters.PRESETS`. Setting it sets
        the scheduler and the defaults of steps and guidance.
        """
        return None if self._preset is None else self._preset.name

    @preset.setter
    def preset(self, value: Any) -> None:
        preset = find_preset(value)
        self.scheduler = preset.scheduler
        if preset.spacing is not None:
            self.scheduler.register_to_config(timestep_spacing=preset.spacing)
        self.defaults = replace(
            self.defaults, num_inference_steps=preset.steps, guidance_scale=preset.guidance_scale
        )
        self._preset = preset

    # --- diffusers' -------------------------------------------------------------------------------

    def load_lora_weights(
        self, pretrained_model_name_or_path_or_dict: Any, adapter_name: str | None = None,
        hotswap: bool = False, **keywords: Any,
    ) -> None:  # fmt: skip
        """As load_lora; and as in diffusers it alone is active from now on, with weight 1, until
        set_adapters says otherwise.

        adapter_name: "default_0" and so on unless told.
        """
        if hotswap:
            raise RequestError("hotswap: expected False: nothing is compiled anew for a LoRA")
        where = {k: v for k, v in keywords.items() if k not in _ACCEPTED}
        if adapter_name is None:
            number = 0
            while not self._loras.is_free(f"default_{number}"):
                number += 1
            adapter_name = f"default_{number}"
        self.load_lora(pretrained_model_name_or_path_or_dict, adapter_name, **where)
        self.set_adapters(adapter_name)

    def set_adapters(self, adapter_names: Any, adapter_weights: Any = None) -> None:
        """The LoRAs that calls without lora= use, in place of those before.

        adapter_names: one or a list. adapter_weights: a number for all, or one for each; a number
        may be a mapping by part, {"unet": x, "text_encoder": y, "text_encoder_2": z}, where what is
        left out is 1, and the U-Net's one by block, {"down": {"block_1": [0.5, 1]}, "mid": 0,
        "up": 0.3}, where what is left out is 1 or as "other" says. A convolution of a block counts
        what the block's attention of the same number does, as in diffusers.
        """
        names = _names("adapter_names", adapter_names)
        weights = adapter_weights if isinstance(adapter_weights, list | tuple) else (
            [adapter_weights] * len(names)
        )  # fmt: skip
        if len(weights) != len(names):
            raise checks.refuse("adapter_weights", f"a number, or {len(names)} of them",
                                f"{len(weights)} of them")  # fmt: skip
        chosen = {}
        for name, weight in zip(names, weights, strict=True):
            self._loras.get(name, "adapter_names", folder=False)
            chosen[name] = self._loras.read_weight("adapter_weights", weight)
        self._loras.active, self._loras.enabled = chosen, True

    def get_active_adapters(self) -> list[str]:
        """The names that set_adapters chose."""
        return list(self._loras.active) if self._loras.enabled else []

    def get_list_adapters(self) -> dict[str, list[str]]:
        """The names of loaded LoRAs by part of the pipeline."""
        loaded = self._loras.loaded.items()
        found = {part: [n for n, lora in loaded if part in lora.adapters] for part in ADAPTED}
        return {part: names for part, names in found.items() if names}

    def enable_lora(self) -> None:
        """Calls use again what set_adapters chose."""
        self._loras.enabled = True

    def disable_lora(self) -> None:
        """Calls no longer use what set_adapters chose."""
        self._loras.enabled = False

    def delete_adapters(self, adapter_names: Any) -> None:
        """unload_lora of one or several names."""
        for name in _names("adapter_names", adapter_names):
            self._loras.unload(name, "adapter_names")

    def unload_lora_weights(self, reset_to_overwritten_params: bool = False) -> None:
        """Forgets all LoRAs. What was fused into the weights stays there until unfuse_lora."""
        self._loras.clear()

    @inference
    def fuse_lora(
        self, components: Any = None, lora_scale: float = 1.0, safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Merges LoRAs into the weights, so that they cost nothing; unfuse_lora undoes it.

        components: parts of the pipeline, all unless told. lora_scale: times the weights that
        set_adapters gave them. adapter_names: the active ones unless told. safe_fusing: nothing:
        what is not finite was refused when it was loaded. Layers of 8 bits keep side branches,
        since the sum would have to be rounded anew. Takes as much memory as the merged weights.
        """
        parts = ADAPTED if components is None else tuple(_names("components", components))
        for part in parts:
            checks.choice("components", part, ADAPTED)
        factor = lora_factor("lora_scale", lora_scale)
        active = self._loras.active
        names = [n for n in active if n not in self._loras.fused_names] if adapter_names is None \
            else _names("adapter_names", adapter_names)  # fmt: skip
        if not names:
            raise RequestError("fuse_lora: no LoRA is active; name some: adapter_names=[...], or"
                               " call set_adapters first")  # fmt: skip
        again = [n for n in names if n in self._loras.fused_names]
        if again:
            raise RequestError(f"fuse_lora: {listing(map(show, again))}: fused already")
        wanted = []
        for name in names:
            lora = self._loras.get(name, "adapter_names", folder=False)
            weight = active.get(name, LoraWeight()).scaled(factor)
            wanted.append((Use(name, lora, weight), parts))
        with self._runs.begin(Run(), self.device):
            within_memory(lambda: self._loras.fuse(wanted), "float16 or bfloat16 would help")
            self._changed()

    def unfuse_lora(self, components: Any = None) -> None:
        """The weights of before fuse_lora, to the bit."""
        if components is not None:
            parts = _names("components", components)
            fused = {part for own in self._loras.fused_names.values() for part in own.parts}
            if not fused & set(self._loras.models) <= set(parts):
                raise RequestError("components: expected all parts that were fused:"
                                   f" {', '.join(sorted(fused))}")  # fmt: skip
        if self._loras.fused is None:
            return
        with self._runs.begin(Run(), self.device):
            self._loras.unfuse()
            self._changed()

    @property
    def num_fused_loras(self) -> int:
        return len(self._loras.fused_names)

    def save_pretrained(self, *args: Any, **keywords: Any) -> None:
        """As of all pipelines; refused while LoRAs are fused, since the weights as they were stored
        are what is written.
        """
        if self._loras.fused is not None:
            raise RequestError("save_pretrained: a LoRA is fused into the weights; unfuse_lora()"
                               " first, or fuse and save it with diffusers")  # fmt: skip
        super().save_pretrained(*args, **keywords)  # type: ignore[misc]  # the pipeline's

    def _changed(self) -> None:
        """The weights are others: what was recorded with them goes, and older jobs are refused."""
        self._release()
        self._loaded = object()

    # --- a call's ---------------------------------------------------------------------------------

    def _with_loras(
        self, arguments: dict[str, Any], lora: Any, factor: float, request: Callable[..., Any]
    ) -> Any:
        """request(**arguments) with the LoRAs that `lora`, the prompts or set_adapters ask for."""
        warned: list[str] = []
        tags = self._take_tags(arguments, warned)
        wanted = asked(self._loras, lora, tags, factor, warned)
        preset = wanted.preset(warned)
        if preset is not None:
            preset.fill(arguments)
        elif self._preset is not None and arguments.get("scheduler") is None:
            own = self._preset.eta if self.scheduler.name == self._preset.scheduler else 0.0
            arguments["eta"] = arguments.get("eta") or own
        r = request(**arguments)
        r.loras = wanted.of_pictures(r.count, r.texts.batch)
        if not any(r.loras):
            r.loras = ()
        each = r.per_prompt
        if any(len(set(r.loras[i : i + each])) > 1 for i in range(0, len(r.loras), each)):
            r.texts, r.per_prompt, each = r.texts.repeated(each), 1, 1
        r.texts = replace(r.texts, loras=r.loras[::each] or ((),) * r.texts.batch)
        r.warnings += warned
        return r

    def _take_tags(self, arguments: dict[str, Any], warned: list[str]) -> list[list[Tag]]:
        """The tags of each prompt, which are taken out of it where there is a folder of LoRAs."""
        prompt = arguments.get("prompt")
        texts = [prompt] if isinstance(prompt, str) else prompt
        for name in ("prompt_2", "negative_prompt", "negative_prompt_2"):
            if any(has_tags(text) for text in _texts(arguments.get(name))):
                warned.append(f"{name}: <lora:...> is read in the prompt alone; here it is text"
                              " like all")  # fmt: skip
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
            return []
        if self._loras.folder is None:
            if any(map(has_tags, texts)):
                warned.append("prompt: <lora:...> is read where a folder of LoRAs is given"
                              " (lora_dir=, --lora-dir); here it is text like all")  # fmt: skip
            return []
        found = [find_tags(text) for text in texts]
        arguments["prompt"] = found[0][0] if isinstance(prompt, str) else [t for t, _ in found]
        return [tags for _, tags in found]


def _texts(value: Any) -> list[str]:
    """The texts of an argument that is one, a list of them or something else."""
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, str)]


def _names(field: str, value: Any) -> list[str]:
    """One name or several, each once. Raises RequestError."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise checks.refuse(field, "a name or a list of names", value)
    if len(set(names)) != len(names):
        raise checks.refuse(field, "each name once", value)
    return list(names)
