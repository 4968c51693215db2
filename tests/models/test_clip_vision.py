"""CLIP's tower for pictures, and what pictures go through before it, against transformers."""

import json

import numpy as np
import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2
from PIL import Image

from pyengine.clip_pictures import ClipPictureConfig, clip_pixels
from pyengine.errors import ConfigError, RequestError
from pyengine.models import CLIPVisionModelWithProjection

CONFIGS = {
    "vit_l": {},
    "big_g": {"hidden_act": "gelu", "num_hidden_layers": 4, "intermediate_size": 40},
    "remainder": {"image_size": 23, "patch_size": 7, "layer_norm_eps": 1e-3},
    "one patch": {"image_size": 8, "patch_size": 8, "num_hidden_layers": 1},
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    theirs = tiny.make_image_encoder(**CONFIGS[request.param])
    return load_pair(theirs, CLIPVisionModelWithProjection, tmp_path_factory.mktemp("vision"))


@pytest.mark.parametrize("n", [1, 2, 5])
@torch.no_grad()
def test_embeddings(pair, n):
    theirs, ours = pair
    side = ours.config.image_size
    pixels = noise(n, 3, side, side)
    want = theirs(pixels, output_hidden_states=True)
    got = ours(pixels, output_hidden_states=True)
    assert relative_l2(got.image_embeds, want.image_embeds) < LIMIT
    assert relative_l2(got.last_hidden_state, want.last_hidden_state) < LIMIT
    assert len(got.hidden_states) == len(want.hidden_states) == ours.config.num_hidden_layers + 1
    for mine, other in zip(got.hidden_states, want.hidden_states, strict=True):
        assert relative_l2(mine, other) < LIMIT
    assert torch.equal(ours(pixels[-1:])[0], got.image_embeds[-1:])


@torch.no_grad()
def test_against_float64(pair):
    theirs, ours = pair
    pixels = noise(2, 3, ours.config.image_size, ours.config.image_size)
    want = theirs.double()(pixels.double()).image_embeds.float()
    theirs.float()
    assert relative_l2(ours(pixels).image_embeds, want) < LIMIT


@pytest.mark.parametrize("size", [(23, 40), (16, 16), (9, 70)])
@torch.no_grad()
def test_other_sizes(size, tmp_path):
    theirs, ours = load_pair(tiny.make_image_encoder(), CLIPVisionModelWithProjection, tmp_path)
    pixels = noise(2, 3, *size)
    want = theirs(pixels, interpolate_pos_encoding=True)
    got = ours(pixels, interpolate_pos_encoding=True)
    assert relative_l2(got.image_embeds, want.image_embeds) < LIMIT


@torch.no_grad()
def test_the_same_bits_on_any_number_of_threads(pair, use_threads):
    _, ours = pair
    pixels = noise(3, 3, ours.config.image_size, ours.config.image_size)
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(ours(pixels)[0])
    assert torch.equal(*results)


def test_every_parameter_matters(tmp_path):
    _, ours = load_pair(tiny.make_image_encoder(), CLIPVisionModelWithProjection, tmp_path)
    pixels = noise(1, 3, 32, 32)
    idle = idle_parameters(ours, lambda: ours(pixels, return_dict=False))
    assert idle == []


@torch.no_grad()
def test_a_whole_clips_config_and_weights(tmp_path):
    """What openai/clip-vit-large-patch14 has: both towers, and a config of each."""
    from transformers import CLIPConfig, CLIPModel

    text, vision = tiny.make_text_encoder().config, tiny.make_image_encoder().config
    whole = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24
    )
    theirs = tiny.randomise(CLIPModel(whole), 3)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["projection_dim"] = 24
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = CLIPVisionModelWithProjection.from_pretrained(tmp_path)
    pixels = noise(2, 3, 32, 32)
    want = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
    assert relative_l2(ours(pixels).image_embeds, want) < LIMIT


@torch.no_grad()
def test_half_precision(tmp_path):
    theirs, ours = load_pair(
        tiny.make_image_encoder(), CLIPVisionModelWithProjection, tmp_path, dtype=torch.bfloat16
    )
    pixels = noise(2, 3, 32, 32)
    want = theirs(pixels).image_embeds
    halved = theirs.to(torch.bfloat16)(pixels.bfloat16()).image_embeds.float()
    got = ours(pixels).image_embeds
    assert got.dtype == torch.bfloat16
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "siglip_vision_model"}, "model_type is 'siglip_vision_model', expected"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected 'quick_gelu'"),
        ({"num_attention_heads": 7}, "hidden_size 24 is no multiple of num_attention_heads 7"),
        ({"patch_size": 33}, "into 0 patches, expected 1 to 65536"),
        ({"patch_size": 1, "image_size": 4096}, "into 16777216 patches"),
        ({"hidden_size": 1 << 40}, "hidden_size is"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is"),
        ({"image_size": [224, 224]}, "image_size must be a whole number"),
        ({"windows": 1}, "unknown keys 'windows'"),
    ],
)
def test_refused_configs(change, message, tmp_path):
    tiny.make_image_encoder().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        CLIPVisionModelWithProjection.from_pretrained(tmp_path)


@pytest.mark.parametrize("shape", [(1, 3, 31, 32), (3, 32, 32), (1, 4, 32, 32), (0, 3, 32, 32)])
def test_wrong_pixels(shape, tmp_path):
    _, ours = load_pair(tiny.make_image_encoder(), CLIPVisionModelWithProjection, tmp_path)
    with pytest.raises(RequestError, match=r"pixel_values: expected \[N, 3, 32, 32\], got"):
        ours(torch.zeros(shape))
    small = torch.zeros(1, 3, 7, 40)
    with pytest.raises(RequestError, match=r"H, W\] of at least 8 pixels each, got \[1, 3, 7, 40"):
        ours(small, interpolate_pos_encoding=True)


# --- pictures -------------------------------------------------------------------------------------


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (max(height // 4, 1), max(width // 4, 1), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(300, 200), (200, 333), (64, 64), (17, 23), (224, 225)])
@pytest.mark.parametrize("settings", [{}, {"size": 48, "crop_size": {"height": 31, "width": 40}}])
def test_pictures(size, settings):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    theirs = CLIPImageProcessorPil(**settings)
    config = ClipPictureConfig.from_dict(settings)
    image = picture(*size)
    want = theirs(images=image, return_tensors="pt").pixel_values
    got = clip_pixels([image], config)
    assert got.shape == want.shape
    assert float((got - want).abs().max()) < 1e-5


def test_saved_settings(tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=40).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    config = ClipPictureConfig.from_dict(saved)
    assert (config.short, config.crop) == (40, (40, 40))


def test_arrays_and_tensors_are_the_picture():
    image = picture(90, 70)
    array = np.asarray(image)
    unit = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    want = clip_pixels([image])
    assert torch.equal(clip_pixels([array.copy()]), want)
    assert torch.equal(clip_pixels([unit]), want)
    grey = picture(40, 50).convert("L")
    assert torch.equal(clip_pixels([grey, image])[1:], want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 30, "crop_size": 31}, "crop_size 31x31 is more than size 30"),
        ({"do_resize": False}, "do_resize is False, expected True"),
        ({"image_std": [0, 1, 1]}, "image_std is 0"),
        ({"image_mean": [0.5, 0.5]}, "image_mean has 2 items, expected 3"),
        ({"size": {"longest_edge": 3}}, "longest_edge"),
        ({"resample": 9}, "resample is 9"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"crop": 1}, "unknown keys 'crop'"),
    ],
)
def test_refused_settings(change, message):
    with pytest.raises(ConfigError, match=message):
        ClipPictureConfig.from_dict(change)


def test_a_picture_that_would_be_enormous():
    with pytest.raises(RequestError, match="image: expected sides of at most 1337:1, given 1x2000"):
        clip_pixels([Image.new("RGB", (1, 2000))])
