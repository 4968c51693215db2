"""Variations of pictures: diffusers' pictures, the bits of alone, refusals."""

import json
import shutil

import diffusers
import numpy as np
import picture_folders
import pytest
import torch
from pairs import psnr
from PIL import Image

import pyengine
from pyengine.errors import ConfigError, RequestError

CALL = {"num_inference_steps": 4, "output_type": "np"}
SIZE = {"height": 40, "width": 56}
NAME = "StableDiffusionImageVariationPipeline"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return picture_folders.write_variation(tmp_path_factory.mktemp("variation") / "it")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    pipe = diffusers.StableDiffusionImageVariationPipeline.from_pretrained(
        folder, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed=0, size=(37, 53)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "call",
    [
        {},
        {**SIZE, "num_images_per_prompt": 2},
        {**SIZE, "guidance_scale": 1.0},
        {"image": [picture(1), picture(2, (60, 33))], "guidance_scale": 3.0, **SIZE},
        {"image": torch.randn(2, 3, 32, 32, generator=generator(9))},
    ],
    ids=["own size", "odd size", "unguided", "several", "tensor"],
)
def test_pictures_are_those_of_diffusers(own, theirs, call):
    call = {"image": picture(), **CALL, **call}
    got = own(generator=generator(), **call).images
    want = theirs(generator=generator(), **call).images
    assert got.shape == want.shape
    assert want.std() > 0.02
    assert psnr(want, got) >= 40, f"{psnr(want, got):.1f} dB"


def test_ddim_with_noise(own, theirs):
    kept = theirs.scheduler
    theirs.scheduler = diffusers.DDIMScheduler.from_config(kept.config)
    call = {**CALL, **SIZE, "eta": 0.6}
    want = theirs(picture(), generator=generator(), **call).images
    theirs.scheduler = kept
    got = own(picture(), generator=generator(), scheduler="ddim", **call).images
    assert psnr(want, got) >= 40, f"{psnr(want, got):.1f} dB"


def test_a_picture_has_its_bits_alone(own, use_threads):
    shown, scales = [picture(0), picture(1, (64, 40)), picture(2)], [4.0, 1.0, 2.5]
    together = own(shown, seed=[1, 2, 3], guidance_scale=scales, **CALL, **SIZE).images
    for i in range(3):
        use_threads(1 + i % 2)
        alone = own(shown[i], seed=i + 1, guidance_scale=scales[i], **CALL, **SIZE).images
        assert np.array_equal(alone[0], together[i])
    assert not np.array_equal(together[0], together[2])


def test_jobs_share_steps(own):
    requests = [own.request(picture(i), seed=i, **CALL, **SIZE) for i in (1, 2)]
    jobs = [job for request in requests for job in own.prepare(request)]
    while any(job.active for job in jobs):
        own.step(jobs)
    for i, job in zip((1, 2), jobs, strict=True):
        alone = own(picture(i), seed=i, **CALL, **SIZE).images[0]
        assert np.array_equal(own.finish(job), alone)


def test_wrong_arguments_are_refused(own):
    for message, call in {
        f"image: a {NAME} needs one": {},
        "prompt": {"image": picture(), "prompt": "a fox"},
        "negative_prompt": {"image": picture(), "negative_prompt": "a fox"},
        "strength": {"image": picture(), "strength": 0.5},
        r"image: expected .*\[1, 3, 32, 32\]": {"image": torch.zeros(3, 32, 32)},
        "image: expected .*finite": {"image": torch.full((1, 3, 32, 32), float("nan"))},
        "image: expected PIL pictures": {"image": [torch.zeros(3, 32, 32)]},
        "height: expected": {"image": picture(), "height": 39},
    }.items():
        with pytest.raises(RequestError, match=message):
            own(**CALL, **call)
    for call in (own.encode_prompt, own.load_textual_inversion, own.load_ip_adapter):
        with pytest.raises(RequestError, match="reads a picture"):
            call("a fox")
    with pytest.raises(RequestError, match="image_encoder: expected that of the checkpoint"):
        own.image_encoder = None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cross_attention_dim": 32}, "the image encoder gives 20"),
        ({"in_channels": 8}, "in_channels 8, out_channels 4 do not fit"),
        ({"image": {"image_size": 48}}, "feature_extractor: crop_size 32x32, expected .* 48x48"),
        ({"addition_embed_type": "text", "addition_embed_type_num_heads": 2,
          "encoder_hid_dim": 20, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type"),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit_are_refused(tmp_path, how, message):
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(
            picture_folders.write_variation(tmp_path / "it", **how), device="cpu"
        )


def test_it_is_found_by_its_name_and_saved(own, tmp_path):
    assert type(own) is pyengine.StableDiffusionImageVariationPipeline
    own.save_pretrained(tmp_path / "saved")
    again = diffusers.StableDiffusionImageVariationPipeline.from_pretrained(
        tmp_path / "saved", safety_checker=None
    )
    assert set(again.components) - {"safety_checker"} <= set(own.components)
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(
        own(picture(), seed=3, **CALL).images, again(picture(), seed=3, **CALL).images
    )
    half = again.to(torch.float16)
    assert half.image_encoder.dtype == torch.float16
    assert half(picture(), seed=3, **CALL).images.shape == (1, 64, 64, 3)


def test_old_folders_name_their_parts_otherwise(folder, own, tmp_path):
    """lambdalabs' has CLIPFeatureExtractor and a safety checker, which is not read."""
    shutil.copytree(folder, tmp_path / "old")
    path = tmp_path / "old" / "model_index.json"
    index = json.loads(path.read_text())
    index |= {
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    }
    path.write_text(json.dumps(index))
    settings = {
        "crop_size": 32, "size": 32, "resample": 3, "do_center_crop": True, "do_normalize": True,
        "do_resize": True, "do_convert_rgb": True, "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (tmp_path / "old" / "feature_extractor" / "preprocessor_config.json").write_text(
        json.dumps(settings)
    )
    again = pyengine.from_pretrained(tmp_path / "old", device="cpu")
    assert np.array_equal(
        own(picture(), seed=3, **CALL).images, again(picture(), seed=3, **CALL).images
    )


def test_a_lora_beside_it(own, tmp_path):
    from safetensors.torch import save_file

    width = own.unet.config.block_out_channels[0]
    # With one token its key counts for nothing.
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    save_file(
        {
            f"{name}.lora_A.weight": torch.randn(3, picture_folders.WIDTH, generator=generator()),
            f"{name}.lora_B.weight": torch.randn(width, 3, generator=generator(1)),
        },
        tmp_path / "it.safetensors",
    )
    before = own(picture(), seed=3, **CALL).images
    own.load_lora(tmp_path / "it.safetensors", "it")
    both = own([picture(), picture()], seed=[3, 3], lora=[{"it": 1.0}, None], **CALL).images
    assert np.array_equal(both[1], before[0])
    assert not np.array_equal(both[0], before[0])
    own.unload_lora("it")
