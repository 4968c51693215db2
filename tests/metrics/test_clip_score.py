"""CLIP's score against torchmetrics', over a small CLIP of random weights."""

import json
import shutil

import pytest
import torch

from pyengine.errors import RequestError
from pyengine.metrics import CLIPScore
from pyengine.pipelines.clip_features import ClipFeatures
from pyengine.pipelines.loading import shipped_folder

TEXTS = ["a red heart", "a fox", "an ogre, noto style", "a house", ""]


def pictures():
    g = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (5, 3, 40, 31), dtype=torch.uint8, generator=g)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIPModel as transformers saves it, with the shipped tokenizer."""
    transformers = pytest.importorskip("transformers")
    text = {
        "vocab_size": 3072, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 24, "bos_token_id": 3070,
        "eos_token_id": 3071, "pad_token_id": 3071,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = transformers.CLIPModel(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    place = tmp_path_factory.mktemp("clip")
    model.save_pretrained(place)
    for path in (shipped_folder("emoji") / "tokenizer").iterdir():
        shutil.copy(path, place / path.name)
    (place / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"shortest_edge": 32},
                "crop_size": {"height": 32, "width": 32},
            }
        )
    )
    return place


class _Embeds:
    """transformers' CLIPModel as torchmetrics calls it: version 5 gives features with others."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def to(self, device):
        return self

    def get_image_features(self, *given):
        return self._only(self.model.get_image_features(*given))

    def get_text_features(self, *given):
        return self._only(self.model.get_text_features(*given))

    @staticmethod
    def _only(found):
        return found if isinstance(found, torch.Tensor) else found.pooler_output


def test_it_is_torchmetrics_score(folder):
    transformers = pytest.importorskip("transformers")
    from torchmetrics.multimodal import CLIPScore as Theirs

    def parts():
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        images = transformers.CLIPImageProcessor.from_pretrained(folder)
        model = transformers.CLIPModel.from_pretrained(folder).eval()
        return _Embeds(model), transformers.CLIPProcessor(images, tokenizer)

    theirs, ours = Theirs(parts), CLIPScore(ClipFeatures(folder))
    for rows in (slice(0, 2), slice(2, 5)):
        theirs.update(list(pictures()[rows]), TEXTS[rows])
        ours.update(pictures()[rows], TEXTS[rows])
    mean = float(theirs.score / theirs.n_samples)
    assert abs(mean) > 1e-2
    assert ours.sum / ours.count == pytest.approx(mean, abs=1e-4)
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), abs=1e-4)


def test_two_machines_make_one_score(folder):
    features = ClipFeatures(folder)
    whole, one, two = (CLIPScore(features) for _ in range(3))
    whole.update(pictures(), TEXTS)
    one.update(pictures()[:1], TEXTS[0])
    two.update(pictures()[1:], TEXTS[1:])
    one.merge_state(two)
    assert float(one.compute()) == pytest.approx(float(whole.compute()), abs=1e-12)
    one.reset()
    with pytest.raises(RequestError, match="at least one picture"):
        one.compute()


def test_the_score_is_a_hundred_times_the_cosine():
    score = CLIPScore(_Fixed())
    score.update_embeddings(
        torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0], [1, 1]])
    )
    assert float(score.compute()) == pytest.approx(50 * (1 + 0.5**0.5), abs=1e-5)
    score.reset()
    score.update_embeddings(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
    assert float(score.compute()) == 0


class _Fixed:
    def __call__(self, images):
        return torch.ones(len(images), 2)

    def texts(self, prompts):
        return torch.ones(len(prompts), 2)


def test_what_is_refused():
    with pytest.raises(RequestError, match="model: expected a CLIP"):
        CLIPScore(lambda images: images)
    score = CLIPScore(_Fixed())
    for images, texts, problem in (
        (pictures(), TEXTS[:4], "text: expected a text for each of 5 pictures, given 4"),
        (pictures().float(), TEXTS, "images: expected uint8"),
        (pictures()[:1], [3], "text: expected"),
    ):
        with pytest.raises(RequestError, match=problem):
            score.update(images, texts)
