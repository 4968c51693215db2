"""Tiny runs of the small recipes, on the pictures of conftest."""

import torch

from pyengine.training import small, small_folder, small_training


def quiet(line):
    pass


def settings_of(recipe, pictures, **numbers):
    """Settings of a run on all pictures. numbers: of the recipe's model."""
    shape = {"size": 16, "batch": 4, "warmup": 2, "cooldown": 2, "variants": 2, **numbers}
    labels, styles = (tuple(dict.fromkeys(x)) for x in (pictures.labels, pictures.styles))
    return small.RunSettings(recipe.settings(**shape), labels=labels, styles=styles)


def train(recipe, pictures, folder, steps, settings, **more):
    return small_training.train(
        recipe,
        data=pictures,
        out=folder,
        steps=steps,
        settings=settings,
        sample_minutes=0,
        log_every=2,
        echo=quiet,
        **more,
    )


def export(recipe, pictures, run, to):
    return small_folder.export(recipe, run=run, to=to, data=pictures)


def same_after_a_stop(recipe, pictures, tmp_path, settings, steps=6):
    """Asserts that a run that was stopped has the weights of one that was not."""
    whole = train(recipe, pictures, tmp_path / "whole", steps, settings)
    parts = train(recipe, pictures, tmp_path / "parts", steps, settings, minutes=1e-9)
    assert 0 < torch.load(parts / "model.pt", weights_only=True)["step"] < steps
    train(recipe, pictures, parts, steps, settings)
    one, two = (torch.load(f / "model.pt", weights_only=True) for f in (whole, parts))
    assert one["step"] == two["step"] == steps
    assert differences(one, two) == []


def differences(one, two, path=""):
    """The places at which two checkpoints differ, besides the time that they took."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, two) else [path]
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        skipped = {"seconds"}
        return [
            d for k in one if k not in skipped for d in differences(one[k], two[k], f"{path}.{k}")
        ]
    if isinstance(one, list | tuple):
        assert len(one) == len(two), path
        pairs = enumerate(zip(one, two, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}.{i}")]
    return [] if one == two else [path]


def assert_draws(folder, pictures, images):
    """The exported folder draws: alone, in a batch and on other threads the same bits."""
    import pyengine

    pipe = pyengine.from_pretrained(folder, device="cpu")
    prompts = [f"a {label}" for label in dict.fromkeys(pictures.labels)]
    whole = pipe(prompts, seed=3, output_type="pt", num_images_per_prompt=2).images
    assert whole.shape == images
    for row in (0, 5):
        alone = pipe(prompts[row // 2], seed=3 + row, output_type="pt").images[0]
        assert torch.equal(alone, whole[row])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        again = pipe(prompts, seed=3, output_type="pt", num_images_per_prompt=2).images
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again, whole)
    return pipe
