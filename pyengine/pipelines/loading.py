"""From a checkpoint to a pipeline."""

import os
import warnings
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import torch

from ..cuda import OLDEST, check_capability, within_memory
from ..errors import CheckpointError, ConfigError, RequestError, UnavailableError
from ..guard import inference
from ..models import (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
)
from ..ops import release_free_memory
from ..weights import Checkpoint, check_tier, load_module, resolve
from ..weights.text import did_you_mean, nearest, show
from .arguments import DistilledDefaults
from .latents import unapplied
from .parts import Parts, check_channels
from .reading import read_defaults, read_tokenizer
from .stable_diffusion import StableDiffusionPipeline
from .stable_diffusion_xl import StableDiffusionXLPipeline
from .token_loading import QUANTIZED, TOKEN_MODELS
from .tokens import TokenPipeline

#: The model that is loaded where none is named, and all that have a name of their own.
SHIPPED = "emoji"
NAMED = (SHIPPED, "emoji-ar")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
#: Other names that dtypes go by, in checkpoints' variants and in torch.
DTYPE_SYNONYMS = {
    "fp32": "float32", "f32": "float32", "float": "float32", "fp16": "float16", "f16": "float16",
    "half": "float16", "bf16": "bfloat16",
}  # fmt: skip
DEFAULTS = {
    "LatentConsistencyModelPipeline": DistilledDefaults,
    "LatentConsistencyModelImg2ImgPipeline": DistilledDefaults,
}
ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@inference
def from_pretrained(
    model: str | os.PathLike | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    variant: str | None = None,
    weights: str | None = None,
    **options: Any,
) -> StableDiffusionPipeline | TokenPipeline:
    """The pipeline for a checkpoint, of the kind that its model_index.json names.

    model: a folder in diffusers' layout, a single .safetensors file, a Hub id, the name of a model
    that ships (NAMED), or None for the first of them. device: "auto" (CUDA where there is a
    GPU of compute capability 8.0 or newer, else the CPU), "cpu", "cuda", "cuda:1". dtype: "float32"
    (unless told), "float16" or "bfloat16". variant: "fp16" reads *.fp16.safetensors. weights:
    "int8" or "fp8" round those of linear layers to 8 bits, which gives other pictures
    (docs/numerics.md): a token model's transformer (Janus, PictureGPT), or with "fp8" the U-Net's
    transformer blocks. options: as pyengine.weights.resolve takes them (revision, cache_dir,
    prediction_type, ignore_config_keys).
    Raises CheckpointError or ConfigError for what cannot be loaded, RequestError for a wrong
    argument, UnavailableError for a device that is not there, OutOfMemoryError for one that is too
    small.
    """
    place, kind = find_device(device), find_dtype(dtype)
    if weights is not None:
        check_tier(weights)
    checkpoint, source = find_checkpoint(model, variant, options)
    pipeline = within_memory(
        lambda: build(checkpoint, source, place, kind, weights),
        f"{source}: float16, bfloat16 or a larger device would help",
    )
    release_free_memory()
    return pipeline


def find_checkpoint(model, variant: str | None = None, options: dict | None = None):
    """(the Checkpoint, what to call it) of `from_pretrained`'s `model`."""
    if model is None or (model in NAMED and not os.path.exists(model)):
        name = SHIPPED if model is None else str(model)
        folder = shipped_folder(name)
        if not (folder / "model_index.json").exists():
            what = "no model" if model is None else f"no model {name}"
            raise CheckpointError(f"this build ships {what}: {folder} holds none; name one")
        return resolve(folder, variant=variant, **(options or {})), name
    if not isinstance(model, str | os.PathLike) or not os.fspath(model):
        raise RequestError(f"model: expected a folder, a file or a Hub id, given {show(model)}")
    refuse_misspelt(os.fspath(model))
    checkpoint = resolve(model, variant=variant, **(options or {}))
    return checkpoint, checkpoint.source


def refuse_misspelt(model: str) -> None:
    """Raises CheckpointError for a name like that of a model that ships, and of nothing else here:
    before the Hub is asked for it.
    """
    name = nearest(model, NAMED)
    if name is not None and "/" not in model and not os.path.exists(os.path.expanduser(model)):
        raise CheckpointError(f"{show(model)}: no such file, folder or model that ships; did you"
                              f" mean {name}?")  # fmt: skip


def shipped_folder(name: str = SHIPPED) -> Path:
    return Path(str(package_files("pyengine"))) / "assets" / name


def find_device(device: str | torch.device) -> torch.device:
    if isinstance(device, str) and device == "auto":
        usable = torch.cuda.is_available() and torch.cuda.get_device_capability() >= OLDEST
        return torch.device("cuda" if usable else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise RequestError(f"device: expected auto, cpu, cuda or cuda:N, given {show(device)}")
    if place.type == "cuda":
        if not torch.cuda.is_available():
            raise UnavailableError("device: cuda was asked for, but torch finds no CUDA device")
        if place.index is not None and place.index >= torch.cuda.device_count():
            raise UnavailableError(
                f"device: {place} was asked for, but there are {torch.cuda.device_count()}"
            )
        check_capability(place)
    return place


def find_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found: Any = dtype
    if isinstance(dtype, str):
        name = dtype.lower().removeprefix("torch.")
        found = DTYPES.get(DTYPE_SYNONYMS.get(name, name))
    if found not in DTYPES.values():
        raise RequestError(f"dtype: expected one of {', '.join(DTYPES)}, given {show(dtype)}"
                           f"{did_you_mean(dtype, DTYPES)}")  # fmt: skip
    return found


def build(
    checkpoint: Checkpoint,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    weights: str | None = None,
) -> StableDiffusionPipeline | TokenPipeline:
    """Reads every config and compares them with one another before any tensor is read."""
    kind_of = checkpoint.pipeline_class
    if weights is not None:
        rounded = QUANTIZED.get(kind_of) if kind_of in TOKEN_MODELS else UNet2DConditionModel
        check_tier(weights, rounded.tiers if rounded else (), kind_of)
    if kind_of in TOKEN_MODELS:
        tier = {"weights": weights} if weights else {}
        return TOKEN_MODELS[kind_of](checkpoint, source, device, dtype, **tier)
    xl = checkpoint.pipeline_class.startswith("StableDiffusionXL")
    cls = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    classes: dict[str, type] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    classes |= {name: c for name, c in ENCODERS.items() if name in checkpoint.components}
    configs, sources = {}, {}
    for name, model in classes.items():
        data, sources[name] = checkpoint.component(name)
        configs[name] = model.config_class.from_dict(data, f"{source}: {name}/config.json")
    tokenizers = {
        name.replace("text_encoder", "tokenizer"): read_tokenizer(checkpoint, name, configs[name])
        for name in ENCODERS
        if name in classes
    }
    check_channels(configs["unet"], configs["vae"])
    check_text_width(configs, checkpoint, xl)
    if left_out := unapplied(configs["vae"], per_channel=xl):
        warnings.warn(f"{source}: vae/config.json: {left_out}", stacklevel=2)
    scheduler_config = checkpoint.config("scheduler")
    defaults = read_defaults(
        checkpoint, DEFAULTS.get(checkpoint.pipeline_class, cls.defaults_class)
    )
    models = {}
    for name, model in classes.items():
        # In float16 the decoder of SD and SDXL overflows; their configs say so.
        upcast = name == "vae" and dtype == torch.float16 and configs[name].force_upcast
        kind = torch.float32 if upcast else dtype
        models[name] = load_module(
            model.from_config(configs[name]), sources[name], dtype=kind, device=device,
            weights=weights if name == "unet" else None,
        )  # fmt: skip
    checkpoint.hold(sources)
    return cls(
        Parts(
            unet=models["unet"],
            vae=models["vae"],
            encoders=tuple(models[name] for name in ENCODERS if name in models),
            tokenizers=tuple(tokenizers.values()),
            scheduler_config=scheduler_config,
            pipeline_class=checkpoint.pipeline_class,
            options=checkpoint.options,
            source=source,
            defaults=defaults,
            checkpoint=checkpoint,
        )
    )


def check_text_width(configs: dict, checkpoint: Checkpoint, xl: bool) -> None:
    """Raises ConfigError where the U-Net expects other text than the encoders give."""
    unet = configs["unet"]
    encoders = [configs[name] for name in ENCODERS if name in configs]
    if not encoders:
        raise CheckpointError(f"{checkpoint.source}: expected a text_encoder, found none")
    width = sum(c.hidden_size for c in encoders)
    wanted = unet.cross_attention_dim
    wanted = set(wanted) if isinstance(wanted, tuple) else {wanted}
    if wanted != {width}:
        raise ConfigError(
            f"{checkpoint.source}: unet: cross_attention_dim {unet.cross_attention_dim}, but the"
            f" text encoders give {width}"
        )
    if xl != (unet.addition_embed_type == "text_time"):
        raise ConfigError(
            f"{checkpoint.source}: unet: addition_embed_type {show(unet.addition_embed_type)} does"
            f" not fit a {checkpoint.pipeline_class}"
        )
    if not xl:
        return
    scored = checkpoint.options.get("requires_aesthetics_score", False)
    pooled = configs["text_encoder_2"].projection_dim or 0
    given = pooled + (5 if scored else 6) * unet.addition_time_embed_dim
    if given != unet.projection_class_embeddings_input_dim:
        raise ConfigError(
            f"{checkpoint.source}: unet: projection_class_embeddings_input_dim"
            f" {unet.projection_class_embeddings_input_dim}, but the pooled text and the sizes make"
            f" {given}"
        )
