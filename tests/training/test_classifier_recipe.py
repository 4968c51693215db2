"""The recipe of the classifier: it trains, resumes, and its folder guides emoji."""

import dataclasses
import json

import pytest
import small_runs
import torch

import pyengine
from pyengine import cli
from pyengine.models import EncoderUNetModel
from pyengine.pipelines.loading import shipped_folder
from pyengine.training import card, classifier, dataset, guide_measures, loop, small
from pyengine.training.encoder_unet import EncoderUNet
from pyengine.training.prior import encoded


@pytest.fixture(scope="module")
def shown(pictures):
    """As large as the shipped autoencoder's."""
    large = pictures.images.repeat(4, axis=1).repeat(4, axis=2)
    return dataclasses.replace(pictures, images=large)


@pytest.fixture(scope="module")
def settings(shown):
    return small_runs.settings_of(classifier.RECIPE, shown, size=64)


@pytest.fixture(scope="module")
def run(shown, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    return small_runs.train(classifier.RECIPE, shown, folder, 30, settings)


@pytest.fixture(scope="module")
def model(shown, run, tmp_path_factory):
    to = tmp_path_factory.mktemp("to") / "model"
    return small_runs.export(classifier.RECIPE, shown, run, to)


def test_a_run_goes_on_with_the_same_bits(shown, settings, tmp_path):
    small_runs.same_after_a_stop(classifier.RECIPE, shown, tmp_path, settings, 4)


def test_class_k_is_line_k_of_concepts(shown, settings):
    """In the order of the run's labels, not of the pictures; one without a picture counts too."""
    labels = ("nothing", *reversed(settings.labels))
    data = small.Data(shown, settings.model, 1, labels)
    networks = classifier.Networks(settings.model, data, "cpu", 1)
    assert [labels[k] for k in networks.labels] == list(shown.labels)
    assert networks.network.config["out_channels"] == len(labels)


def test_the_loss_falls(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]


@pytest.mark.parametrize(
    ("channels", "levels", "blocks"), [(32, (1, 2), 2), (64, (1, 1, 2), 1), (16, (2, 4, 2), 1)]
)
def test_the_engines_network_is_the_trained_one(channels, levels, blocks):
    """To 1e-5 of the largest number."""
    config = {
        "image_size": 12,
        "in_channels": 5,
        "model_channels": channels,
        "out_channels": 7,
        "num_res_blocks": blocks,
        "attention_resolutions": [2],
        "channel_mult": list(levels),
        "num_head_channels": 16,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        "pool": "attention",
    }
    torch.manual_seed(0)
    trained = EncoderUNet(config).eval()
    own = EncoderUNetModel.from_config(config)
    own.load_state_dict(trained.state_dict(), assign=True)
    own.pack()
    x, times = torch.randn(3, 5, 12, 12), torch.tensor([0.0, 40.0, 999.0])
    with torch.no_grad():
        want = trained(x, times)
    got = own(x, times)
    got = got if isinstance(got, torch.Tensor) else got[0]
    assert got.shape == want.shape == (3, 7)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_the_alphas_are_those_of_emojis_schedule():
    pipe = pyengine.from_pretrained("emoji", device="cpu")
    from pyengine.schedules.noise import alphas_cumprod

    want = torch.as_tensor(alphas_cumprod(pipe.scheduler.sampler.config), dtype=torch.float32)
    assert torch.allclose(classifier.emoji_alphas(), want, rtol=1e-4)


def test_the_folder_guides_emoji(model):
    pipe = pyengine.from_pretrained("emoji", device="cpu")
    call = {"num_inference_steps": 2, "seed": 1, "output_type": "pt", "classifier": str(model)}
    plain = pipe("x", num_inference_steps=2, seed=1, output_type="pt").images
    none = pipe("x", class_labels=1, classifier_scale=0, **call).images
    guided = pipe("x", class_labels=1, classifier_scale=5.0, **call).images
    assert torch.equal(plain, none)
    assert not torch.equal(plain, guided)


def test_its_accuracy_is_measured_by_noise(shown, settings, model):
    """Top 1 of a level is that of its own noise; where there is none the nearest latents are right,
    and where nearly all is noise they are right by chance.
    """
    style, labels = shown.styles[0], settings.labels
    found = guide_measures.accuracy(model, shown, labels, style, 99, 5)
    levels = {row["timestep"]: row for row in found["levels"]}
    assert found["classes"] == len(labels)
    assert list(levels) == list(guide_measures.TIMESTEPS)
    assert levels[0]["best"] == 1.0
    noise = [row["noise"] for row in found["levels"]]
    assert noise == sorted(noise)
    asked = guide_measures.asked_for(shown, labels, style, 99, 5)
    latents, alpha = encoded(asked), classifier.emoji_alphas()[499]
    numbers, net = loop.torch_numbers(5, "classifier", 499), EncoderUNetModel.from_pretrained(model)
    right = []
    for _ in range(guide_measures.DRAWS):
        noise = torch.randn(latents.shape, generator=numbers)
        logits = net(alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, 499)
        right += [labels[k] == own for k, own in zip(logits.argmax(1), asked.labels, strict=True)]
    assert levels[499]["top1"] == pytest.approx(sum(right) / len(right), abs=1e-4)


def test_eval_measures_a_folder_of_it(shown, settings, model, tmp_path, capsys):
    data = tmp_path / "train.npz"
    captions = [
        {"style": style, "label": label}
        for style, label in zip(shown.styles, shown.labels, strict=True)
    ]
    dataset.save(data, shown.images, captions)
    call = ["eval", str(model), "--data", str(data), "--style", shown.styles[0]]
    assert cli.main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == guide_measures.accuracy(model, shown, settings.labels, shown.styles[0], 200, 0)
    assert cli.main(call) == 0
    assert "| timestep | noise" in capsys.readouterr().out
    for option in (["--save", "x.json"], ["--repeats", "2"], ["--steps", "3"]):
        assert cli.main([*call, *option]) != 0
        assert f"{option[0][2:]}: expected without" in capsys.readouterr().err


def test_a_card_says_where_a_run_was_stopped():
    settings = classifier.ClassifierSettings(steps=100, cooldown=40)
    words = [card._stopped(settings, steps) for steps in (100, 80, 50)]
    assert words == [
        "",
        ", descent by 50% over the last 20; stopped at 80 of 100 steps",
        "; stopped at 50 of 100 steps",
    ]


def test_the_shipped_classifier_tells_what_emoji_draws_and_guides_it():
    """Alone, with an empty prompt, its gradient makes its class likelier."""
    things = ["red heart", "green apple", "soccer ball", "fire engine"]
    folder = shipped_folder("emoji-classifier")
    labels = (folder / "concepts.txt").read_text(encoding="utf-8").splitlines()
    net = EncoderUNetModel.from_pretrained(folder)
    pipe = pyengine.from_pretrained("emoji", device="cpu")
    call = {"seed": 1, "num_inference_steps": 8, "output_type": "latent", "guidance_scale": 1.0}
    drawn = pipe([f"a {thing}" for thing in things], **call).images
    assert [labels[k] for k in net(drawn, 0).argmax(dim=1)] == things
    guide = {"classifier": "emoji-classifier", "class_labels": labels.index("red heart")}
    found = [pipe("", **call, **guide, classifier_scale=scale).images for scale in (0, 10)]
    plain, guided = (net(x, 0).log_softmax(dim=1)[0, guide["class_labels"]] for x in found)
    assert guided > plain + 1
