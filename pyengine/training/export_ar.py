"""From a run's folder to the model folder of emoji-ar: both halves as diffusers and transformers
save them, fp16, with card and notices.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from . import emoji_ar, gpt, loop, recipe, samples, samples_ar, tokenizer
from . import vq_autoencoder as vq
from .card import NOTICE, card_ar
from .export import choose_weights, new_folder, replace_folder, tidy_config

# What pyengine uses where a call says nothing.
DEFAULTS = {"guidance_scale": 2.0, "temperature": 1.0, "top_k": 200, "top_p": 0.95}
INDEX = {
    "_class_name": "PictureGPTPipeline",
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokens": ["pyengine", "PictureTokens"],
    "transformer": ["transformers", "LlamaForCausalLM"],
    "vqvae": ["diffusers", "VQModel"],
}


def export(
    *,
    run: str | os.PathLike[str] = "emoji-ar-run",
    to: str | os.PathLike[str] = "emoji-ar",
    weights: str = "auto",
    evaluation: str | os.PathLike[str] | None = None,
    draw_samples: bool = True,
) -> Path:
    """Write the model folder `to`, replacing what is there in one rename; returns it.

    run: the training folder; weights: "average" of gpt.pt, "cooled" of cooled.pt, or
    "auto": cooled where it is the newer one.
    evaluation: a JSON file written by :func:`.evaluate.write`, for the card.
    """
    folder, target = Path(run), Path(to)
    settings = emoji_ar.load_settings(folder)
    tokens = tokenizer.load(folder / "tokenizer")
    shape = replace(settings.gpt, vocabulary=len(tokens))
    trained = gpt.start(choose_weights(folder, weights, "gpt.pt"), shape, settings.seed, "cpu")
    model = vq.load(folder, settings.vq)
    partial = new_folder(target)
    trained.networks.load_average(trained.average.values)
    write_parts(partial, trained.networks, model, folder / "tokenizer")
    drafts = write_drafts(partial, folder / "tokens.npz")
    if draw_samples:
        samples_ar.draw(partial, partial / "samples.png")
    write_words(partial, folder, trained, settings, evaluation, drafts)
    replace_folder(partial, target)
    return target


def write_parts(folder: Path, networks: gpt.Networks, model, tokenizer_files: Path) -> None:
    """The folder that pyengine loads: both models in float16. They themselves stay as they are."""
    import torch

    copies = (
        ("transformer", gpt.build(networks.settings), networks.model),
        ("vqvae", type(model).from_config(model.config), model),
    )
    for name, copy, trained in copies:
        copy.load_state_dict(trained.state_dict())
        copy.to(torch.float16).save_pretrained(folder / name, safe_serialization=True)
        tidy_config(folder / name / "config.json")
    (folder / "transformer" / "generation_config.json").unlink(missing_ok=True)
    shutil.copytree(tokenizer_files, folder / "tokenizer")
    (folder / "tokens").mkdir()
    _write(folder / "tokens" / "config.json", networks.settings.tokens())
    _write(folder / "model_index.json", INDEX)
    _write(folder / "pyengine.json", DEFAULTS)
    for file in folder.rglob("*.*"):
        file.chmod(0o644)


def decoder_facts(path: Path) -> dict | None:
    """How long the decoder was trained further, if it was."""
    if not path.exists():
        return None
    state = loop.load_checkpoint(path)
    return {"steps": state["step"], "hours": round(state["seconds"] / 3600, 2)}


def write_drafts(folder: Path, tokens: Path) -> dict[str, int]:
    """The tokens that the transformer was trained on, of which Jacobi decoding makes guesses: all
    pictures, or as many as a model may bring, evenly spaced. Returns how many, of how many.
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


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_words(folder: Path, run: Path, trained, settings, evaluation, drafts: dict) -> None:
    """concepts.txt, NOTICE, curves.png, training.json and the card."""
    log = run / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    (folder / "concepts.txt").write_text("\n".join(settings.labels) + "\n", encoding="utf-8")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
    stages = [r for r in records if r["stage"] in (gpt.STAGE, "gpt-cooldown")]
    samples.save_png(folder / "curves.png", samples.curve(stages, ("picture", "text")))
    coder = loop.load_checkpoint(run / f"{vq.STAGE}.pt")
    shape = trained.networks.settings
    facts = {
        "seed": settings.seed,
        "styles": list(settings.styles),
        "labels": len(settings.labels),
        "steps": trained.step,
        "cooled": trained.cooled,
        "samples": trained.step * shape.batch,
        "hours": round(trained.seconds / 3600, 2),
        "parameters": {
            name: sum(p.numel() for p in module.parameters())
            for name, module in (
                ("transformer", trained.networks.model),
                ("vqvae", vq.build(settings.vq)),
            )
        },
        "gpt": shape.describe(),
        "vq": {name: loop.plain(value) for name, value in asdict(settings.vq).items()}
        | {"steps": coder["step"], "hours": round(coder["seconds"] / 3600, 2)}
        | {"used": coder["used"], "perplexity": round(coder["perplexity"], 1)},
        "decoder": decoder_facts(run / vq.DECODER),
        "history": recipe.load_history(run),
        "drafts": drafts,
        "evaluation": None if evaluation is None else json.loads(Path(evaluation).read_text()),
    }
    _write(folder / "training.json", facts)
    (folder / "README.md").write_text(card_ar(facts), encoding="utf-8")
