"""From a run of :mod:`.lora` to the folder of its LoRA: the file, a sheet, a card and notices."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import captions, dataset, evaluate, loop, model_folder, recipe, samples
from .lora import CHECKPOINT, LoraSettings, find_model
from .lora_card import LORA_NOTICE, lora_card

#: Pictures of the sheet; they are the first of those that are counted.
COLUMNS, COUNTED = 12, 24


def export(
    *, run: str | os.PathLike[str] = "lora-run", to: str | os.PathLike[str], data: recipe.Data
) -> Path:
    """Write the folder `to`, replacing what is there in one rename; returns it.

    It holds `<name of the folder>.safetensors`, which `pipe.load_lora` and diffusers read,
    sheet.png (without and with it), training.json, README.md and NOTICE. run: the training folder.
    data: as in training; for counting how many pictures are nearer to the new style's.
    """
    folder, target = Path(run), Path(to)
    settings: LoraSettings = recipe.load_settings(folder, LoraSettings, {})
    state = loop.load_checkpoint(folder / CHECKPOINT, settings.shape())
    everything = data if isinstance(data, dataset.Pictures) else dataset.load(data)
    with model_folder.replacing(target) as partial_:
        file = partial_ / f"{target.name}.safetensors"
        write(file, state, settings)
        facts = _facts(state, settings, folder)
        facts["bytes"] = file.stat().st_size
        facts["evaluation"] = _draw(partial_ / "sheet.png", file, settings, everything)
        model_folder.write_json(partial_ / "training.json", facts)
        (partial_ / "README.md").write_text(lora_card(facts, target.name), encoding="utf-8")
        (partial_ / "NOTICE").write_text(LORA_NOTICE, encoding="utf-8")
    return target


def write(file: Path, state: dict[str, Any], settings: LoraSettings) -> None:
    """The averaged weights of a checkpoint in diffusers' names, float16.

    The scale alpha / rank is multiplied into the second factor, so that no reader can miss it.
    """
    import torch
    from safetensors.torch import save_file

    tensors, values = {}, iter(state["average"])
    for part, own in state["model"].items():
        for name in own:
            value = next(values)
            if ".lora_B." in name:
                value = value * (settings.alpha / settings.rank)
            tensors[f"{part}.{name}"] = value.to(torch.float16).contiguous()
    metadata = {"format": "pt", "ss_sd_model_name": Path(settings.model).name}
    save_file(tensors, file, metadata=metadata)
    file.chmod(0o644)


def _facts(state: dict[str, Any], settings: LoraSettings, folder: Path) -> dict[str, Any]:
    described = settings.describe()
    described["model"] = Path(settings.model).name
    described["labels"] = len(settings.labels)
    return described | {
        "done": state["step"],
        "cooldown": settings.cooldown,
        "minutes": round(state["seconds"] / 60, 1),
        "parameters": sum(value.numel() for value in state["average"]),
        "loss": [
            {name: record[name] for name in ("step", "loss", "v_error")}
            for record in model_folder.log_records(folder)
        ],
    }


def _draw(
    sheet: Path, file: Path, settings: LoraSettings, everything: dataset.Pictures
) -> dict[str, Any]:
    """Draws labels without the LoRA and with it; returns how many are of the style.

    The sheet: a row of pictures without, below it the same prompts and seeds with.
    """
    from ..pipelines import from_pretrained

    model = find_model(settings.model)
    pipe: Any = from_pretrained(model)  # of Stable Diffusion: the one whose U-Net was trained
    name = pipe.load_lora(file)
    asked = evaluate.choose(settings.labels, COUNTED, settings.seed)
    prompts = [captions.with_article(label) for label in asked]
    order = np.random.default_rng(settings.seed).permutation(len(asked))
    drawn = {}
    for which, lora in (("without", None), ("with", {name: 1.0})):
        generate = samples.generator(partial(pipe, lora=lora), steps=None, guidance=None)
        drawn[which] = generate(prompts, range(len(prompts)))
    shown = order[:COLUMNS]
    samples.save_png(
        sheet,
        samples.grid(np.concatenate([drawn[w][shown] for w in drawn]), min(COLUMNS, len(shown))),
    )
    others = _styles_of(model, settings.style)
    return {
        "asked": len(asked),
        "others": list(others),
        "sheet": [prompts[i] for i in shown],
        **{
            which: evaluate.style_share(images, asked, everything, settings.style, others)
            for which, images in drawn.items()
        },
    }


def _styles_of(model: Path, style: str) -> Sequence[str]:
    """The styles that the model was trained on, but the LoRA's; none where its training.json does
    not say.
    """
    file = model / "training.json"
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return tuple(s for s in facts.get("styles", ()) if s != style)
