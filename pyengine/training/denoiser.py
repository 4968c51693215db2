"""The text encoder and the noise predictor, trained together on cached latents.

v-prediction.  Seen as an error of the clean latents, plain v loss weighs a
timestep by SNR + 1; here that weight is capped at gamma, so that the nearly
clean ones do not dominate.  (The usual min-SNR weight, min(SNR, gamma), all but
ignores the noisiest 40% of the timesteps, which decide what is in the picture.)
Timesteps are spread evenly over each batch, which lowers the variance of the
loss.  One prompt in ten is empty, for classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import captions, dataset, loop, tokenizer
from .course import Networks as Trained
from .course import Run, resume, shuffled_rows


@dataclass(frozen=True)
class DenoiserSettings(loop.Settings):
    """Shape of the networks and course of their training."""

    SHAPE = (
        "channels", "layers", "heads", "groups", "size", "latent_channels", "context",
        "text_layers", "vocabulary", "length", "beta_start", "beta_end",
    )  # fmt: skip

    channels: tuple[int, ...] = (48, 96, 192)
    layers: int = 1
    heads: int = 4
    groups: int = 16
    size: int = 16
    latent_channels: int = 4
    context: int = 128
    text_layers: int = 4
    vocabulary: int = 3072
    length: int = 24
    batch: int = 32
    rate: float = 1.5e-3
    warmup: int = 200
    decay: float = 0.999
    dropped: float = 0.1
    gamma: float = 5.0
    beta_start: float = 0.00085
    beta_end: float = 0.02


def build_unet(settings: DenoiserSettings) -> Any:
    """A UNet2DConditionModel with attention at every resolution but the highest."""
    from diffusers import UNet2DConditionModel

    lower = len(settings.channels) - 1
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]  # no types in diffusers
        sample_size=settings.size,
        in_channels=settings.latent_channels,
        out_channels=settings.latent_channels,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * lower),
        up_block_types=(*("CrossAttnUpBlock2D",) * lower, "UpBlock2D"),
        cross_attention_dim=settings.context,
        attention_head_dim=settings.heads,
        norm_num_groups=settings.groups,
    )


def build_text_encoder(settings: DenoiserSettings) -> Any:
    """A CLIPTextModel of CLIP's own shape, only smaller."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.context,
        intermediate_size=4 * settings.context,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=4,
        max_position_embeddings=settings.length,
        projection_dim=settings.context,
        hidden_act="quick_gelu",
        bos_token_id=settings.vocabulary - 2,
        eos_token_id=settings.vocabulary - 1,
        pad_token_id=settings.vocabulary - 1,
    )
    return CLIPTextModel(config)


def build_scheduler(settings: DenoiserSettings) -> Any:
    """DDIM with the training schedule; its last timestep is nearly pure noise (alpha_bar 2e-4)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(  # type: ignore[no-untyped-call]  # no types in diffusers
        num_train_timesteps=1000,
        beta_start=settings.beta_start,
        beta_end=settings.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Networks(Trained):
    """Text encoder and noise predictor, trained together."""

    MEASURES = ("loss", "v_error")

    def __init__(self, settings: DenoiserSettings, device: str, seed: int):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            text_encoder, unet = build_text_encoder(settings), build_unet(settings)
        self.settings, self.device = settings, device
        self.text_encoder = text_encoder.to(device).train()
        self.unet = unet.to(device, memory_format=torch.channels_last).train()
        self.parameters = [*self.text_encoder.parameters(), *self.unet.parameters()]
        self.alphas = build_scheduler(settings).alphas_cumprod.to(device)

    def loss(self, latents: Any, tokens: Any, timesteps: Any, noise: Any) -> tuple[Any, ...]:
        """Weighted squared error of v = sqrt(a) noise - sqrt(1 - a) latents."""
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        context = self.text_encoder(tokens).last_hidden_state
        error = self.unet(noisy, timesteps, context).sample.float() - target
        snr = alpha / (1 - alpha)
        weight = (snr + 1).clamp(max=self.settings.gamma) / (snr + 1)
        per_picture = error.square().mean(dim=(1, 2, 3))
        return (weight.flatten() * per_picture).mean(), per_picture.mean()

    def state_dict(self) -> dict[str, Any]:
        return {"text_encoder": self.text_encoder.state_dict(), "unet": self.unet.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.unet.load_state_dict(state["unet"])


class BatchSettings(Protocol):
    """What is read of a run's settings. dropped: the share of prompts that are empty."""

    @property
    def batch(self) -> int: ...
    @property
    def dropped(self) -> float: ...


class Batches:
    """The batch of a step, a function of its number."""

    def __init__(
        self,
        pictures: dataset.Pictures,
        latents: Any,
        tokens_of: Callable[[list[str]], Any],
        settings: BatchSettings,
        seed: int,
        device: str,
    ):
        self.pictures, self.latents, self.tokens_of = pictures, latents, tokens_of
        self.settings, self.seed, self.device = settings, seed, device

    def rows(self, step: int) -> np.ndarray:
        """Rows of one step: shuffled passes over the pictures; all are seen equally often."""
        return shuffled_rows(self.seed, step, self.settings.batch, len(self.pictures))

    def __call__(self, step: int) -> tuple[Any, ...]:
        import torch

        rows = self.rows(step)
        numbers = loop.numbers(self.seed, "denoiser", step)
        generator = loop.torch_numbers(self.seed, "denoiser", step)
        prompts = captions.random_prompts(self.pictures, rows, self.settings.dropped, numbers)
        batch = len(rows)
        even = (np.arange(batch) + numbers.random()) * (1000 / batch)
        timesteps = torch.from_numpy(even.astype(np.int64).clip(0, 999))
        latents = self.latents[torch.from_numpy(rows).to(self.latents.device)]
        noise = torch.randn(latents.shape, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        moved = [
            tensor.to(self.device)
            for tensor in (latents, self.tokens_of(prompts), timesteps, noise)
        ]
        return tuple(moved)


def start(
    path: Path, settings: DenoiserSettings, seed: int, device: str, init_from: Path | None = None
) -> Run:
    """The run of a checkpoint or, where there is none, one of exported or random weights."""
    networks = Networks(settings, device, seed)
    if not path.exists() and init_from is not None:
        load_exported(networks, init_from)
    return resume(path, networks)


def load_exported(networks: Networks, folder: Path) -> None:
    """Take the weights of an exported pipeline, as float32."""
    from safetensors.torch import load_file

    parts = ("text_encoder", "model.safetensors"), ("unet", "diffusion_pytorch_model.safetensors")
    state = {}
    for part, name in parts:
        file = folder / part / name
        if not file.exists():
            raise dataset.DataError(
                f"init_from: expected {part}/{name} in the folder, given {str(folder)!r}"
            )
        state[part] = {key: value.float() for key, value in load_file(file).items()}
    try:
        networks.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise dataset.DataError(
            f"init_from: expected weights of the settings' shape, given {reason}"
        ) from error


def token_cache(tokens: Any) -> Callable[[list[str]], Any]:
    """A function from prompts to token numbers that remembers each prompt it has seen."""
    import torch

    known: dict[str, Any] = {}

    def tokens_of(prompts: list[str]) -> Any:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        if new:
            known.update(zip(new, tokenizer.encode(tokens, new), strict=True))
        return torch.stack([known[prompt] for prompt in prompts])

    return tokens_of
