"""Calls pyengine.training, which needs the extra `train`, for `pyengine train` and `eval`."""

import importlib
import os
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Any

from ..errors import RequestError, UnavailableError
from ..jobs import checks
from ..pipelines.placing import find_device
from . import concepts as labels


def training(module: str) -> Any:
    """pyengine.training.<module>; raises UnavailableError where the extra is not installed."""
    try:
        return importlib.import_module(f"pyengine.training.{module}")
    except ModuleNotFoundError as e:
        if e.name is not None and e.name.startswith("pyengine"):
            raise
        raise UnavailableError(
            f"training needs the package {e.name}: pip install 'pyengine[train]'"
        ) from e


def run_emoji(*, device: str, export: Path | None, **options: Any) -> int:
    place = str(find_device(device))
    out = training("emoji").train(device=place, **options)
    print(out)
    if export is not None:
        print(training("export").export(run=out, to=export, data=options["data"]))
    return 0


def run_emoji_ar(
    *, device: str, export: Path | None, cool: int, sharpen: int, **options: Any
) -> int:
    recipe, place = training("emoji_ar"), str(find_device(device))
    out = recipe.train(device=place, **options)
    print(out)
    if export is not None:
        again = {"data": options["data"], "out": out, "threads": options["threads"]}
        if cool:
            recipe.cool(**again, device=place, steps=cool)
        if sharpen and not (out / "decoder.pt").exists():
            recipe.sharpen(**again, device=place, steps=sharpen)
        print(training("export_ar").export(run=out, to=export))
    return 0


def run_small(*, name: str, device: str, export: Path | None, **options: Any) -> int:
    """A recipe of a module that is called as it is, such as one_shot for `one-shot`."""
    recipe = training(name.replace("-", "_")).RECIPE
    out = training("small_training").train(recipe, device=str(find_device(device)), **options)
    print(out)
    if export is not None:
        folder = training("small_folder")
        print(folder.export(recipe, run=out, to=export, data=options["data"]))
    return 0


def run_lora(
    *, device: str, export: Path | None, data: Path | None, out: Path, **options: Any
) -> int:  # fmt: skip
    place, recipe = str(find_device(device)), training("lora")
    recipe.check(options["model"])  # before the minutes of building the pictures
    options |= {"data": data or built_data(out, options["style"]), "out": out}
    out = recipe.train(device=place, **options)
    print(out)
    if export is not None:
        print(training("lora_export").export(run=out, to=export, data=options["data"]))
    return 0


def built_data(run: Path, style: str) -> Path | None:
    """The pictures in a run's folder, which are built where they are not there; None where
    $PYENGINE_DATA says where others are. Raises RequestError for a style that is not built.
    """
    dataset, place = training("dataset"), run / "data"
    if os.environ.get(dataset.DATA_VARIABLE):
        return None
    if not (place / dataset.TRAIN).is_file():
        builder = training("data")
        checks.choice("style", style, builder.STYLES)
        builder.build(place)
    return place


def run_data(*, out: Path, packages: list[Path] | None, **options: Any) -> int:
    print(training("data").build(out, packages=packages or None, **options))
    return 0


def run_evaluation(
    *, model: str, data: Path | None, concepts: Path | None, style: str, count: int, seed: int,
    guidance: float | None, device: str, pictures: Path | None, json: bool, features: str,
    save: Path | None, steps: int | None, repeats: int,
) -> int:  # fmt: skip
    from ..pipelines import from_pretrained

    measure = training("guide_measures").measure_of(model)
    if measure is not None:
        refused = {"guidance": guidance, "steps": steps, "pictures": pictures, "save": save,
                   "repeats": None if repeats == 1 else repeats}  # fmt: skip
        return _measure_guide(model, measure, data, concepts, style, count, seed, json, refused)
    evaluate, samples, measures = (
        training(name) for name in ("evaluate", "samples", "set_measures")
    )
    sets = None
    if features != "none":
        sets = measures.sets_over(measures.load_features(features))
    pipe = from_pretrained(model, device=device)
    result = evaluate.evaluate(
        samples.generator(pipe, steps=steps, guidance=guidance),
        concepts=concepts or concepts_of(pipe),
        data=data,
        style=style,
        count=count,
        seed=seed,
        repeats=repeats,
        autoencode=autoencoder(pipe),
        save_images=pictures,
        sets=sets,
    )
    result["weights"] = pipe.model_hash
    if hasattr(pipe, "bits_per_dimension"):
        everything = training("dataset").load(data)
        known = evaluate.read_concepts(concepts or concepts_of(pipe))
        result["bits_per_dimension"] = training("likelihood").bits(
            pipe, everything, known, style, count, seed
        )
    if save is not None:
        measures.merge(save, Path(model).name, result)
    print(dumps(result) if json else evaluate.report(result))
    return 0


def _measure_guide(
    model: str, measure: Any, data: Path | None, concepts: Path | None, style: str, count: int,
    seed: int, json: bool, refused: dict[str, Any],
) -> int:  # fmt: skip
    """`eval` of a model that guides others. refused: options of models that draw."""
    for name, value in refused.items():
        if value is not None:
            raise RequestError(f"{name}: expected without {model}, which draws nothing")
    guides, evaluate, dataset = (
        training(name) for name in ("guide_measures", "evaluate", "dataset")
    )
    folder = guides.folder_of(model)
    known = evaluate.read_concepts(concepts or folder / "concepts.txt")
    result = measure(folder, dataset.load(data), known, style, count, seed)
    print(dumps(result) if json else training("guide_report").report(result))
    return 0


def concepts_of(pipe: Any) -> Path:
    path = labels.file_of(pipe.checkpoint)
    if path is None:
        raise UnavailableError(f"{pipe.source} has no concepts.txt: name one with --concepts")
    return path


def autoencoder(pipe: Any, batch: int = 32) -> Callable[[Any], Any] | None:
    """uint8 pictures [N, H, W, 3] through the model's autoencoder, or VQ-VAE, and back; None for a
    model without.
    """
    vq = getattr(pipe, "vq", getattr(pipe, "vqvae", None))
    if vq is None and not hasattr(pipe, "vae"):
        return None
    import numpy as np
    import torch

    from ..images import from_tensor

    def through(x: torch.Tensor) -> Any:
        if vq is not None:
            return vq.decode_tokens(vq.encode_tokens(x)).sample
        return pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample

    def run(images: np.ndarray) -> np.ndarray:
        parts = []
        for i in range(0, len(images), batch):
            x = torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1
            parts.append(from_tensor(through(x.to(pipe.device)), "np"))
        return (np.concatenate(parts) * 255).round().astype(np.uint8)

    return run
