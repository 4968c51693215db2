"""From a small model's run to the model folder that pyengine loads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import card, course, model_folder, recipe, samples
from .model_folder import count, replacing, write_json
from .small import SmallRecipe


def export(
    small: SmallRecipe,
    *,
    run: str | os.PathLike[str] | None = None,
    to: str | os.PathLike[str] | None = None,
    data: recipe.Data = None,
    evaluation: model_folder.Evaluation = None,
    draw_samples: bool = True,
) -> Path:
    """Write the model folder `to`, replacing what is there in one rename; returns it.

    run: the training folder. data: as of training. evaluation: a JSON file written by
    :func:`.evaluate.write`, for the card.
    """
    kind = small.kind
    folder, target = Path(run or kind.out), Path(to or f"emoji-{small.name}")
    settings = kind.load_settings(folder)
    model_folder.choose_weights(folder, "average", kind.checkpoint)
    opened = recipe.open_run(kind, folder, data, None, settings)
    trained, _ = small.load(opened, "cpu")
    trained.networks.load_average(trained.average.values)
    with replacing(target) as partial:
        write_parts(small, partial, trained.networks)
        if draw_samples and small.draws:
            draw(partial, partial / "samples.png")
        model_folder.write_words(
            partial,
            folder,
            kind,
            trained,
            settings,
            evaluation,
            curves=small.curves,
            notice=card.NOTICE_SMALL + card.BORROWED[small.borrows],
            card=lambda facts: card.card_small(small, settings.model, facts),
            parameters=parameters(trained.networks),
            model=settings.model.describe(),
        )
    return target


def parameters(networks: course.Networks) -> dict[str, int]:
    """How many the exported networks have, by name."""
    return {name: count(module) for name, module in networks.exported.items()}


def write_parts(small: SmallRecipe, folder: Path, networks: Any) -> None:
    """The parts of the model, readable by all."""
    small.write(folder, networks)
    for file in folder.rglob("*.*"):
        file.chmod(0o644)


def write_model(folder: Path, config: dict[str, Any], modules: dict[str, Any]) -> None:
    """config.json and model.safetensors, in float16. modules: by the engine's name of each, whose
    parameters have the engine's names.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    state = {
        f"{name}.{key}": value.detach().half().contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    save_file(state, folder / "model.safetensors")


def write_module(folder: Path, config: dict[str, Any], module: Any) -> None:
    """The same of one module that has the engine's names itself."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    state = {key: value.detach().half().contiguous() for key, value in module.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def draw_grid(small: SmallRecipe, path: Path, run: course.Run) -> None:
    """Write a sheet of samples.PROMPTS, drawn by pyengine with the averaged weights."""
    with run.averaged(), tempfile.TemporaryDirectory() as folder:
        write_parts(small, Path(folder), run.networks)
        draw(Path(folder), path)


def draw(folder: Path, path: Path, prompts: Sequence[str] = samples.PROMPTS) -> None:
    """Write a sheet of the prompts, drawn by a model folder."""
    from .. import from_pretrained

    pipe = from_pretrained(folder, device="cpu")
    samples.draw(path, samples.generator(pipe, steps=None, guidance=None), prompts)
