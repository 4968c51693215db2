"""From a run's folder to the model folder of emoji-ar: both halves as diffusers and transformers
save them, fp16, with card and notices.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import course, gpt, loop, model_folder, samples_ar, tokenizer
from . import vq_autoencoder as vq
from .card import card_ar
from .emoji_ar import RECIPE, EmojiARSettings
from .model_folder import choose_weights, count, hours, replacing
from .parts_ar import write_parts


def export(
    *,
    run: str | os.PathLike[str] = "emoji-ar-run",
    to: str | os.PathLike[str] = "emoji-ar",
    weights: str = "auto",
    evaluation: model_folder.Evaluation = None,
    draw_samples: bool = True,
) -> Path:
    """Write the model folder `to`, replacing what is there in one rename; returns it.

    run: the training folder; weights: "average" of gpt.pt, "cooled" of cooled.pt, or
    "auto": cooled where it is the newer one.
    evaluation: a JSON file written by :func:`.evaluate.write`, for the card.
    """
    folder, target = Path(run), Path(to)
    settings = RECIPE.load_settings(folder)
    tokens = tokenizer.load(folder / "tokenizer")
    shape = replace(settings.gpt, vocabulary=len(tokens))
    checkpoint = choose_weights(folder, weights, RECIPE.checkpoint)
    trained = gpt.start(checkpoint, shape, settings.seed, "cpu")
    trained.networks.load_average(trained.average.values)
    model = vq.load(folder, settings.vq)
    with replacing(target) as partial:
        write_parts(partial, trained.networks, model, folder / "tokenizer")
        drafts = write_drafts(partial, folder / "tokens.npz")
        if draw_samples:
            samples_ar.draw(partial, partial / "samples.png")
        write_words(partial, folder, trained, settings, evaluation, drafts)
    return target


def decoder_facts(path: Path) -> dict[str, Any] | None:
    """How long the decoder was trained further, if it was."""
    if not path.exists():
        return None
    state = loop.load_checkpoint(path)
    return {"steps": state["step"], "hours": hours(state["seconds"])}


def write_drafts(folder: Path, tokens: Path) -> dict[str, int]:
    """Writes drafts for Jacobi decoding: the tokens of the training pictures, all or as many as
    a checkpoint may hold, evenly spaced. Returns how many are kept, of how many.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from ..pipelines.reading import MAX_DRAFTED

    with np.load(tokens, allow_pickle=False) as kept:
        drafts = kept["tokens"]
    drafts = np.unique(drafts.reshape(-1, *drafts.shape[2:]), axis=0)
    count, most = len(drafts), MAX_DRAFTED // drafts[0].size
    if count > most:
        drafts = drafts[np.linspace(0, count - 1, most).astype(np.int64)]
    save_file({"drafts": drafts}, folder / "tokens" / "model.safetensors")
    return {"kept": len(drafts), "of": count}


def write_words(
    folder: Path,
    run: Path,
    trained: course.Run,
    settings: EmojiARSettings,
    evaluation: model_folder.Evaluation,
    drafts: dict[str, int],
) -> None:
    """See model_folder.write_words."""
    coder = loop.load_checkpoint(run / f"{vq.STAGE}.pt")
    model_folder.write_words(
        folder,
        run,
        RECIPE,
        trained,
        settings,
        evaluation,
        curves=("picture", "text"),
        card=card_ar,
        parameters={
            "transformer": count(trained.networks.model),
            "vqvae": count(vq.build(settings.vq)),
        },
        gpt=trained.networks.settings.describe(),
        vq=settings.vq.describe()
        | {"steps": coder["step"], "hours": hours(coder["seconds"])}
        | {"used": coder["used"], "perplexity": round(coder["perplexity"], 1)},
        decoder=decoder_facts(run / vq.DECODER),
        drafts=drafts,
    )
