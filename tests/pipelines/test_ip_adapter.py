"""Pictures as prompts by IP-Adapters: against diffusers', alone and in batches."""

import diffusers
import numpy as np
import pytest
import tiny
import torch
from image_prompt_files import IMAGE, tensors_of
from pairs import LEAST_PSNR, WRITERS, generators, psnr
from safetensors.torch import save_file

import pyengine
from pyengine.errors import CheckpointError, ConfigError, RequestError

STEPS = 3


class Beside:
    """A checkpoint with IP-Adapters of these kinds, in diffusers and in pyengine."""

    def __init__(self, checkpoint, folder, kinds):
        self.folder = WRITERS[checkpoint](folder / "checkpoint")
        self.place = folder / "adapters"
        encoder = tiny.make_image_encoder(**IMAGE)
        self.encoder = self.place / "image_encoder"
        encoder.save_pretrained(self.encoder, safe_serialization=True)
        self.theirs = diffusers.DiffusionPipeline.from_pretrained(
            self.folder, safety_checker=None, image_encoder=encoder
        )
        self.theirs.set_progress_bar_config(disable=True)
        self.names = []
        for i, kind in enumerate(kinds):
            self.names.append(f"{kind}{i}.safetensors")
            save_file(tensors_of(kind, self.theirs.unet, i), self.place / self.names[-1])
        self.theirs.load_ip_adapter(str(self.place), "", self.names, image_encoder_folder=None)
        self.own = pyengine.from_pretrained(self.folder, device="cpu")
        self.plain = draw(self.own, seed=3)
        self.own.load_ip_adapter(self.place, "", self.names)

    def scaled(self, scale):
        for pipe in (self.theirs, self.own):
            pipe.set_ip_adapter_scale(scale)

    def check(self, **call):
        call = {
            "num_inference_steps": STEPS,
            "output_type": "np",
            "height": 48,
            "width": 80,
            **call,
        }
        want, got = (
            pipe("a red heart", generator=generators(7), **call).images
            for pipe in (self.theirs, self.own)
        )
        assert want.std() > 0.02
        decibel = psnr(want, got)
        assert decibel >= LEAST_PSNR, f"{decibel:.1f} dB for {call}"
        return got


def draw(pipe, prompt="a red heart", **call):
    given = {"num_inference_steps": STEPS, "output_type": "latent", "height": 48, "width": 80}
    return pipe(prompt, **{**given, **call}).images


def flipped(picture):
    return picture.transpose(0)


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    made = {}

    def get(checkpoint, *kinds):
        if (checkpoint, kinds) not in made:
            made[checkpoint, kinds] = Beside(checkpoint, tmp_path_factory.mktemp("ip"), kinds)
        found = made[checkpoint, kinds]
        found.scaled([1.0] * len(kinds))
        return found

    return get


# --- against diffusers ----------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", ["sd1", "sdxl"])
@pytest.mark.parametrize("kind", ["base", "plus", "full"])
def test_a_picture_as_a_prompt(beside, photo, checkpoint, kind):
    pair = beside(checkpoint, kind)
    pair.scaled(0.6)
    got = pair.check(ip_adapter_image=photo)
    other = pair.check(ip_adapter_image=flipped(photo))
    assert abs(got - other).max() > 1e-3
    pair.check(ip_adapter_image=photo, guidance_scale=1.0)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_several_pictures_as_one_prompt(beside, photo, kind):
    beside("sd1", kind).check(ip_adapter_image=[[photo, flipped(photo)]], num_images_per_prompt=2)


def test_several_adapters(beside, photo):
    pair = beside("sd1", "base", "plus")
    pair.scaled([0.7, 0.4])
    pair.check(ip_adapter_image=[photo, [photo, flipped(photo)]])


SCALES = {
    "sd1": {"down": {"block_0": [0.7]}, "mid": 0.3, "up": {"block_1": [0.0, 1.2]}},
    "sdxl": {"down": {"block_2": [0.8]}, "up": 0.5},
}


@pytest.mark.parametrize("checkpoint", SCALES)
def test_scales_by_block(beside, photo, checkpoint):
    pair = beside(checkpoint, "base")
    pair.scaled(SCALES[checkpoint])
    pair.check(ip_adapter_image=photo)


def halves(height, width):
    """Two masks [1, 2, H, W]: the left half and the right."""
    mask = torch.zeros(1, 2, height, width)
    mask[:, 0, :, : width // 2], mask[:, 1, :, width // 2 :] = 1, 1
    return mask


@pytest.mark.parametrize("size", [(48, 80), (96, 160), (64, 64)])
@pytest.mark.filterwarnings("ignore:The aspect ratio of the mask")
def test_masks(beside, photo, size):
    """Of the pictures' proportions and of others."""
    pair = beside("sd1", "base")
    pair.scaled([[0.9, 0.5]])
    given = {
        "ip_adapter_image": [[photo, flipped(photo)]],
        "cross_attention_kwargs": {"ip_adapter_masks": [halves(*size)]},
    }
    pair.check(**given)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_embeddings(beside, photo, kind):
    pair = beside("sd1", kind)
    embeds = pair.theirs.prepare_ip_adapter_image_embeds([photo], None, "cpu", 1, True)
    got = pair.check(ip_adapter_image_embeds=embeds)
    call = {"num_inference_steps": STEPS, "output_type": "np", "height": 48, "width": 80}
    same = pair.own("a red heart", generator=generators(7), ip_adapter_image=photo, **call).images
    assert psnr(got, same) > 80


def test_beside_a_controlnet_and_from_a_picture(beside, photo, mask, tmp_path):
    from control_networks import make_controlnet

    pair = beside("sd1", "base")
    plain = diffusers.UNet2DConditionModel.from_pretrained(pair.folder, subfolder="unet")
    theirs = make_controlnet(plain)
    theirs.save_pretrained(tmp_path)
    cls = diffusers.StableDiffusionControlNetInpaintPipeline
    reference = cls(
        **{**pair.theirs.components, "controlnet": theirs}, requires_safety_checker=False
    )
    reference.set_progress_bar_config(disable=True)
    own = pyengine.from_pretrained(pair.folder, controlnet=tmp_path)
    own.load_ip_adapter(pair.place / pair.names[0], image_encoder=pair.encoder)
    given = {
        "image": photo,
        "mask_image": mask,
        "control_image": flipped(photo),
        "ip_adapter_image": photo,
        "num_inference_steps": STEPS,
        "output_type": "np",
    }
    pictures = [
        pipe("a red heart", generator=generators(7), **given).images for pipe in (reference, own)
    ]
    assert psnr(*pictures) >= LEAST_PSNR


# --- bits -----------------------------------------------------------------------------------------


def test_in_another_dtype_it_is_read_again(beside, photo):
    pair = beside("sd1", "base")
    own = pyengine.from_pretrained(pair.folder, device="cpu")
    own.load_ip_adapter(pair.place, weight_name=pair.names)
    own.set_ip_adapter_scale(0.4)
    want = draw(own, seed=3, ip_adapter_image=photo)
    own.to(torch.bfloat16)
    near = draw(own, seed=3, ip_adapter_image=photo)
    assert near.dtype == torch.bfloat16
    assert not torch.equal(near, draw(own, seed=3))
    own.to(torch.float32)
    assert torch.equal(draw(own, seed=3, ip_adapter_image=photo), want)
    encoder = own.image_encoder
    own.image_encoder = encoder
    with pytest.raises(RequestError, match="to: image_encoder came as an object"):
        own.to(torch.bfloat16)
    own.unload_ip_adapter()
    assert own.to(torch.bfloat16).dtype == torch.bfloat16


def test_without_a_picture_and_after_unloading_the_bits_are_those_of_before(beside, photo):
    pair = beside("sd1", "base")
    assert torch.equal(draw(pair.own, seed=3), pair.plain)
    assert torch.equal(
        draw(pair.own, seed=3, ip_adapter_image=photo, ip_adapter_scale=0), pair.plain
    )
    used = draw(pair.own, seed=3, ip_adapter_image=photo)
    assert not torch.equal(used, pair.plain)
    pair.own.unload_ip_adapter()
    assert pair.own.image_encoder is None
    assert torch.equal(draw(pair.own, seed=3), pair.plain)
    pair.own.load_ip_adapter(pair.place, weight_name=pair.names)
    assert torch.equal(draw(pair.own, seed=3, ip_adapter_image=photo), used)


@pytest.mark.parametrize("checkpoint", ["sd1", "sdxl"])
def test_alone_in_a_batch_and_in_steps_of_others(beside, photo, checkpoint):
    """Each picture with prompts of its own: of one and two pictures, masked, none."""
    pair = beside(checkpoint, "plus")
    two = [[photo, flipped(photo)]]
    calls = [
        {"ip_adapter_image": photo, "ip_adapter_scale": 0.5},
        {},
        {"ip_adapter_image": two, "guidance_scale": 1.0},
        {"ip_adapter_image": two, "cross_attention_kwargs": {"ip_adapter_masks": [halves(48, 80)]}},
        {"ip_adapter_image": flipped(photo), "num_inference_steps": 4},
    ]
    alone = [draw(pair.own, seed=i, **call)[0] for i, call in enumerate(calls)]
    common = {"num_inference_steps": STEPS, "output_type": "latent", "height": 48, "width": 80}
    jobs = []
    for i, call in enumerate(calls):
        jobs += pair.own.prepare(pair.own.request("a red heart", seed=i, **{**common, **call}))
    while any(job.active for job in jobs):
        pair.own.step(jobs)
    for i, job in enumerate(jobs):
        assert torch.equal(pair.own.finish(job), alone[i]), i


def test_a_picture_and_a_scale_for_each_prompt(beside, photo):
    own = beside("sd1", "base").own
    shown, scales, prompts = [photo, flipped(photo)], [0.4, 1.0], ["a red heart", "a cat"]
    both = draw(
        own,
        prompts,
        seed=5,
        num_images_per_prompt=2,
        ip_adapter_image=shown,
        ip_adapter_scale=scales,
    )
    for i in range(4):
        k = i // 2
        one = draw(
            own, prompts[k], seed=5 + i, ip_adapter_image=shown[k], ip_adapter_scale=scales[k]
        )
        assert torch.equal(one[0], both[i])


def test_in_the_engine(beside, photo):
    own = beside("sd1", "base").own
    call = {"num_inference_steps": STEPS, "height": 48, "width": 80}
    given = [{"ip_adapter_image": photo}, {}, {"ip_adapter_image": flipped(photo)}]
    with pyengine.Engine(own) as engine:
        jobs = [
            engine.submit(prompt="a red heart", seed=i, **call, **one)
            for i, one in enumerate(given)
        ]
        made = [job.result(timeout=60).images[0] for job in jobs]
    for i, one in enumerate(given):
        alone = own("a red heart", seed=i, **call, **one).images[0]
        assert np.array_equal(np.asarray(made[i]), np.asarray(alone))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        ("base", lambda t: t.pop("ip_adapter.3.to_v_ip.weight"), "missing: 'ip_adapter.3.to_v_ip"),
        ("base", lambda t: t.pop("image_proj.norm.bias"), "1 missing: 'image_proj.norm.bias'"),
        ("base", lambda t: t.update(a=torch.zeros(1)), "1 extra: 'a'"),
        ("base", lambda t: t.update({"image_proj.proj.weight": torch.zeros(3)}), "a matrix"),
        ("plus", lambda t: t.update({"image_proj.latents": torch.zeros(3)}), "misshapen"),
        ("plus", lambda t: t.pop("image_proj.layers.0.0.to_q.weight"), "to_q.weight'"),
        ("plus", lambda t: [t.pop(n) for n in [*t] if "image_proj" in n], "expected an IP-Adapter"),
        ("base", lambda t: [t.pop(n) for n in [*t] if "image_proj.proj" in n], "IP-Adapter FaceID"),
    ],
)  # fmt: skip
def test_damaged_files(beside, tmp_path, kind, change, text):
    pair = beside("sd1", "base")
    tensors = tensors_of(kind, pair.theirs.unet)
    change(tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises((CheckpointError, ConfigError), match=text):
        pair.own.load_ip_adapter(tmp_path / "a.safetensors")
    assert pair.own.image_encoder is not None  # what was there stays


def test_places(beside, tmp_path, photo):
    pair = beside("sd1", "base")
    own = pyengine.from_pretrained(pair.folder)
    file = pair.place / pair.names[0]
    # diffusers' way; the only file of a folder; a file, with the encoder beside it.
    own.load_ip_adapter(pair.place.parent, subfolder="adapters", weight_name=pair.names[0])
    want = draw(own, seed=3, ip_adapter_image=photo)
    own.load_ip_adapter(pair.place)
    assert torch.equal(draw(own, seed=3, ip_adapter_image=photo), want)
    own.unload_ip_adapter()
    own.load_ip_adapter(file, image_encoder=pair.encoder)
    assert torch.equal(draw(own, seed=3, ip_adapter_image=photo), want)
    own.unload_ip_adapter()
    own.load_ip_adapter(file, image_encoder_folder=None)
    with pytest.raises(RequestError, match="ip_adapter_image: there is no image encoder"):
        own("a cat", ip_adapter_image=photo)
    save_file({}, tmp_path / "a.safetensors")
    (tmp_path / "b.bin").write_bytes(b"x")
    save_file(tensors_of("base", beside("sdxl", "base").theirs.unet), tmp_path / "xl.safetensors")
    cases = [
        ((tmp_path / "none",), {}, CheckpointError, "ip_adapter: no such file or folder"),
        ((pair.place,), {"weight_name": "../adapters/x"}, RequestError, "a name within the folder"),
        ((pair.place,), {"weight_name": "none"}, CheckpointError, "weight_name: no such file"),
        ((tmp_path,), {}, CheckpointError, "expected one .safetensors file, found 'a.safe"),
        ((tmp_path / "b.bin",), {}, CheckpointError, "a pickle can run code"),
        ((tmp_path / "a.safetensors",), {}, CheckpointError, "expected an IP-Adapter"),
        ((tmp_path / "xl.safetensors",), {}, ConfigError, "cross_attention_dim 72, this has 32"),
        ((file,), {"image_encoder": pair.folder / "vae"}, ConfigError, "config.json"),
        (([],), {}, RequestError, "expected 1 to 8"),
    ]
    for args, named, kind, text in cases:
        with pytest.raises(kind, match=text):
            own.load_ip_adapter(*args, **named)


def test_an_encoder_of_another_width(beside, tmp_path):
    pair = beside("sd1", "base")
    tiny.make_image_encoder(hidden_size=24, projection_dim=12).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="gives embeddings of 12, the IP-Adapter reads 20"):
        pair.own.load_ip_adapter(pair.place / pair.names[0], image_encoder=tmp_path)


# --- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"ip_adapter_scale": 0.5}, "ip_adapter_scale: expected ip_adapter_image or"),
        ({"ip_adapter_image": 3}, "ip_adapter_image: expected a PIL picture"),
        ({"ip_adapter_image": ["photo", "photo"]}, "ip_adapter_image: expected one, "),
        ({"ip_adapter_image": [["photo"], ["photo"]]}, "one for each IP-Adapter: 1"),
        ({"ip_adapter_image": "photo", "ip_adapter_scale": "x"}, "ip_adapter_scale: expected"),
        ({"ip_adapter_image": "photo", "ip_adapter_image_embeds": []}, "given both"),
        ({"ip_adapter_image_embeds": torch.zeros(2, 1, 20)}, "a list of 1, for each"),
        ({"ip_adapter_image_embeds": [torch.zeros(2, 20)]}, "float tensors of 3 dimensions"),
        ({"ip_adapter_image_embeds": [torch.zeros(1, 1, 20)]}, "the negative ones before"),
        ({"ip_adapter_image_embeds": [torch.zeros(2, 1, 21)]}, "a last dimension of 20"),
        ({"ip_adapter_image_embeds": [torch.full((2, 1, 20), torch.nan)]}, "finite values"),
        ({"ip_adapter_image": "photo",
          "cross_attention_kwargs": {"ip_adapter_masks": [halves(8, 8)]}}, "ip_adapter_masks: exp"),
        ({"ip_adapter_image": "photo", "cross_attention_kwargs":
          {"ip_adapter_masks": [2 * halves(8, 8)[:, :1]]}}, "numbers from 0 to 1"),
    ],
)  # fmt: skip
def test_calls_that_are_refused(beside, photo, call, text):
    def filled(v):
        if isinstance(v, list):
            return [filled(x) for x in v]
        return photo if isinstance(v, str) and v == "photo" else v

    with pytest.raises(RequestError, match=text):
        beside("sd1", "base").own("a red heart", **{n: filled(v) for n, v in call.items()})


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        ({"left": 1}, "expected keys down, mid, up, given 'left'"),
        ({"down": {"block_9": 1}}, "blocks with attention: block_0, given 'block_9'"),
        ({"up": {"block_1": [1, 2, 3, 4, 5]}}, "block_1: expected 2 numbers"),
        ([1, 2], "one for each of 1 IP-Adapters, given 2"),
        ("much", "ip_adapter_scale: expected a number"),
    ],
)
def test_scales_that_are_refused(beside, scale, text):
    with pytest.raises(RequestError, match=text):
        beside("sd1", "base").own.set_ip_adapter_scale(scale)


def test_a_pipeline_without_one_says_how_to_load_it(pair, photo):
    plain = pair("sd1").own
    with pytest.raises(RequestError, match="ip_adapter_image: this pipeline has no IP-Adapter"):
        plain("a cat", ip_adapter_image=photo)
    with pytest.raises(RequestError, match="set_ip_adapter_scale: there is no IP-Adapter"):
        plain.set_ip_adapter_scale(0.5)
    assert plain.unload_ip_adapter() is None
