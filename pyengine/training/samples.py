"""Samples of a model in training: pipelines, sheets of pictures, and loss curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .denoiser import Networks, build_scheduler

Generate = Callable[[Sequence[str], Sequence[int]], np.ndarray]

#: Denoising steps and guidance scale of the shipped diffusion model.
STEPS, GUIDANCE = 20, 2.5
PROMPTS = (
    "a red heart",
    "a blue heart",
    "a green apple",
    "a rocket",
    "a fox",
    "a red apple",
    "grinning face",
    "smiling face with sunglasses",
    "a dog face",
    "a sunflower",
    "a rainbow",
    "a hamburger",
    "a robot, fluent-3d style",
    "a robot, noto style",
    "an elephant, noto style",
    "a house, fluent-3d style",
    "a guitar",
    "a soccer ball",
    "a butterfly",
    "a crown",
    "a cactus",
    "a fire engine",
    "a pizza",
    "a strawberry emoji",
)


def pipeline(networks: Networks, autoencoder: Any, tokenizer: Any) -> Any:
    """A diffusers StableDiffusionPipeline of the parts; it shares their weights."""
    from diffusers import StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline(  # type: ignore[no-untyped-call]  # no types in diffusers
        vae=autoencoder,
        text_encoder=networks.text_encoder,
        tokenizer=tokenizer,
        unet=networks.unet,
        scheduler=build_scheduler(networks.settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator(
    pipe: Any, *, steps: int | None = STEPS, guidance: float | None = GUIDANCE, batch: int = 32
) -> Generate:
    """A function from prompts and seeds to uint8 pictures; each depends on its own seed only.

    pipe: one of diffusers or of pyengine; steps, guidance: None leaves them to the pipeline.
    """
    import torch

    how = {"num_inference_steps": steps, "guidance_scale": guidance}
    how = {name: value for name, value in how.items() if value is not None}

    def generate(prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        parts = []
        for i in range(0, len(prompts), batch):
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[i : i + batch]]
            result = pipe(
                list(prompts[i : i + batch]),
                **how,
                generator=generators,
                output_type="np",
            )
            parts.append((result.images * 255).round().astype(np.uint8))
        return np.concatenate(parts)

    return generate


def grid(images: np.ndarray, columns: int, gap: int = 4) -> np.ndarray:
    """Pictures side by side on white."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for i, picture in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def draw(path: Path, generate: Generate, prompts: Sequence[str] = PROMPTS) -> None:
    """Write a sheet of the prompts, with seeds counted from 0."""
    save_png(path, grid(generate(prompts, range(len(prompts))), columns=8))


def save_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, optimize=True)


def curve(
    records: Sequence[dict[str, Any]], names: Sequence[str], width: int = 480, height: int = 160
) -> np.ndarray:
    """Log-scale curves of a stage's log records, one below the other, as an RGB picture."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (width, height * len(names)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, name in enumerate(names):
        points = [(record["step"], record[name]) for record in records if record.get(name, 0) > 0]
        top, bottom = place * height + 20, (place + 1) * height - 10
        if len(points) < 2:
            draw.text((6, top - 16), f"{name}: no data", fill="black")
            continue
        steps, values = np.array(points).T
        logs = np.log10(values)
        span = max(1e-6, logs.max() - logs.min())
        x = 8 + (width - 16) * (steps - steps[0]) / max(1, steps[-1] - steps[0])
        y = bottom - (bottom - top) * (logs - logs.min()) / span
        course = f"{values[0]:.4g} to {values[-1]:.4g}"
        text = f"{name}: {course}, steps {int(steps[0])} to {int(steps[-1])}, log scale"
        draw.text((6, top - 16), text, fill="black")
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=(30, 90, 200), width=1)
    return np.asarray(sheet)
