"""CLIP guidance against a loop after diffusers' community pipeline clip_guided_stable_diffusion."""

import json

import control_networks
import diffusers
import image_prompt_files
import pytest
import tiny
import torch
import torch.nn.functional as F
from pairs import generators
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import CheckpointError, ConfigError, RequestError

SCALE = 300.0
MEAN, STD = (
    torch.tensor(v).view(1, 3, 1, 1)
    for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
)
PROMPTS = ["a red heart", "two cats"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(Stable Diffusion, SDXL, CLIP) and the CLIP."""
    place = tmp_path_factory.mktemp("clip_guidance")
    sd = tiny.write_sd1(place / "sd", unet={"layers_per_block": 1})
    xl = tiny.write_sdxl(place / "xl", unet={"layers_per_block": 1})
    text = tiny.make_text_encoder().config.to_dict()
    vision = tiny.make_image_encoder().config.to_dict()
    clip = tiny.randomise(
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)), 3
    ).requires_grad_(False)
    clip.eval().save_pretrained(place / "clip")
    return sd, xl, place / "clip", clip


@pytest.fixture(scope="module")
def pipes(folders):
    return [pyengine.from_pretrained(folder, device="cpu") for folder in folders[:2]]


def embedded(found):
    return found if isinstance(found, torch.Tensor) else found.pooler_output


@torch.no_grad()
def loop(folder, clip, sampler, steps, guidance, controlnet=None, shown=None):
    """Latents of the two prompts, 16x24 of them, by DDIM or Euler; controlnet: beside the U-Net,
    shown pictures [2, 3, H, W].
    """
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    scheduler = getattr(diffusers, sampler).from_config(pipe.scheduler.config)
    text, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    ids = pipe.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    wanted = F.normalize(embedded(clip.get_text_features(ids)), dim=-1)
    x = torch.cat([torch.randn((1, 4, 16, 24), generator=g) for g in generators([7, 8])])
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma

    def predict(x, t, text):
        if controlnet is None:
            return pipe.unet(x, t, text).sample
        down, mid = controlnet(x, t, text, controlnet_cond=shown, return_dict=False)
        return pipe.unet(
            x, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample

    for i, t in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(x, t)
        level = getattr(scheduler, "sigmas", [None] * 99)[i]
        abar = scheduler.alphas_cumprod[t] if level is None else 1 / (1 + level**2)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        leaf = given.detach().requires_grad_()
        with torch.enable_grad():
            clean = (leaf - sigma * predict(leaf, t, text)) / alpha
            blend = sigma * clean + (1 - sigma) * leaf
            image = pipe.vae.decode(blend / pipe.vae.config.scaling_factor).sample
            image = (image / 2 + 0.5).clamp(0, 1)
            h, w = image.shape[2:]
            size = (32, 32 * w // h)
            image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
            left = (size[1] - 32) // 2
            image = (image[..., left : left + 32] - MEAN) / STD
            own = F.normalize(embedded(clip.get_image_features(image)), dim=-1)
            loss = ((own - wanted).norm(dim=-1) / 2).arcsin().pow(2).mul(2).sum() * SCALE
            (g,) = torch.autograd.grad(loss, leaf)
        noise = predict(given, t, text)
        if guidance > 1:
            away = predict(given, t, negative)
            noise = away + guidance * (noise - away)
        x = scheduler.step(noise + sigma * g, t, x).prev_sample
    return x


def draw(pipe, clip, **call):
    factor = pipe.vae.config.downscale
    return pipe(
        **{
            "prompt": PROMPTS,
            "seed": [7, 8],
            "height": 16 * factor,
            "width": 24 * factor,
            "num_inference_steps": 4,
            "guidance_scale": 3.0,
            "output_type": "latent",
            "clip_model": clip,
            "clip_guidance_scale": SCALE,
            **call,
        }
    ).images


@pytest.mark.parametrize(
    ("name", "sampler", "guidance"),
    [("ddim", "DDIMScheduler", 3.0), ("ddim", "DDIMScheduler", 1.0),
     ("euler", "EulerDiscreteScheduler", 3.0)],
)  # fmt: skip
def test_pictures_are_the_loops(folders, pipes, name, sampler, guidance):
    sd, _, place, clip = folders
    want = loop(sd, clip, sampler, 4, guidance)
    got = draw(pipes[0], place, scheduler=name, guidance_scale=guidance)
    assert float((got - want).norm() / want.norm()) < 1e-3
    unguided = {"clip_guidance_scale": None, "guidance_scale": guidance}
    plain = draw(pipes[0], None, scheduler=name, **unguided)
    assert float((got - plain).norm() / plain.norm()) > 0.02


def test_beside_a_controlnet_the_gradient_goes_through_it(folders, tmp_path):
    sd, _, place, clip = folders
    controlnet = control_networks.make_controlnet(tiny.make_unet(layers_per_block=1))
    controlnet.save_pretrained(tmp_path / "controlnet")
    pipe = pyengine.from_pretrained(sd, controlnet=tmp_path / "controlnet", device="cpu")
    factor = pipe.vae.config.downscale
    shown = torch.rand(2, 3, 16 * factor, 24 * factor, generator=generators([3])[0])
    want = loop(sd, clip, "DDIMScheduler", 3, 3.0, controlnet, shown)
    call = {"num_inference_steps": 3, "control_image": [*shown]}
    got = draw(pipe, place, scheduler="ddim", **call)
    assert float((got - want).norm() / want.norm()) < 1e-3
    alone = draw(
        pipe,
        place,
        scheduler="ddim",
        prompt=PROMPTS[1],
        seed=8,
        num_inference_steps=3,
        control_image=shown[1],
    )
    assert torch.equal(alone[0], got[1])
    plain = draw(pipe, None, clip_guidance_scale=None, scheduler="ddim", **call)
    assert float((got - plain).norm() / plain.norm()) > 0.02
    free = draw(pipe, place, scheduler="ddim", num_inference_steps=3)
    assert float((got - free).norm() / free.norm()) > 0.02


def test_beside_an_ip_adapter_and_a_t2i_adapter(folders, tmp_path):
    sd, _, place, _ = folders
    control_networks.make_adapter().save_pretrained(tmp_path / "adapter")
    tiny.make_image_encoder(**image_prompt_files.IMAGE).save_pretrained(tmp_path / "encoder")
    pipe = pyengine.from_pretrained(sd, adapter=tmp_path / "adapter", device="cpu")
    tensors = image_prompt_files.tensors_of("base", tiny.make_unet(layers_per_block=1))
    save_file(tensors, tmp_path / "ip.safetensors")
    pipe.load_ip_adapter(tmp_path / "ip.safetensors", image_encoder=tmp_path / "encoder")
    factor = pipe.vae.config.downscale
    picture = torch.rand(3, 16 * factor, 24 * factor, generator=generators([3])[0])
    shown = {"num_inference_steps": 2, "control_image": picture, "ip_adapter_image": picture}
    got = draw(pipe, place, **shown)
    alone = draw(pipe, place, prompt=PROMPTS[1], seed=8, **shown)
    assert torch.equal(alone[0], got[1])
    for left_out in ("control_image", "ip_adapter_image"):
        other = draw(pipe, place, **{k: v for k, v in shown.items() if k != left_out})
        assert float((got - other).norm() / other.norm()) > 1e-3, left_out


@pytest.mark.parametrize("k", [0, 1])
def test_bits(folders, pipes, use_threads, k):
    """Scale 0 is unguided; alone, in a batch, on other numbers of threads: the same."""
    place, pipe = folders[2], pipes[k]
    use_threads(1)
    small = {"width": 16 * pipe.vae.config.downscale, "num_inference_steps": 2}
    plain = draw(pipe, None, clip_guidance_scale=None, **small)
    assert torch.equal(draw(pipe, place, clip_guidance_scale=0, **small), plain)
    both = draw(pipe, place, **small)
    assert not torch.allclose(both, plain, rtol=1e-3)
    use_threads(3)
    assert torch.equal(draw(pipe, place, prompt=PROMPTS[1], seed=[8], **small)[0], both[1])
    factor = pipe.vae.config.downscale
    call = {
        "height": 16 * factor,
        "width": 16 * factor,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }
    guided = {"clip_model": place, "clip_guidance_scale": SCALE}
    jobs = [
        pipe.prepare(pipe.request(p, seed=s, **call, **own))[0]
        for p, s, own in zip(PROMPTS, (7, 8), (guided, {}), strict=True)
    ]
    while any(job.active for job in jobs):
        pipe.step([job for job in jobs if job.active])
    assert torch.equal(pipe.finish(jobs[0]).reshape(both[0].shape), both[0])
    assert torch.equal(pipe.finish(jobs[1]).reshape(both[0].shape), plain[1])


def test_what_does_not_fit_is_refused(folders, pipes, tmp_path):
    sd, _, place, _ = folders
    small = {"height": 32, "width": 32}
    for call, error, text in (
        ({"clip_model": 3}, RequestError, "clip_model: expected a folder of a whole CLIP, given 3"),
        ({"clip_guidance_scale": -1}, RequestError, "clip_guidance_scale: expected a number from"),
        ({"clip_model": None, "clip_guidance_scale": 3}, RequestError,
         "clip_guidance_scale: expected a clip_model with it, given none"),
        ({"clip_model": sd / "text_encoder"}, ConfigError, "expected a whole CLIP's, with text_co"),
        ({"prompt": None, "prompt_embeds": torch.zeros(2, 77, 32)}, RequestError,
         "clip_model: expected a prompt in words with it"),
        ({"scheduler": "edm_euler"}, RequestError, "clip_model: expected None for the sampler edm"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            draw(pipes[0], call.pop("clip_model", place), **small, **call)
    (tmp_path / "config.json").write_text((place / "config.json").read_text())
    weights = (place / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-7])
    with pytest.raises(CheckpointError):
        draw(pipes[0], tmp_path, **small)
    config = json.loads((place / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "config.json").write_text(json.dumps({**config, "projection_dim": 13}))
    with pytest.raises(CheckpointError, match=r"text_projection\.weight"):
        draw(pipes[0], tmp_path, **small)


def test_the_command_line(folders, tmp_path, capsys):
    sd, _, place, _ = folders
    made, options = tmp_path / "a.png", "--steps 2 --seed 5 --device cpu --clip-guidance-scale 300"
    first = ["generate", "a red heart", "-m", str(sd), "--clip-model", str(place), *options.split()]
    assert main([*first, "-o", str(made)]) == 0
    settings = metadata.read(made)
    assert settings.clip_guidance_scale == 300
    assert len(settings.clip_model) == 64
    again = ["generate", "--from", str(made), "-m", str(sd), "-o"]
    assert main([*again, str(tmp_path / "b.png"), "--clip-model", str(place)]) == 0
    assert Image.open(made).tobytes() == Image.open(tmp_path / "b.png").tobytes()
    capsys.readouterr()
    assert main([*again, str(tmp_path / "c.png")]) == 2
    assert "the picture was guided by a CLIP" in capsys.readouterr().err
