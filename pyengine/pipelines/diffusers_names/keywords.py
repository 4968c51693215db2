"""The keywords of from_pretrained: ours, and diffusers' with what they mean here."""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import RequestError, UnknownArgumentError
from ...weights import resolve
from ...weights.text import did_you_mean, show
from ..registry import families

#: Read by `pyengine.weights.resolve`: where a checkpoint lies and how its files are read.
RESOLVED = tuple(
    name
    for name, p in inspect.signature(resolve).parameters.items()
    if p.kind == p.KEYWORD_ONLY
)  # fmt: skip
#: Parts that diffusers' pipelines may have and ours do without.
NONE = ("safety_checker", "feature_extractor", "image_encoder", "watermark")
#: Networks beside a checkpoint's own: objects, folders or files, one or a list of them.
BESIDE = ("controlnet", "adapter")
#: Settings of model_index.json that change pictures.
SETTINGS = ("force_zeros_for_empty_prompt", "requires_aesthetics_score")
#: Cost or change nothing here, whatever they are.
ACCEPTED = (
    "attn_implementation", "disable_mmap", "load_safety_checker", "low_cpu_mem_usage",
    "requires_safety_checker", "resume_download",
)  # fmt: skip

_NO_CODE = "no code from a checkpoint or the Hub is ever run; diffusers does that"
_ONE_DEVICE = 'a model lies whole on one device; dtype="float16" or weights="fp8" takes less of it'
_ONLY_SAFETENSORS = "only safetensors are read; save the model as such with its own library"
_NO_CHECKER = "pyengine runs no safety checker, so it takes None; check the pictures themselves"
#: Not here unless None or False: why, and where to go.
NOT_HERE = {
    "add_watermarker": "pyengine draws no watermark, so it takes None or False",
    "custom_pipeline": _NO_CODE,
    "custom_revision": _NO_CODE,
    "dduf_file": "DDUF archives are not read; give the folder or the .safetensors file",
    "feature_extractor": _NO_CHECKER,
    "from_flax": _ONLY_SAFETENSORS,
    "from_tf": _ONLY_SAFETENSORS,
    "image_encoder": "IP-Adapters bring it: pipe.load_ip_adapter(..., image_encoder=folder)",
    "load_connected_pipeline": "no model here has a second pipeline; load each by itself",
    "max_memory": _ONE_DEVICE,
    "mirror": "the Hub's address is HF_ENDPOINT in the environment; set that",
    "offload_folder": _ONE_DEVICE,
    "offload_state_dict": _ONE_DEVICE,
    "output_loading_info": "a checkpoint is loaded whole, or refused with what is missing named",
    "provider": _ONLY_SAFETENSORS,
    "provider_options": _ONLY_SAFETENSORS,
    "proxies": "huggingface_hub reads HTTPS_PROXY from the environment; set that",
    "quantization_config": 'weights="int8" or weights="fp8" is how layers are rounded here',
    "safety_checker": _NO_CHECKER,
    "sess_options": _ONLY_SAFETENSORS,
    "trust_remote_code": _NO_CODE,
    "use_flashpack": _ONLY_SAFETENSORS,
    "use_onnx": _ONLY_SAFETENSORS,
}
#: device_map's words for "wherever there is room", which is one device here.
ANYWHERE = ("auto", "balanced", "balanced_low_0", "sequential")

_OWN = (
    "device", "dtype", "variant", "weights", "scheduler", "torch_dtype", "device_map", "subfolder",
    "use_safetensors", "lora_dir", "embeddings_dir", "preset",
)  # fmt: skip


def part_names() -> tuple[str, ...]:
    """Parts of a checkpoint that may be given as objects of ours in place of its own: networks and
    tokenizers of the families that take them.
    """
    return tuple(
        dict.fromkeys(
            name
            for family in families()
            if family.takes_parts
            for kind in ("model", "tokenizer")
            for name in family.named(kind)
            if name not in NOT_HERE
        )
    )


def known() -> tuple[str, ...]:
    """All keywords that are read, accepted or refused in words of their own."""
    joins = (name for family in families() for name in family.joins)
    return (*_OWN, *joins, *RESOLVED, *part_names(), *BESIDE, *SETTINGS, *ACCEPTED, *NOT_HERE)


@dataclass
class Keywords:
    """What from_pretrained was told, with diffusers' words translated.

    device, dtype: as `placing.find_device` and `find_dtype` take them, dtype also "auto".
    options: for `pyengine.weights.resolve`. parts: objects in place of the checkpoint's.
    settings: over those of model_index.json. scheduler: as `pipe.scheduler = ...` takes it, or
    None for the checkpoint's own. subfolder: below the model's folder, or None. loras: lora_dir,
    embeddings_dir and preset, as far as they were given. beside: of BESIDE what was given.
    """

    device: Any = "auto"
    dtype: Any = None
    variant: str | None = None
    weights: str | None = None
    scheduler: Any = None
    subfolder: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, bool] = field(default_factory=dict)
    loras: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)


def read_keywords(given: dict[str, Any], function: str = "from_pretrained") -> Keywords:
    """Sorts out what came as keywords. function: what errors call it.

    Raises RequestError for one that asks for what is not here, UnknownArgumentError with the
    nearest name for one that nothing has.
    """
    k = Keywords()
    parts = part_names()
    for name, value in given.items():
        if name in RESOLVED:
            k.options[name] = value
        elif name in parts:
            if value is None:
                raise RequestError(f"{name}: the model cannot do without; leave it out")
            k.parts[name] = value
        elif name in BESIDE:
            if value is not None:
                k.beside[name] = value
        elif name in SETTINGS:
            if not isinstance(value, bool):
                raise RequestError(f"{name}: expected True or False, given {show(value)}")
            k.settings[name] = value
        elif name in NOT_HERE:
            if value is not None and value is not False:
                raise RequestError(f"{name}: {NOT_HERE[name]}")
        elif name not in _OWN and name not in ACCEPTED:
            raise UnknownArgumentError(
                f"{show(name)[1:-1]}: {function}() got an unexpected keyword argument"
                f" {show(name)}{did_you_mean(name, known())}"
            )
    for name in ("variant", "weights", "scheduler"):
        setattr(k, name, given.get(name))
    names = ("preset", "lora_dir", "embeddings_dir")
    k.loras = {name: given[name] for name in names if given.get(name) is not None}
    k.subfolder = _subfolder(given.get("subfolder"))
    k.dtype = _dtype(given.get("dtype"), given.get("torch_dtype"))
    k.device = _device(given.get("device", "auto"), given.get("device_map"))
    if given.get("use_safetensors") not in (None, True):
        raise RequestError(
            "use_safetensors: expected True or None, since only safetensors are read, given"
            f" {show(given['use_safetensors'])}"
        )
    return k


def _subfolder(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise RequestError(f"subfolder: expected a folder's name or None, given {show(value)}")
    return value or None


def _dtype(dtype: Any, torch_dtype: Any) -> Any:
    """One of the two names; where both are given they must agree."""
    found = [_one_for_all(name, value) for name, value in
             (("dtype", dtype), ("torch_dtype", torch_dtype)) if value is not None]  # fmt: skip
    if len(found) == 2 and str(found[0]).removeprefix("torch.") != str(found[1]).removeprefix(
        "torch."
    ):
        raise RequestError(
            f"torch_dtype: expected dtype or torch_dtype, given {show(found[0])} and"
            f" {show(found[1])}"
        )
    return found[0] if found else None


def _one_for_all(name: str, value: Any) -> Any:
    """diffusers takes {part: dtype} too; here all parts have one dtype."""
    if not isinstance(value, dict):
        return value
    kinds = set(map(str, value.values()))
    if len(kinds) != 1:
        raise RequestError(f"{name}: expected one dtype for all parts, given {show(sorted(kinds))}")
    return next(iter(value.values()))


def _device(device: Any, device_map: Any) -> Any:
    if isinstance(device_map, dict):
        places = list(dict.fromkeys(map(str, device_map.values())))
        if len(places) != 1:
            raise RequestError(
                f"device_map: a model lies whole on one device, given {len(places)}: {show(places)}"
            )
        device_map = places[0]
    if device_map is None or (isinstance(device_map, str) and device_map in ANYWHERE):
        return device
    if isinstance(device_map, int) and not isinstance(device_map, bool):
        device_map = f"cuda:{device_map}"
    if not isinstance(device_map, str | torch.device):
        raise RequestError(
            f"device_map: expected auto, balanced, cpu, cuda or cuda:N, given {show(device_map)}"
        )
    if not (isinstance(device, str) and device == "auto") and str(device) != str(device_map):
        raise RequestError(
            f"device_map: expected device or device_map, given {show(str(device))} and"
            f" {show(str(device_map))}"
        )
    return device_map
