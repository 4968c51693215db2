"""From a checkpoint to a pipeline."""

import dataclasses
import os
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from ..adapters import find_preset
from ..adapters.places import hub_options
from ..cuda import within_memory
from ..errors import CheckpointError, RequestError
from ..guard import inference
from ..jobs.runs import Run
from ..ops import Arena, release_free_memory
from ..weights import Checkpoint, check_tier, resolve
from ..weights.layout import find
from ..weights.source import model_folder
from ..weights.text import nearest, show
from .diffusers_names.keywords import Keywords, read_keywords
from .placing import DTYPES, Device, Dtype, find_device, find_dtype
from .reading import Load
from .registry import families, family_of, family_of_pipeline, fits
from .shipped_names import GUIDES, shipped_names

if TYPE_CHECKING:
    from .base import Pipeline
    from .conditional_gan.pipeline import ConditionalGANPipeline
    from .conditional_vae.pipeline import ConditionalVAEPipeline
    from .glow.pipeline import GlowPipeline
    from .masked_tokens.pipeline import MaskedTokensPipeline
    from .one_shot.pipeline import OneShotPipeline
    from .picture_gpt.pipeline import PictureGPTPipeline
    from .pixel_cascade.pipeline import PixelCascadePipeline
    from .pixel_diffusion.pipeline import PixelDiffusionPipeline
    from .pixel_gpt.pipeline import PixelGPTPipeline
    from .small_prior.pipeline import SmallPriorPipeline
    from .stable_diffusion.pipeline import StableDiffusionPipeline

#: The model that is loaded where none is named, and all that have a name of their own: the folders
#: of pyengine/assets that hold a pipeline.
SHIPPED = "emoji"
NAMED = shipped_names()


# Type checkers know the class of a model that ships; of a folder, where its class's own
# from_pretrained is called: pyengine.StableDiffusionPipeline.from_pretrained(folder).
@overload
def from_pretrained(
    model: Literal["emoji"] | None = None, *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "StableDiffusionPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-ar"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "PictureGPTPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-cascade"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "PixelCascadePipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-ddpm"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "PixelDiffusionPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-flow"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "GlowPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-gan"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "ConditionalGANPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-masked"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "MaskedTokensPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-one-shot"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "OneShotPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-pixels"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "PixelGPTPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-prior"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "SmallPriorPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: Literal["emoji-vae"], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "ConditionalVAEPipeline": ...  # fmt: skip


@overload
def from_pretrained(
    model: str | os.PathLike[str], *, device: Device = ..., dtype: Dtype = ...,
    variant: str | None = ..., weights: str | None = ..., scheduler: Any = ..., **options: Any,
) -> "Pipeline": ...  # fmt: skip


def from_pretrained(
    model: str | os.PathLike[str] | None = None,
    *,
    device: Device = "auto",
    dtype: Dtype = None,
    variant: str | None = None,
    weights: str | None = None,
    scheduler: Any = None,
    **options: Any,
) -> "Pipeline":
    """The pipeline for a checkpoint, of the kind that its model_index.json names.

    Args:
        model: a folder in diffusers' layout, a single .safetensors file, a Hub id, the name of a
            model that ships (NAMED), or None for the first of them.
        device: "auto" (CUDA where there is a GPU of compute capability 8.0 or newer, else the CPU),
            "cpu", "cuda", "cuda:1".
        dtype: "float32" (unless told), "float16", "bfloat16", or "auto", as most of the model is
            stored.
        variant: "fp16" reads *.fp16.safetensors.
        weights: "int8" or "fp8" round those of linear layers to 8 bits, which gives other pictures
            (docs/numerics.md): a token model's transformer (Janus, PictureGPT), or the U-Net's
            transformer blocks, whose inputs are then rounded too: "int8" is made for CPUs, "fp8"
            for GPUs.
        scheduler: as `pipe.scheduler = ...` takes it.
        options: the following, by name.

    Keyword Args:
        revision, cache_dir, token, local_files_only, force_download (Any): of a Hub id, as
            `huggingface_hub` has them.
        prediction_type (str): what the network predicts, where a single file does not say.
        ignore_config_keys (Iterable[str]): unknown keys of config files to be left out
            (docs/checkpoints.md).
        vae, unet, text_encoder (Model): parts in place of the checkpoint's, of pyengine.models; so
            may be its other networks and tokenizers, by diffusers' names.
        controlnet, adapter (Any): a ControlNet or T2I-Adapter, or a list of them, by folder, file
            or Hub id (docs/adapters.md).
        prior (str): Kandinsky 2.2's, beside its decoder as the model: a folder or Hub id.
        lora_dir (str): a folder of LoRAs, which calls and prompts may name (`<lora:name:0.8>`).
        embeddings_dir (str): a folder of textual inversions, which prompts may name as their files
            are called.
        preset (str): the few-step model that this is, "lcm", "lightning" and so on
            (docs/adapters.md).
        torch_dtype, device_map, safety_checker (Any): diffusers' keywords, these and others
            (docs/from-diffusers.md).

    Returns:
        The family's pipeline, such as a StableDiffusionPipeline or a PictureGPTPipeline.

    Raises:
        CheckpointError, ConfigError: for what cannot be loaded.
        RequestError: for a wrong argument.
        UnavailableError: for a device that is not there.
        OutOfMemoryError: for one that is too small.
    """
    given = {
        "device": device, "dtype": dtype, "variant": variant, "weights": weights,
        "scheduler": scheduler,
    }  # fmt: skip
    made: Pipeline = load(model, given | options)
    return made


@inference
def load(model: Any, keywords: dict[str, Any], wanted: Any = None) -> Any:
    """from_pretrained. wanted: the pipeline's class, where it is not the checkpoint's to choose, or
    a function that finds it by diffusers' class of the checkpoint.
    """
    others = {name: keywords.pop(name) for name in joining() if name in keywords}
    k = read_keywords(keywords)
    place, kind = find_device(k.device), None if k.dtype == "auto" else find_dtype(k.dtype)
    if k.weights is not None:
        check_tier(k.weights)
    checkpoint, source = find_checkpoint(_below(model, k.subfolder), k.variant, k.options)
    for name, other in others.items():
        checkpoint = _joined(checkpoint, name, other, k)
    if wanted is not None:
        wanted = wanted if isinstance(wanted, type) else wanted(checkpoint.pipeline_class)
        _check_class(wanted, checkpoint)
    checkpoint.options = checkpoint.options | k.settings
    beside = k.beside or {name: list(folders) for name, folders in checkpoint.beside.items()}
    kind = stored_dtype(checkpoint) if kind is None else kind
    _check_loras(k.loras, wanted or family_of(checkpoint.pipeline_class).pipeline_class)
    pipeline = within_memory(
        lambda: build(
            Load(
                checkpoint,
                source,
                place,
                kind,
                k.weights,
                wanted,
                k.parts,
                k.scheduler,
                beside,
                {**hub_options(k.options), "variant": k.variant},
            )
        ),
        f"{source}: float16, bfloat16 or a larger device would help",
    )
    for name, value in k.loras.items():
        setattr(pipeline, name, value)
    release_free_memory()
    return pipeline


def _check_loras(given: dict[str, Any], cls: Any) -> None:
    """Refuses lora_dir and preset where they mean nothing, or name nothing, before any weight is
    read.
    """
    for name in given:
        if not hasattr(cls, name):
            raise RequestError(f"{name}: expected none for a {cls.__name__}, which takes no LoRAs")
    if "preset" in given:
        find_preset(given["preset"])


@inference
def reload(pipeline: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Reads a pipeline's weights again, for another device or dtype; it stays the same object."""
    if pipeline._runs.in_progress() is not None:
        raise RequestError("to: a run is in progress; move the pipeline between calls")
    images = getattr(pipeline, "_images", None)
    scales = getattr(images, "scales", ())
    if scales:
        pipeline._check_movable()
    net = pipeline.components[family_of_pipeline(pipeline).main]
    checkpoint, source = pipeline.checkpoint, pipeline.source
    parts = getattr(pipeline, "parts", None)
    beside = {name: list(own) for name, own in getattr(parts, "beside_places", {}).items()}
    hub = dict(getattr(parts, "hub", {}))
    with pipeline._runs.begin(Run()):
        fresh = within_memory(
            lambda: build(
                Load(
                    checkpoint,
                    source,
                    device,
                    dtype,
                    net.weights,
                    type(pipeline),
                    beside=beside,
                    hub=hub,
                )
            ),
            f"{source}: float16, bfloat16 or a larger device would help",
        )
        if hasattr(pipeline, "_take_parts"):
            old = pipeline.parts
            for own, before in zip(fresh.parts.tokenizers, old.tokenizers, strict=True):
                own.learn(before.learnt)
            parts = dataclasses.replace(
                fresh.parts, options=old.options, pipeline_class=old.pipeline_class
            )
            pipeline._arena = Arena()
            pipeline._take_parts(parts)
            if scales:
                pipeline._move_images(scales)
        else:
            own = ("_runs", "_progress", "_sampler", "defaults")
            pipeline.__dict__.update({n: v for n, v in vars(fresh).items() if n not in own})
        pipeline._loaded = object()
    release_free_memory()


def joining() -> tuple[str, ...]:
    """Keywords by which another checkpoint may come beside the one that is loaded."""
    return tuple(dict.fromkeys(name for family in families() for name in family.joins))


def _joined(checkpoint: Checkpoint, name: str, other: Any, k: Keywords) -> Checkpoint:
    """One checkpoint of two. other: the place of the second; None: the first alone."""
    if other is None:
        return checkpoint
    how = family_of(checkpoint.pipeline_class).joins.get(name)
    if how is None:
        raise RequestError(f"{name}: a {checkpoint.pipeline_class} takes none")
    made: Checkpoint = find(how)(checkpoint, find_checkpoint(other, k.variant, k.options)[0])
    return made


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """What most numbers of the part that predicts are stored as; float32 where that is none of
    DTYPES.
    """
    name = family_of(checkpoint.pipeline_class).main
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


def _check_class(wanted: Any, checkpoint: Checkpoint) -> None:
    kind = checkpoint.pipeline_class
    family = family_of(kind)
    if not fits(wanted, family):
        raise CheckpointError(
            f"{checkpoint.source}: a {kind}, which {wanted.__name__} cannot draw with; load it with"
            f" pyengine.from_pretrained or {family.pipeline_class.__name__}.from_pretrained"
        )


def find_checkpoint(
    model: Any, variant: str | None = None, options: dict[str, Any] | None = None
) -> tuple[Checkpoint, str]:
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
    if os.fspath(model) in GUIDES and not os.path.exists(model):
        raise CheckpointError(
            f"{model} draws nothing, it guides: expected as"
            f" {GUIDES[os.fspath(model)]}={os.fspath(model)!r} of a call"
        )
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


def build(load: Load) -> Any:
    """The pipeline, by its family's builder."""
    family = load.family
    if load.weights is not None:
        check_tier(load.weights, family.tiers, load.kind)
    if not family.takes_parts:
        for name in [*load.given, *(["scheduler"] if load.scheduler is not None else [])]:
            raise RequestError(f"{name}: expected none for a {load.kind}, whose parts are its own")
    for name in load.beside:
        if not family.takes_control:
            raise RequestError(f"{name}: expected none for a {load.kind}; Stable Diffusion's models"
                               " take one")  # fmt: skip
    return find(family.build)(load)
