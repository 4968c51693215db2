"""The recipe of clip: it trains, resumes, and its folder guides and scores as a whole CLIP does."""

import json

import numpy as np
import pytest
import small_runs
import torch

import pyengine
from pyengine.errors import CheckpointError, ConfigError
from pyengine.pipelines.clip_guides import load_clip
from pyengine.pipelines.loading import shipped_folder
from pyengine.training import clip, dataset, guide_measures, guide_report, recipe
from pyengine.training.small import Data

SHAPE = {
    "patch": 8,
    "width": 24,
    "layers": 1,
    "heads": 2,
    "inner": 32,
    "projection": 20,
    "shift": 1,
}


@pytest.fixture(scope="module")
def settings(pictures):
    return small_runs.settings_of(clip.RECIPE, pictures, **SHAPE)


@pytest.fixture(scope="module")
def run(pictures, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "run"
    return small_runs.train(clip.RECIPE, pictures, folder, 60, settings, rate=5e-3)


@pytest.fixture(scope="module")
def model(pictures, run, tmp_path_factory):
    return small_runs.export(clip.RECIPE, pictures, run, tmp_path_factory.mktemp("to") / "model")


def test_a_run_goes_on_with_the_same_bits(pictures, settings, tmp_path):
    small_runs.same_after_a_stop(clip.RECIPE, pictures, tmp_path, settings)


def test_it_learns_the_pairs(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]


def test_the_loss_is_that_of_the_paper(settings, pictures):
    """Against numpy in float64, from the embeddings."""
    data = Data(pictures, settings.model, 1)
    networks = clip.Networks(settings.model, data, "cpu", 1)
    images, texts = torch.randn(5, 3, 16, 16), torch.randn(5, data.text.width)
    with torch.no_grad():
        loss, found = networks.loss(images, texts)
        pair = networks.tower(images).image_embeds, networks.projection(texts)
    a, b = (x.double().numpy() / np.linalg.norm(x.double(), axis=1, keepdims=True) for x in pair)
    logits = float(networks.scale.detach().exp()) * a @ b.T
    own = np.diagonal(logits)
    both = [np.log(np.exp(logits).sum(axis)) - own for axis in (0, 1)]
    assert float(loss) == pytest.approx(np.mean(both), rel=1e-5)
    assert float(found) == pytest.approx((logits.argmax(1) == np.arange(5)).mean())


def test_the_folder_is_a_whole_clip(model, run, pictures, settings):
    """The engine's two halves give what the trained networks give, to the weights' float16."""
    models = load_clip(model, torch.device("cpu"))
    opened = recipe.open_run(clip.RECIPE.kind, run, pictures, None, settings)
    trained, _ = clip.RECIPE.load(opened, "cpu")
    trained.networks.load_average(trained.average.values)
    data = Data(pictures, settings.model, 1)
    pixels = clip.normalised(pictures.images[:3])
    with torch.no_grad():
        want = trained.networks.tower(pixels).image_embeds
    got = models.tower(pixels).image_embeds
    assert (got - want).abs().max() <= 5e-3 * want.abs().max()
    batches = clip.Batches(data, "clip", "cpu")
    prompts = [prompt for row in data.texts.prompts for prompt in row][:4]
    with torch.no_grad():
        want = trained.networks.projection(batches.pooled[:4])
    ids = torch.tensor(models.tokenizer(prompts, 24)[0])
    got = models.texts(ids).text_embeds
    assert (got - want).abs().max() <= 5e-3 * want.abs().max()


def test_a_text_encoder_of_anything_else_is_refused(model, tmp_path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("../emoji", "emoji-ar", 3):
        (tmp_path / "config.json").write_text(json.dumps({**config, "text_encoder": name}))
        with pytest.raises(ConfigError, match="text_encoder: expected emoji"):
            load_clip(tmp_path, torch.device("cpu"))


def test_the_shipped_clip_tells_things_apart_and_guides():
    things = ["a red heart", "a green apple", "a soccer ball", "a fire engine"]
    pipe = pyengine.from_pretrained("emoji", device="cpu")
    pictures = pipe(things, seed=1, num_inference_steps=10).images
    pipe_call = {"num_inference_steps": 3, "seed": 1, "output_type": "pt"}
    plain = pipe("a picture", **pipe_call).images
    none = pipe("a picture", clip_model="emoji-clip", clip_guidance_scale=0, **pipe_call).images
    guided = pipe("a picture", clip_model="emoji-clip", clip_prompt=things[0], **pipe_call).images
    assert torch.equal(plain, none)
    assert not torch.equal(plain, guided)
    models = load_clip(shipped_folder("emoji-clip"), torch.device("cpu"))
    rows = torch.nn.functional.normalize(models.embedded(pictures), dim=1)
    ids = torch.tensor(models.tokenizer(things, 24)[0])
    texts = torch.nn.functional.normalize(models.texts(ids).text_embeds, dim=1)
    assert (rows @ texts.T).argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_retrieval_by_the_shipped_clip_is_measured():
    """Of pictures of four things, told from four prompts; and of pictures of other things."""
    things = ["red heart", "green apple", "soccer ball", "fire engine"]
    pipe = pyengine.from_pretrained("emoji", device="cpu")
    drawn = pipe(
        [f"a {thing}" for thing in things], seed=1, num_inference_steps=10, output_type="np"
    ).images
    images = (np.stack(drawn) * 255).round().astype(np.uint8)
    folder = shipped_folder("emoji-clip")

    def found(labels):
        captions = [json.dumps({"style": "drawn", "label": label}) for label in labels]
        pictures = dataset.from_arrays(images, captions)
        return guide_measures.retrieval(folder, pictures, things, "drawn", 99, 0)

    right, wrong = found(things), found(things[1:] + things[:1])
    assert (right["asked"], right["prompts"], right["top1"], right["top5"]) == (4, 4, 1.0, 1.0)
    assert (wrong["top1"], wrong["top5"]) == (0.0, 1.0)
    assert "top 1 100.0%" in guide_report.report(right)
    assert guide_measures.measure_of("emoji-clip") is guide_measures.retrieval
    assert guide_measures.measure_of("emoji-masked") is None


@pytest.mark.parametrize(
    ("name", "argument"), [("emoji-clip", "clip_model"), ("emoji-classifier", "classifier")]
)
def test_a_guide_says_what_it_is_given_to(name, argument):
    with pytest.raises(CheckpointError, match=f"expected as {argument}='{name}' of a call"):
        pyengine.from_pretrained(name)
