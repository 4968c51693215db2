"""From a checkpoint to a pipeline."""

import dataclasses
import os
import warnings
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import torch

from ..cuda import OLDEST, check_capability, within_memory
from ..diffusion.latents import unapplied
from ..errors import CheckpointError, ConfigError, RequestError, UnavailableError
from ..guard import inference
from ..jobs.runs import Run
from ..models import (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
)
from ..ops import Arena, release_free_memory
from ..weights import Checkpoint, check_tier, load_module, resolve
from ..weights.source import model_folder
from ..weights.text import did_you_mean, nearest, show
from .amused.pipeline import AmusedPipeline
from .diffusers_names.keywords import read_keywords
from .diffusers_names.making import check_part, check_place
from .diffusers_names.sharing import share
from .image_gpt.pipeline import ImageGPTPipeline
from .janus.pipeline import JanusPipeline
from .picture_gpt.pipeline import PictureGPTPipeline
from .reading import read_defaults, read_tokenizer
from .stable_diffusion.defaults import DistilledDefaults
from .stable_diffusion.parts import Parts, check_channels
from .stable_diffusion.pipeline import StableDiffusionPipeline
from .stable_diffusion.xl import StableDiffusionXLPipeline
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


def from_pretrained(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    variant: str | None = None,
    weights: str | None = None,
    scheduler: Any = None,
    **options: Any,
) -> StableDiffusionPipeline | TokenPipeline:
    """The pipeline for a checkpoint, of the kind that its model_index.json names.

    model: a folder in diffusers' layout, a single .safetensors file, a Hub id, the name of a model
    that ships (NAMED), or None for the first of them. device: "auto" (CUDA where there is a
    GPU of compute capability 8.0 or newer, else the CPU), "cpu", "cuda", "cuda:1". dtype: "float32"
    (unless told), "float16", "bfloat16", or "auto", as most of the model is stored. variant: "fp16"
    reads *.fp16.safetensors. weights: "int8" or "fp8" round those of linear layers to 8 bits, which
    gives other pictures (docs/numerics.md): a token model's transformer (Janus, PictureGPT), or
    with "fp8" the U-Net's transformer blocks. scheduler: as `pipe.scheduler = ...` takes it.
    options: as pyengine.weights.resolve takes them (revision, cache_dir, token, local_files_only,
    prediction_type, ignore_config_keys...); parts in place of the checkpoint's (vae=..., of
    pyengine.models); and diffusers' other keywords: torch_dtype, device_map, safety_checker=None
    and so on (docs/from-diffusers.md).
    Raises CheckpointError or ConfigError for what cannot be loaded, RequestError for a wrong
    argument, UnavailableError for a device that is not there, OutOfMemoryError for one that is too
    small.
    """
    given = {
        "device": device, "dtype": dtype, "variant": variant, "weights": weights,
        "scheduler": scheduler,
    }  # fmt: skip
    return load(model, given | options)


@inference
def load(model: Any, keywords: dict[str, Any], wanted: Any = None) -> Any:
    """from_pretrained. wanted: the pipeline's class, where it is not the checkpoint's to choose, or
    a function that finds it by diffusers' class of the checkpoint.
    """
    k = read_keywords(keywords)
    place, kind = find_device(k.device), None if k.dtype == "auto" else find_dtype(k.dtype)
    if k.weights is not None:
        check_tier(k.weights)
    checkpoint, source = find_checkpoint(_below(model, k.subfolder), k.variant, k.options)
    if wanted is not None:
        wanted = wanted if isinstance(wanted, type) else wanted(checkpoint.pipeline_class)
        _check_class(wanted, checkpoint)
    checkpoint.options = checkpoint.options | k.settings
    kind = stored_dtype(checkpoint) if kind is None else kind
    pipeline = within_memory(
        lambda: build(checkpoint, source, place, kind, k.weights, wanted, k.parts, k.scheduler),
        f"{source}: float16, bfloat16 or a larger device would help",
    )
    release_free_memory()
    return pipeline


@inference
def reload(pipeline: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Reads a pipeline's weights again, for another device or dtype; it stays the same object."""
    if pipeline._runs.in_progress() is not None:
        raise RequestError("to: a run is in progress; move the pipeline between calls")
    net = getattr(pipeline, "model", None) or pipeline.unet
    checkpoint, source = pipeline._checkpoint, pipeline.source
    with pipeline._runs.begin(Run()):
        fresh = within_memory(
            lambda: build(checkpoint, source, device, dtype, net.weights, type(pipeline)),
            f"{source}: float16, bfloat16 or a larger device would help",
        )
        if hasattr(pipeline, "_take_parts"):
            parts = dataclasses.replace(fresh.parts, options=pipeline.parts.options)
            pipeline._arena = Arena()
            pipeline._take_parts(parts)
        else:
            own = ("_runs", "_progress", "defaults")
            pipeline.__dict__.update({n: v for n, v in vars(fresh).items() if n not in own})
    release_free_memory()


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """What most numbers of the U-Net or transformer are stored as; float32 where that is none of
    DTYPES.
    """
    name = next(n for n in ("unet", "transformer", "model") if n in checkpoint.components)
    count: dict[torch.dtype, int] = {}
    with checkpoint.tensors(name) as source:
        for tensor in source:
            dtype, shape = source.spec(tensor)
            count[dtype] = count.get(dtype, 0) + torch.Size(shape).numel()
    most = max(count, key=lambda dtype: count[dtype], default=torch.float32)
    return most if most in DTYPES.values() else torch.float32


def _below(model: Any, subfolder: str | None) -> Any:
    if subfolder is None:
        return model
    if model is None or not os.path.isdir(model):
        raise RequestError(
            "subfolder: expected a folder as the model; of a Hub id or a file no folder is read by"
            " itself: download it (hf download ID --include 'NAME/*') and give its folder"
        )
    return model_folder(Path(model), subfolder)


def family_class(pipeline_class: str) -> type[Any]:
    """The pipeline of ours that draws with checkpoints of diffusers' (transformers') class."""
    tokens = {
        "Amused": AmusedPipeline, "ImageGPT": ImageGPTPipeline, "Janus": JanusPipeline,
        "PictureGPT": PictureGPTPipeline,
    }  # fmt: skip
    found = next((c for name, c in tokens.items() if pipeline_class.startswith(name)), None)
    if found is not None:
        return found
    xl = pipeline_class.startswith("StableDiffusionXL")
    return StableDiffusionXLPipeline if xl else StableDiffusionPipeline


def fits_family(cls: type[Any], pipeline_class: str) -> bool:
    """Whether a class of pipelines draws with checkpoints of diffusers' class."""
    xl = issubclass(cls, StableDiffusionXLPipeline)
    family = family_class(pipeline_class)
    return issubclass(cls, family) and xl == issubclass(family, StableDiffusionXLPipeline)


def _check_class(wanted: Any, checkpoint: Checkpoint) -> None:
    kind = checkpoint.pipeline_class
    if not fits_family(wanted, kind):
        raise CheckpointError(
            f"{checkpoint.source}: a {kind}, which {wanted.__name__} cannot draw with; load it with"
            f" pyengine.from_pretrained or {family_class(kind).__name__}.from_pretrained"
        )


def defaults_of(cls: Any) -> type[Any]:
    """What a class of pipelines uses where a call says nothing."""
    found: type[Any] = DEFAULTS.get(cls.__name__, cls.defaults_class)
    return found


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
    wanted: Any = None,
    given: dict[str, Any] | None = None,
    scheduler: Any = None,
) -> StableDiffusionPipeline | TokenPipeline:
    """Reads every config and compares them with one another before any tensor is read.

    wanted: the pipeline's class. given: parts in place of the checkpoint's. scheduler: in place of
    its own.
    """
    kind_of = checkpoint.pipeline_class
    if weights is not None:
        rounded = QUANTIZED.get(kind_of) if kind_of in TOKEN_MODELS else UNet2DConditionModel
        check_tier(weights, rounded.tiers if rounded else (), kind_of)
    if kind_of in TOKEN_MODELS:
        for name in [*(given or ()), *(["scheduler"] if scheduler is not None else [])]:
            raise RequestError(f"{name}: expected none for a {kind_of}, whose parts are its own")
        tier = {"weights": weights} if weights else {}
        pipeline = TOKEN_MODELS[kind_of](checkpoint, source, device, dtype, **tier)
        return pipeline if wanted is None else share(wanted, pipeline)
    cls = family_class(kind_of) if wanted is None else wanted
    name_of = kind_of if wanted is None else wanted.__name__
    xl = issubclass(cls, StableDiffusionXLPipeline)
    classes: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    classes |= {name: c for name, c in ENCODERS.items() if name in checkpoint.components}
    given = {name: check_part(name, part) for name, part in (given or {}).items()}
    _check_given(given, classes, kind_of)
    check_place(given, device, dtype)
    configs: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for name, model in classes.items():
        if name in given:
            configs[name] = given[name].config
            continue
        data, sources[name] = checkpoint.component(name)
        configs[name] = model.config_class.from_dict(data, f"{source}: {name}/config.json")
    tokenizers = {}
    for name in (n for n in ENCODERS if n in classes):
        own = name.replace("text_encoder", "tokenizer")
        tokenizers[own] = given.get(own) or read_tokenizer(checkpoint, name, configs[name])
    check_configs(configs, source, name_of, checkpoint.options)
    if left_out := unapplied(configs["vae"], per_channel=xl):
        warnings.warn(f"{source}: vae/config.json: {left_out}", stacklevel=2)
    scheduler_config = checkpoint.config("scheduler")
    defaults = read_defaults(checkpoint, DEFAULTS.get(name_of, cls.defaults_class))
    models = {name: part for name, part in given.items() if name in classes}
    for name, model in classes.items():
        if name in given:
            continue
        # In float16 the decoder of SD and SDXL overflows; their configs say so.
        upcast = name == "vae" and dtype == torch.float16 and configs[name].force_upcast
        kind = torch.float32 if upcast else dtype
        models[name] = load_module(
            model.from_config(configs[name]), sources[name], dtype=kind, device=device,
            weights=weights if name == "unet" else None,
        )  # fmt: skip
    checkpoint.hold(sources)
    parts = Parts(
        unet=models["unet"],
        vae=models["vae"],
        encoders=tuple(models[name] for name in ENCODERS if name in models),
        tokenizers=tuple(tokenizers.values()),
        scheduler_config=scheduler_config,
        pipeline_class=name_of,
        options=checkpoint.options,
        source=source,
        defaults=defaults,
        checkpoint=checkpoint,
        given=tuple(given),
        scheduler=scheduler,
    )
    return cls(parts)


def _check_given(given: dict[str, Any], classes: dict[str, Any], kind: str) -> None:
    for name in given:
        if name.replace("tokenizer", "text_encoder") not in classes:
            raise RequestError(f"{name}: expected none for a {kind}, which has none")


def check_fits(parts: Parts) -> None:
    """As `check_configs`, for parts that are loaded, and their tokenizers."""
    named = parts.named()
    configs = {n: part.config for n, part in named.items() if n in ("unet", "vae", *ENCODERS)}
    check_configs(configs, parts.source, parts.pipeline_class, parts.options)
    for name in (n for n in ENCODERS if n in named):
        tokenizer = named[name.replace("text_encoder", "tokenizer")]
        if tokenizer.size > configs[name].vocab_size:
            raise ConfigError(
                f"{name}: vocab_size {configs[name].vocab_size}, but its tokenizer has ids up to"
                f" {tokenizer.size - 1}"
            )


def check_configs(
    configs: dict[str, Any], source: str, pipeline_class: str, options: dict[str, bool]
) -> None:
    """Raises ConfigError where the configs of a pipeline's parts do not fit together."""
    check_channels(configs["unet"], configs["vae"])
    check_text_width(configs, source, pipeline_class, options)


def check_text_width(
    configs: dict[str, Any], source: str, pipeline_class: str, options: dict[str, bool]
) -> None:
    """Raises ConfigError where the U-Net expects other text than the encoders give."""
    xl = pipeline_class.startswith("StableDiffusionXL")
    unet = configs["unet"]
    encoders = [configs[name] for name in ENCODERS if name in configs]
    if not encoders:
        raise CheckpointError(f"{source}: expected a text_encoder, found none")
    width = sum(c.hidden_size for c in encoders)
    wanted = unet.cross_attention_dim
    wanted = set(wanted) if isinstance(wanted, tuple) else {wanted}
    if wanted != {width}:
        raise ConfigError(
            f"{source}: unet: cross_attention_dim {unet.cross_attention_dim}, but the"
            f" text encoders give {width}"
        )
    if xl != (unet.addition_embed_type == "text_time"):
        raise ConfigError(
            f"{source}: unet: addition_embed_type {show(unet.addition_embed_type)} does"
            f" not fit a {pipeline_class}"
        )
    if not xl:
        return
    scored = options.get("requires_aesthetics_score", False)
    pooled = configs["text_encoder_2"].projection_dim or 0
    given = pooled + (5 if scored else 6) * unet.addition_time_embed_dim
    if given != unet.projection_class_embeddings_input_dim:
        raise ConfigError(
            f"{source}: unet: projection_class_embeddings_input_dim"
            f" {unet.projection_class_embeddings_input_dim}, but the pooled text and the sizes make"
            f" {given}"
        )
