"""Kandinsky 2.2's ControlNet against diffusers' pipeline over the same checkpoints."""

import diffusers
import kandinsky_folders
import numpy as np
import pytest
import tiny
import torch
from pairs import generators, psnr
from PIL import Image
from safetensors.torch import load_file, save_file

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.models import UNet2DConditionModel

LEAST_PSNR = 60
#: Of 6x8 latents: the tests' MoVQ halves sides.
SIZE = {"height": 12, "width": 16}
HINT = 8 * 6, 8 * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return kandinsky_folders.write(tmp_path_factory.mktemp("hint") / "d", kind="Controlnet")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    pipe = diffusers.KandinskyV22ControlnetPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeds(count=2):
    g = torch.Generator().manual_seed(11)
    both = torch.randn(2, 3, kandinsky_folders.WIDTH, generator=g)
    return {"image_embeds": both[0, :count], "negative_image_embeds": both[1, :count]}


def hints(count=2):
    return torch.rand(count, 3, *HINT, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_pictures_are_diffusers(own, theirs, steps):
    call = {**embeds(), **SIZE, "hint": hints(), "num_inference_steps": steps, "output_type": "np"}
    want = theirs(generator=generators([7, 8]), **call).images
    got = own(generator=generators([7, 8]), **call).images
    assert want.std() > 0.1
    assert psnr(want, got) >= LEAST_PSNR
    other = own(generator=generators([7, 8]), **{**call, "hint": 1 - hints()}).images
    assert psnr(other, got) < 50, "the hint counts"


def test_the_network_is_diffusers(folder, theirs):
    net = UNet2DConditionModel.from_pretrained(folder / "unet")
    x = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    added = {"image_embeds": embeds()["image_embeds"], "hint": hints()}
    with torch.no_grad():
        want = theirs.unet(x, 37, None, added_cond_kwargs=added).sample
    got = net(x, 37, None, added_cond_kwargs=added).sample
    assert float((got - want).norm() / want.norm()) < 1e-4
    wide = torch.cat([x, net.encode_hint(hints())], dim=1)
    context = net.encode_context(added["image_embeds"])
    times = net.embed_timesteps([37], added_cond_kwargs={"image_embeds": added["image_embeds"]})
    assert torch.equal(net.evaluate(wide, times[0], context), got)


def test_every_tensor_of_the_hint_matters(folder, tmp_path):
    place = tmp_path / "unet"
    place.mkdir()
    (place / "config.json").write_text((folder / "unet" / "config.json").read_text())
    file = next((folder / "unet").glob("*.safetensors"))
    tensors, before = load_file(file), UNet2DConditionModel.from_pretrained(folder / "unet")
    names = [name for name in tensors if "input_hint_block" in name]
    assert len(names) == 16
    for name in names:
        save_file(
            {n: t * 1.5 + 0.1 if n == name else t for n, t in tensors.items()}, place / file.name
        )
        after = UNet2DConditionModel.from_pretrained(place)
        assert not torch.equal(after.encode_hint(hints()), before.encode_hint(hints())), name


def test_the_same_bits_alone_in_a_batch_and_on_any_threads(own, use_threads):
    call = {"num_inference_steps": 4, "output_type": "pt", **SIZE}
    use_threads(1)
    together = own(
        **embeds(3), hint=hints(3), seed=5, guidance_scale=[4.0, 1.0, 2.0], **call
    ).images
    use_threads(3)
    for i, scale in enumerate((4.0, 1.0, 2.0)):
        one = {name: tensor[i : i + 1] for name, tensor in embeds(3).items()}
        alone = own(**one, hint=hints(3)[i : i + 1], seed=5 + i, guidance_scale=scale, **call)
        assert torch.equal(alone.images[0], together[i])


def test_forms_of_hints(own, folder):
    """One for all, a list of tensors, pictures; and the class of diffusers, by position."""
    call = {"num_inference_steps": 3, "output_type": "pt", "seed": 3, **SIZE}
    one = hints(1)
    want = own(**embeds(), hint=one, **call).images
    assert torch.equal(own(**embeds(), hint=[one, one], **call).images, want)
    pixels = (np.random.default_rng(2).random((*HINT, 3)) * 255).astype(np.uint8)
    numbers = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    drawn = own(**embeds(), hint=Image.fromarray(pixels), **call).images
    assert torch.allclose(own(**embeds(), hint=numbers, **call).images, drawn, atol=1e-4)
    pipe = pyengine.KandinskyV22ControlnetPipeline.from_pretrained(folder, device="cpu")
    both = embeds()
    assert torch.equal(
        pipe(both["image_embeds"], both["negative_image_embeds"], one, **call).images, want
    )


@pytest.fixture(scope="module")
def from_pictures(folder):
    pipe = diffusers.KandinskyV22ControlnetImg2ImgPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def photos(count=2):
    pixels = np.random.default_rng(4).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    return [Image.fromarray(p.repeat(4, 0).repeat(4, 1)) for p in pixels]


@pytest.mark.parametrize(("steps", "strength"), [(5, 0.5), (20, 0.3), (50, 0.9)])
def test_from_pictures_they_are_diffusers(own, from_pictures, steps, strength):
    # diffusers exchanges height and width of the picture.
    call = {
        **embeds(),
        "hint": hints()[:, :, :48, :48],
        "height": 12,
        "width": 12,
        "num_inference_steps": steps,
        "strength": strength,
        "output_type": "np",
    }
    want = from_pictures(image=photos(), generator=generators([7, 8]), **call).images
    got = own(image=photos(), generator=generators([7, 8]), **call).images
    assert want.std() > 0.1
    assert psnr(want, got) >= LEAST_PSNR
    several = {**call, "num_images_per_prompt": 2}
    want = from_pictures(image=photos(), generator=generators([3, 4, 5, 6]), **several).images
    got = own(image=photos(), generator=generators([3, 4, 5, 6]), **several).images
    assert psnr(want, got) >= LEAST_PSNR


def test_the_class_for_pictures(own, tmp_path):
    """By position as diffusers', of its own folder; and what it cannot do without."""
    place = kandinsky_folders.write(tmp_path / "d", kind="ControlnetImg2Img")
    pipe = pyengine.KandinskyV22ControlnetImg2ImgPipeline.from_pretrained(place, device="cpu")
    both, (photo, _), call = embeds(1), photos(), {"seed": 3, "output_type": "pt"}
    by_position = pipe(
        both["image_embeds"],
        photo,
        both["negative_image_embeds"],
        hints(1),
        12,
        16,
        4,
        3.0,
        0.5,
        **call,
    ).images
    call = {**call, **SIZE, "hint": hints(1), "num_inference_steps": 4, "guidance_scale": 3.0}
    assert torch.equal(own(**both, image=photo, strength=0.5, **call).images, by_position)
    assert torch.equal(
        pyengine.from_pretrained(place, device="cpu")(
            **both, image=photo, strength=0.5, **call
        ).images,
        by_position,
    )
    assert not torch.equal(own(**both, **call).images, by_position)
    with pytest.raises(RequestError, match="image: a KandinskyV22ControlnetImg2ImgPipeline needs"):
        pipe(**both, **call)


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (None, "hint: this decoder is a ControlNet and needs one"),
        (torch.zeros(1, 3, 48, 56), "hint: expected"),
        (torch.zeros(1, 1, *HINT), "hint: expected"),
        (torch.full((1, 3, *HINT), torch.nan), "hint: expected"),
        (torch.zeros(3, 3, *HINT), "hint: expected 1 or 2 of them, given 3"),
        ("depth.png", "hint"),
    ],
)
def test_wrong_hints(own, hint, message):
    with pytest.raises(RequestError, match=message):
        own(**embeds(), hint=hint, num_inference_steps=2, **SIZE)


def test_other_decoders_take_none(tmp_path):
    pipe = pyengine.from_pretrained(kandinsky_folders.write(tmp_path / "d"), device="cpu")
    with pytest.raises(RequestError, match="hint: this decoder is no ControlNet"):
        pipe(**embeds(), hint=hints(), **SIZE)
    with pytest.raises(RequestError, match="hint: expected none, since this model reads none"):
        pipe.unet.encode_hint(hints())


def test_what_does_not_fit_is_refused(tmp_path, folder):
    wrong = {**kandinsky_folders.HINTED, "in_channels": 9}
    made = kandinsky_folders.write(tmp_path / "wide", kind="Controlnet", unet=wrong)
    with pytest.raises(ConfigError, match=r"in_channels 9.*expected 8, and 4 or 8"):
        pyengine.from_pretrained(made, device="cpu")
    config = tiny.make_unet(13, **{**kandinsky_folders.UNET, **kandinsky_folders.HINTED}).config
    with pytest.raises(ConfigError, match="in_channels is 4, expected more than the 4"):
        UNet2DConditionModel.from_config({**config, "in_channels": 4})
    prior = kandinsky_folders.write_prior(tmp_path / "prior")
    with pytest.raises(RequestError, match="prior: a KandinskyV22ControlnetPipeline takes none"):
        pyengine.from_pretrained(folder, prior=prior, device="cpu")


def test_saved_again_it_is_the_same(own, tmp_path):
    own.save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    assert type(again).__name__ == type(own).__name__
    call = {"num_inference_steps": 3, "output_type": "pt", "seed": 4, "hint": hints(), **SIZE}
    assert torch.equal(again(**embeds(), **call).images, own(**embeds(), **call).images)
