"""`pyengine train lora`: teaches a trained model another style of the pictures, as a LoRA.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): the model's weights stay as they are; what
is trained is a product of two thin matrices beside each layer. Loss, batches and random numbers are
those of the model's own training (:mod:`.denoiser`). The run's folder holds settings.json, lora.pt
(to go on from) and log.jsonl; :mod:`.lora_export` makes the folder of the LoRA of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import RequestError, UnavailableError
from ..pipelines.loading import NAMED, SHIPPED, shipped_folder
from . import autoencoder, course, dataset, denoiser, evaluate, loop, recipe, tokenizer

CHECKPOINT = "lora.pt"
#: Of the extra `train`, what a run imports when it has begun.
PACKAGES = ("diffusers", "transformers", "peft")
#: Layers of the U-Net by the ends of their names.
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2")
#: And of the text encoder.
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class LoraSettings(loop.Settings):
    """All settings of a run.

    base: SHA-256 of the U-Net's file of the model, which is not changed. model: its name or folder,
    for the card. labels: None for those of the model's concepts.txt. rank: of the products; they
    count alpha / rank. steps: of the whole run; over the last half the rate descends to zero.
    """

    SHAPE = ("base", "style", "rank", "alpha", "layers", "text_layers", "steps", "seed", "batch")

    base: str
    model: str
    style: str
    labels: tuple[str, ...]
    rank: int = 4
    alpha: float = 4.0
    layers: tuple[str, ...] = LAYERS
    text_layers: tuple[str, ...] = ()
    steps: int = 600
    batch: int = 32
    rate: float = 4e-3
    warmup: int = 20
    decay: float = 0.98
    dropped: float = 0.1
    gamma: float = 5.0
    seed: int = 1

    @property
    def cooldown(self) -> int:
        """Steps over which the rate descends to zero, at the end."""
        return self.steps // 2


class Networks(denoiser.Networks):
    """The model's text encoder and U-Net, of whose weights only the LoRA's are trained.

    model: the model's folder, in diffusers' layout.
    """

    def __init__(self, model: Path, settings: LoraSettings, device: str):
        import torch
        from diffusers import DDIMScheduler, UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor
        from transformers import CLIPTextModel

        scheduler: Any = DDIMScheduler.from_pretrained(model / "scheduler")  # type: ignore[no-untyped-call]  # no types in diffusers
        predicts = scheduler.config.prediction_type
        if predicts != "v_prediction":
            raise RequestError(f"model: expected one of v_prediction, given {predicts!r}")
        unet = UNet2DConditionModel.from_pretrained(model / "unet").float()  # type: ignore[no-untyped-call]  # no types in diffusers
        unet.set_attn_processor(AttnProcessor())  # torch's own has a slow backward pass on CPUs
        text_encoder: Any = CLIPTextModel.from_pretrained(str(model / "text_encoder"))
        text_encoder = text_encoder.float()
        self.settings, self.device = settings, device
        # Several times as fast where the CPU multiplies matrices of bfloat16, slower elsewhere.
        self.CPU_AUTOCAST = torch.cpu._is_amx_tile_supported()
        self.alphas = scheduler.alphas_cumprod.to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.added = {"unet": add(unet, settings, settings.layers)}
            text_encoder.requires_grad_(False)
            if settings.text_layers:
                self.added["text_encoder"] = add(text_encoder, settings, settings.text_layers)
        self.unet = unet.to(device, memory_format=torch.channels_last).train()
        self.text_encoder = text_encoder.to(device).train()
        self.parameters = [p for part in self.added.values() for p in part.values()]

    def state_dict(self) -> dict[str, Any]:
        return {
            part: {name: p.detach() for name, p in own.items()} for part, own in self.added.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, own in self.added.items():
            loop.copy_values(own.values(), [state[part][name] for name in own])


def add(network: Any, settings: LoraSettings, layers: Sequence[str]) -> dict[str, Any]:
    """Adds a LoRA to the layers whose names end so; returns its parameters by name, in peft's
    names without the adapter's. All other weights are frozen.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(layers))  # type: ignore[arg-type]  # peft wants int and takes all numbers
    inject_adapter_in_model(config, network)
    own = {n: p for n, p in network.named_parameters() if ".lora_" in n}
    network.requires_grad_(False)
    for parameter in own.values():
        parameter.requires_grad_(True)
    return {name.replace(".default.", "."): p for name, p in own.items()}


def train(
    *,
    style: str,
    data: recipe.Data = None,
    model: str | os.PathLike[str] = SHIPPED,
    out: str | os.PathLike[str] = "lora-run",
    rank: int | None = None,
    alpha: float | None = None,
    text_encoder: bool = False,
    labels: Sequence[str] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    rate: float | None = None,
    seed: int = 1,
    device: str = "cpu",
    threads: int | None = None,
    log_every: int = 20,
    save_seconds: float = 30.0,
    settings: LoraSettings | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Train in the folder `out`, or go on where it stopped; returns the folder.

    style: the data's pictures to learn. model: a name of those that ship, or a folder in diffusers'
    layout of a Stable Diffusion of v-prediction. alpha: `rank` unless told. text_encoder: whether
    the LoRA changes the text encoder, too. labels: the model's concepts.txt unless told. steps: of
    the whole run; minutes: stop earlier, to go on later. settings: all else; what is given beside
    it wins. Raises RequestError for a wrong argument, CheckpointError where the folder's run has
    other settings.
    """
    import torch

    recipe.check_positive(rank=rank, alpha=alpha, steps=steps, batch=batch, rate=rate)
    if threads:
        torch.set_num_threads(threads)
    place, folder = find_model(model), Path(out)
    settings = settings or LoraSettings(
        base=digest(place / UNET_FILE),
        model=os.fspath(model),
        style=style,
        seed=seed,
        labels=tuple(labels or evaluate.read_concepts(place / "concepts.txt")),
        text_layers=TEXT_LAYERS if text_encoder else (),
    )
    rank = rank or settings.rank
    given: dict[str, Any] = {
        "rank": rank,
        "alpha": alpha or rank,
        "steps": steps,
        "batch": batch,
        "rate": rate,
    }
    settings = replace(settings, **{k: v for k, v in given.items() if v is not None})
    run, batches = prepare(folder, place, settings, data, device)
    recipe.save_settings(folder, settings)
    course.train(
        run,
        batches,
        settings.steps,
        cooldown=settings.cooldown,
        seconds=None if minutes is None else 60 * minutes,
        checkpoint=folder / CHECKPOINT,
        save_seconds=save_seconds,
        log=loop.Log(folder / recipe.LOG, "lora", log_every, echo),
    )
    return folder


def check(model: str | os.PathLike[str]) -> None:
    """Raises what train would, of a model that cannot be taught and of packages that are not there,
    and takes no time.
    """
    find_model(model)
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UnavailableError(
                f"training needs the package {package}: pip install 'pyengine[train]'"
            )


def prepare(
    folder: Path, model: Path, settings: LoraSettings, data: recipe.Data, device: str
) -> tuple[course.Run, denoiser.Batches]:
    """The run of a folder, or a new one, and its batches: latents of the style's pictures as the
    model's own autoencoder encodes them.
    """
    from diffusers import AutoencoderKL

    run = course.resume(folder / CHECKPOINT, Networks(model, settings, device))
    coder: Any = AutoencoderKL.from_pretrained(model / "vae").float()  # type: ignore[no-untyped-call]  # no types in diffusers
    pictures = choose(data, settings, coder.config.sample_size)
    latents = autoencoder.encode(coder.to(device), pictures.images) * coder.config.scaling_factor
    tokens_of = denoiser.token_cache(tokenizer.load(model / "tokenizer"))
    batches = denoiser.Batches(
        pictures, latents.to(device), tokens_of, settings, settings.seed, device
    )
    return run, batches


def choose(data: recipe.Data, settings: LoraSettings, side: int) -> dataset.Pictures:
    """The pictures of the settings' style and labels."""

    @dataclass
    class Wanted:
        labels: tuple[str, ...]
        styles: tuple[str, ...]

    wanted = Wanted(settings.labels, (settings.style,))
    everything, rows = recipe.load_pictures(data, wanted, side)
    return everything.rows(rows.tolist())


def find_model(model: str | os.PathLike[str]) -> Path:
    """The folder of a model that ships or of any other in diffusers' layout."""
    folder = shipped_folder(str(model)) if model in NAMED else Path(model)
    for file in ("model_index.json", UNET_FILE, "concepts.txt"):
        if not (folder / file).is_file():
            raise RequestError(f"model: expected a folder with {file}, given {str(model)!r}")
    return folder


def digest(file: Path) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
