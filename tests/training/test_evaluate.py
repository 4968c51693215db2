"""The measure itself: a perfect artist, one who draws the wrong thing, and bad requests."""

import numpy as np
import pytest

from pyengine.errors import RequestError
from pyengine.training import evaluate


def artist(pictures, style, shift=0):
    """Draws the real picture of the label asked for, or that of another label."""
    rows = [i for i, s in enumerate(pictures.styles) if s == style]

    def generate(prompts, seeds):
        assert len(set(seeds)) == len(prompts)
        places = [
            next(n for n, i in enumerate(rows) if pictures.labels[i] in prompt)
            for prompt in prompts
        ]
        return pictures.images[[rows[(place + shift) % len(rows)] for place in places]]

    return generate


def measure(pictures, generate, **more):
    labels = tuple(dict.fromkeys(pictures.labels))
    options = {"concepts": labels, "data": pictures, "style": "flat", "styles": ("flat", "round")}
    return evaluate.evaluate(generate, **(options | more))


def test_perfect_artist(pictures):
    result = measure(pictures, artist(pictures, "flat"), autoencode=lambda images: images)
    assert result["asked"] == 4
    assert result["searched"] == 8
    for name in ("model", "model_all_pictures", "ceiling"):
        assert result[name] == {"top1": 1.0, "top5": 1.0, "median_distance": 0.0, "copies": 1.0}
    assert result["floor"]["top1"] == 0.0


def test_wrong_things_score_nothing(pictures):
    result = measure(pictures, artist(pictures, "flat", shift=1))
    assert result["model"]["top1"] == 0.0
    assert "ceiling" not in result


def test_new_pictures_are_no_copies(pictures):
    def tinted(prompts, seeds):
        return artist(pictures, "flat")(prompts, seeds) // 5 * 4

    result = measure(pictures, tinted)
    assert result["model"]["copies"] == 0.0
    assert result["model"]["median_distance"] > evaluate.COPY_DISTANCE


def test_choice_of_labels_is_repeatable():
    labels = [f"thing {i}" for i in range(50)]
    assert evaluate.choose(labels, 10, 1) == evaluate.choose(labels, 10, 1)
    assert evaluate.choose(labels, 10, 1) != evaluate.choose(labels, 10, 2)
    assert evaluate.choose(labels, 99, 1) == labels


def test_distance_of_black_and_white_is_one():
    black, white = np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 32, 32, 3), 255, np.uint8)
    table = evaluate.distances(evaluate.features(black), evaluate.features(white))
    assert table == pytest.approx(np.ones((1, 1)), abs=1e-5)


def test_concepts_from_a_file(pictures, tmp_path):
    file = tmp_path / "concepts.txt"
    file.write_text("red thing\n\nblue thing\n")
    assert measure(pictures, artist(pictures, "flat"), concepts=file)["asked"] == 2


def test_report_and_record(pictures, tmp_path):
    result = measure(pictures, artist(pictures, "flat"), save_images=tmp_path / "drawn.npz")
    assert "100.0%" in evaluate.report(result)
    evaluate.write(result, tmp_path / "result.json")
    assert (tmp_path / "result.json").read_text().startswith("{")
    with np.load(tmp_path / "drawn.npz") as drawn:
        assert drawn["images"].shape == (4, 16, 16, 3)


def test_drawn_pictures_as_a_sheet(pictures, tmp_path):
    from PIL import Image

    measure(pictures, artist(pictures, "flat"), save_images=tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").size == (20 * 20 + 4, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"save_images": "drawn.txt"}, r"save_images: expected a \.png or \.npz"),
        ({"count": 0}, "count: expected labels to draw"),
        ({"concepts": ["unknown"]}, "of 0 labels known"),
        ({"concepts": "/nowhere/concepts.txt"}, "concepts: expected a file"),
        ({"style": "oil painting", "styles": ()}, "of 0 labels known"),
    ],
)
def test_bad_requests(pictures, change, message):
    with pytest.raises(RequestError, match=message):
        measure(pictures, artist(pictures, "flat"), **change)


def test_generators_that_return_the_wrong_thing(pictures):
    with pytest.raises(RequestError, match="generate: expected 4 pictures, given 1"):
        measure(pictures, lambda prompts, seeds: pictures.images[:1])
    with pytest.raises(RequestError, match="images: expected uint8"):
        measure(pictures, lambda prompts, seeds: pictures.images[:4] / 255.0)


def test_the_spread_is_over_drawings_from_other_seeds(pictures):
    """The first drawing is right, the second half, the third not at all."""
    drawings = []

    def generate(prompts, seeds):
        drawings.append(list(seeds))
        right = artist(pictures, "flat")(prompts, seeds)
        wrong = artist(pictures, "flat", shift=1)(prompts, seeds)
        count = (4, 2, 0)[len(drawings) - 1]
        return np.concatenate([right[:count], wrong[count:]])

    result = measure(pictures, generate, repeats=3, seed=2)
    assert drawings == [[turn * 100003 + i for i in range(4)] for turn in (2, 3, 4)]
    assert result["model"]["top1"] == 1.0
    assert result["spread"]["drawings"] == 3
    assert result["spread"]["top1"] == {"mean": 0.5, "deviation": 0.5}
    assert "over 3 drawings: top1 0.5 +- 0.5" in evaluate.report(result)
    with pytest.raises(RequestError, match="repeats: expected 1 or more"):
        measure(pictures, generate, repeats=0)


def test_measures_of_sets_are_those_of_the_metrics(pictures):
    """Over features that are the pictures' mean colours, of few pictures."""
    import torch

    from pyengine.metrics import DensityCoverage, KernelDistance
    from pyengine.training import set_measures

    class Colours:
        name, size = "colours", 3

        def __call__(self, images):
            return images.float().mean(dim=(2, 3)) / 255

    real, drawn = pictures.images[:6], pictures.images[2:8]
    found = set_measures.sets_over(Colours())(real, drawn, [""] * 6)
    rows = [torch.from_numpy(x).permute(0, 3, 1, 2) for x in (real, drawn)]
    kernel = KernelDistance(Colours(), subset_size=6, seed=0)
    dense = DensityCoverage(Colours(), k=5)
    for metric in (kernel, dense):
        metric.update(rows[0], real=True)
        metric.update(rows[1], real=False)
    mean, deviation = kernel.compute()
    assert found["kernel_distance"] == pytest.approx(float(mean), abs=1e-6)
    assert found["kernel_deviation"] == pytest.approx(float(deviation), abs=1e-6)
    assert found["density"] == pytest.approx(float(dense.compute().density), abs=1e-4)
    assert found["coverage"] == pytest.approx(float(dense.compute().coverage), abs=1e-4)
    assert set_measures.sets_over(Colours())(real, real, [""] * 6)["coverage"] == 1.0
