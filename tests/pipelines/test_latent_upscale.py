"""Stable Diffusion's x2 latent upscaler: diffusers' pictures, the bits of alone, refusals."""

import diffusers
import numpy as np
import picture_folders
import pytest
import torch
from pairs import psnr
from PIL import Image

import pyengine
from pyengine.errors import ConfigError, RequestError

CALL = {"num_inference_steps": 3, "output_type": "np"}
NAME = "StableDiffusionLatentUpscalePipeline"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return picture_folders.write_latent_upscaler(tmp_path_factory.mktemp("upscale") / "it")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    pipe = diffusers.StableDiffusionLatentUpscalePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed=0, size=(64, 96)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def small(seed=0, size=(8, 12), count=1):
    return torch.randn(count, 4, *size, generator=generator(seed))


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "call",
    [
        {"image": picture(), "negative_prompt": "green"},
        {"image": small(), "guidance_scale": 0.0},
        {"image": small(1, (12, 8), 2), "prompt": ["a red heart", "green"], "guidance_scale": 2.0},
    ],
    ids=["picture", "latents, unguided", "two with one generator"],
)
def test_pictures_are_those_of_diffusers(own, theirs, call):
    call = {"prompt": "a red heart", **CALL, **call}
    got = own(generator=generator(), **call).images
    want = theirs(generator=generator(), **call).images
    assert got.shape == want.shape
    assert want.std() > 0.02
    assert psnr(want, got) >= 40, f"{psnr(want, got):.1f} dB"


def test_embeddings_in_place_of_texts(own, theirs):
    call = {"image": small(), "latents": torch.randn(1, 4, 16, 24, generator=generator(8)), **CALL}
    embeds = own.encode_prompt("a red heart", negative_prompt="green")
    others = theirs.encode_prompt("a red heart", "cpu", True, "green")
    for a, b in zip(embeds, (others[0], others[1], others[2], others[3]), strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    given = dict(zip(names, embeds, strict=True))
    got = own(generator=generator(), **given, **call).images
    want = own("a red heart", negative_prompt="green", generator=generator(), **call).images
    assert np.array_equal(got, want)


def test_the_network_is_that_of_diffusers_in_other_shapes(tmp_path):
    """Three levels, other layers in each, kernels of 3, heads of another width, sines first."""
    config = {
        "block_out_channels": (48, 96, 96),
        "time_cond_proj_dim": 137,
        "layers_per_block": (1, 3, 2),
        "down_block_types": ("KCrossAttnDownBlock2D", "KDownBlock2D", "KCrossAttnDownBlock2D"),
        "up_block_types": ("KCrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 12,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_dim": 20,
        "norm_eps": 1e-3,
        "flip_sin_to_cos": False,
        "in_channels": 3,
        "out_channels": 2,
    }
    theirs = picture_folders.make_latent_unet(**config)
    theirs.save_pretrained(tmp_path)
    own = pyengine.models.LatentUpscalerUNet.from_pretrained(tmp_path)
    x, text = torch.randn(2, 3, 8, 20, generator=generator()), small(3, (5, 20), 1)[0, :2]
    cond = torch.randn(2, 137, generator=generator(4))
    with torch.no_grad():
        want = theirs(x, torch.tensor([0.3, -1.2]), text, timestep_cond=cond).sample
    got = own(x, torch.tensor([0.3, -1.2]), text, cond).sample
    assert (got - want).norm() <= 1e-5 * want.norm()
    for sides in ((8, 6), (4, 8)):
        with pytest.raises(RequestError, match="multiples of 4, from 8 on"):
            own(x[:, :, : sides[0], : sides[1]], 0.3, text, cond)
    with pytest.raises(RequestError, match=r"timestep_cond: expected \[N, 137\]"):
        own(x, 0.3, text)


def test_a_picture_has_its_bits_alone(own, use_threads):
    prompts, shown, scales = ["a red heart", "green"], small(count=2), [4.0, 0.0]
    together = own(prompts, shown, seed=[1, 2], guidance_scale=scales, **CALL).images
    for i in range(2):
        use_threads(1 + i)
        alone = own(prompts[i], shown[i], seed=i + 1, guidance_scale=scales[i], **CALL).images
        assert np.array_equal(alone[0], together[i])
    twice = own(
        "green", shown[1], seed=[4, 2], guidance_scale=[2.0, 0.0], num_images_per_prompt=2, **CALL
    ).images
    assert np.array_equal(twice[1], together[1])


def test_jobs_share_steps(own):
    requests = [
        own.request("a", small(i), seed=i, scheduler=name, **CALL)
        for i, name in ((1, "euler"), (2, "dpmpp_2m"))
    ]
    jobs = [job for request in requests for job in own.prepare(request)]
    while any(job.active for job in jobs):
        own.step(jobs)
    for i, name, job in ((1, "euler", jobs[0]), (2, "dpmpp_2m", jobs[1])):
        alone = own("a", small(i), seed=i, scheduler=name, **CALL).images[0]
        assert np.array_equal(own.finish(job), alone)


def test_wrong_arguments_are_refused(own):
    for message, call in {
        f"image: a {NAME} needs one": {},
        "image: expected pictures, or latents": {"image": [picture(), picture(size=(64, 64))]},
        "image: expected at least 64x64": {"image": picture(size=(63, 96))},
        "image: expected latents whose sides are multiples of 4": {"image": small(size=(8, 10))},
        "image: expected a number of them": {"image": small(count=2)},
        "latents: expected": {"image": small(), "latents": small()},
        "pooled_prompt_embeds": {
            "image": small(),
            "prompt_embeds": torch.zeros(1, 77, 32),
            "prompt": None,
        },
        "lora": {"image": small(), "lora": {"a": 1.0}},
        "clip_skip": {"image": small(), "clip_skip": 1},
    }.items():
        with pytest.raises(RequestError, match=message):
            own(**{"prompt": "a heart", **CALL, **call})
    for call in (own.load_lora, own.load_ip_adapter, own.load_lora_weights):
        with pytest.raises(RequestError, match="takes none"):
            call("a fox")


def test_another_prediction_is_refused(own):
    kept = own.scheduler
    cls = pyengine.EulerDiscreteScheduler
    own.scheduler = cls.from_config(kept.config, prediction_type="epsilon")
    with pytest.raises(RequestError, match=r"prediction_type: expected 'sample'.*epsilon"):
        own("a", small(), **CALL)
    own.scheduler = kept


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"time_cond_proj_dim": 96}, "time_cond_proj_dim is 96, expected 160"),
        ({"out_channels": 4}, "in_channels 8, out_channels 4 do not fit"),
        ({"cross_attention_dim": 24}, "the text encoders give 32"),
        ({"prediction": "epsilon"}, "prediction_type is 'epsilon', expected 'sample'"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path, how, message):
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(
            picture_folders.write_latent_upscaler(tmp_path / "it", **how), device="cpu"
        )


def config(**changes):
    data = {"act_fn": "gelu", "time_embedding_type": "fourier", "timestep_post_act": "gelu",
            "conv_in_kernel": 1, "mid_block_type": None, "norm_num_groups": None}  # fmt: skip
    return pyengine.models.LatentUpscalerUNetConfig.from_dict({**data, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [32, 64, 128, 128]}, "no network of these that works"),
        ({"block_out_channels": [16, 16, 32, 32]}, "does not make groups of about 32 channels"),
        ({"attention_head_dim": 36}, "is no multiple of attention_head_dim"),
        ({"layers_per_block": 99999}, "layers_per_block"),
        ({"layers_per_block": [1, 2]}, "layers_per_block has 2 items, expected 4"),
        ({"down_block_types": ["KDownBlock2D"] * 4}, r"down_block_types\[3\] is KDownBlock2D"),
        ({"up_block_types": ["KCrossAttnUpBlock2D", "KUpBlock2D"] * 2}, "from 768 to 384 channels"),
        ({"block_out_channels": [], "up_block_types": [], "down_block_types": []}, "has 0 items"),
        ({"conv_in_kernel": 2}, "conv_in_kernel is 2, expected an odd number"),
        ({"time_embedding_type": "positional"}, "time_embedding_type"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"block_out_channels": [1 << 40] * 4}, "block_out_channels"),
    ],
)
def test_configs_that_do_not_fit_together(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)
    assert config().levels == 4


def test_it_is_found_by_its_name_and_saved(own, tmp_path):
    assert type(own) is pyengine.StableDiffusionLatentUpscalePipeline
    assert (own.defaults.num_inference_steps, own.defaults.guidance_scale) == (75, 9.0)
    own.save_pretrained(tmp_path / "saved")
    diffusers.StableDiffusionLatentUpscalePipeline.from_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    call = {**CALL, "image": small(), "seed": 3}
    assert np.array_equal(own("a", **call).images, again("a", **call).images)
