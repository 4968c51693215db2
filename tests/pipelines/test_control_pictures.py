"""Pictures beside ControlNets and T2I-Adapters: against diffusers', alone and in batches."""

import json

import diffusers
import numpy as np
import pytest
import tiny
import torch
from control_networks import make_adapter, make_controlnet, make_union, original_names
from pairs import LEAST_PSNR, WRITERS, generators, psnr
from safetensors.torch import save_file

import pyengine
from pyengine.errors import CheckpointError, ConfigError, RequestError

STEPS = 3


class Beside:
    """A checkpoint with networks beside it, opened by diffusers (a class each) and by pyengine."""

    def __init__(self, kind, folder, make):
        write = WRITERS[kind] if isinstance(kind, str) else lambda f: tiny.write_sd1(f, unet=kind)
        self.folder = write(folder / "checkpoint")
        self.base = diffusers.DiffusionPipeline.from_pretrained(self.folder, safety_checker=None)
        encoder = self.base.text_encoder
        if not hasattr(encoder, "text_model"):
            object.__setattr__(encoder, "text_model", encoder)
        self.theirs = make(self.base.unet)
        self.places = []
        for i, network in enumerate(self.theirs):
            self.places.append(folder / f"beside{i}")
            network.save_pretrained(self.places[-1])
        self.keyword = (
            "adapter" if isinstance(self.theirs[0], diffusers.T2IAdapter) else "controlnet"
        )
        one = len(self.places) == 1
        given = {self.keyword: self.places[0] if one else self.places}
        self.own = pyengine.from_pretrained(self.folder, device="cpu", **given)
        self.network = self.theirs[0] if one else self.theirs

    def reference(self, name):
        cls = getattr(diffusers, name)
        parts = {**self.base.components, self.keyword: self.network}
        if name == "StableDiffusionAdapterPipeline":
            del parts["image_encoder"]
        extra = {} if "XL" in name else {"requires_safety_checker": False}
        made = cls(**parts, **extra)
        made.set_progress_bar_config(disable=True)
        return made

    def check(self, name, prompt="a red heart", **call):
        call = {"num_inference_steps": STEPS, "output_type": "np", **call}
        want = self.reference(name)(prompt, generator=generators(7), **call).images
        got = self.own(prompt, generator=generators(7), **call).images
        assert want.std() > 0.02
        decibel = psnr(want, got)
        assert decibel >= LEAST_PSNR, f"{decibel:.1f} dB for {name} {call}"
        return got


#: A U-Net of three levels: light adapters halve once more than full ones.
THREE = {
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


def two(unet):
    return [make_controlnet(unet, 3), make_controlnet(unet, 13)]


MAKERS = {
    "sd1": ("sd1", lambda unet: [make_controlnet(unet)]),
    "sd2": ("sd2", lambda unet: [make_controlnet(unet)]),
    "sdxl": ("sdxl", lambda unet: [make_controlnet(unet)]),
    "two": ("sd1", two),
    "two_xl": ("sdxl", two),
    "shuffle": ("sd1", lambda unet: [make_controlnet(unet, global_pool_conditions=True)]),
    "union": ("sdxl", lambda unet: [make_union(unet)]),
    "unions": ("sdxl", lambda unet: [make_union(unet, 4), make_union(unet, 14)]),
    "adapter": ("sd1", lambda unet: [make_adapter()]),
    "adapters": ("sd1", lambda unet: [make_adapter(), make_adapter(seed=15)]),
    "grey": (THREE, lambda unet: [make_adapter("light_adapter", (16, 32), in_channels=1)]),
    "adapter_xl": ("sdxl", lambda unet: [make_adapter("full_adapter_xl", (16, 32, 48), 16)]),
}


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    made = {}

    def get(kind):
        if kind not in made:
            base, make = MAKERS[kind]
            made[kind] = Beside(base, tmp_path_factory.mktemp(kind), make)
        return made[kind]

    return get


# --- against diffusers ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    "call",
    [
        {},
        {"guess_mode": True, "controlnet_conditioning_scale": 0.7},
        {"control_guidance_start": 0.3, "control_guidance_end": 0.8},
        {"guidance_scale": 1.0, "guess_mode": True},
        {"height": 64, "width": 48, "num_images_per_prompt": 2},
    ],
    ids=["plain", "guess", "interval", "unguided", "resized"],
)
def test_text_to_image(beside, photo, kind, call):
    name = f"StableDiffusion{'XL' if kind == 'sdxl' else ''}ControlNetPipeline"
    beside(kind).check(name, image=photo, **call)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("task", ["Img2Img", "Inpaint"])
def test_from_a_picture(beside, photo, mask, kind, task):
    """With the strength and the scale that the classes have."""
    name = f"StableDiffusion{'XL' if kind == 'sdxl' else ''}ControlNet{task}Pipeline"
    masked = {"mask_image": mask} if task == "Inpaint" else {}
    beside(kind).check(name, image=photo, control_image=flipped(photo), **masked)


def test_inpainting_of_a_part(beside, photo, mask):
    pipe = beside("sd1")
    call = {"padding_mask_crop": 4, "output_type": "pil", "height": 64, "width": 64}
    given = {"image": photo, "mask_image": mask, "control_image": flipped(photo)}
    pictures = []
    for run in (pipe.reference("StableDiffusionControlNetInpaintPipeline"), pipe.own):
        drawn = run(
            "a red heart", generator=generators(7), num_inference_steps=STEPS, **call, **given
        )
        pictures.append(np.asarray(drawn.images[0]) / 255)
    assert psnr(*pictures) >= LEAST_PSNR


@pytest.mark.parametrize("kind", ["two", "two_xl"])
def test_several_at_once(beside, photo, kind):
    name = f"StableDiffusion{'XL' if 'xl' in kind else ''}ControlNetPipeline"
    call = {
        "image": [photo, flipped(photo)], "controlnet_conditioning_scale": [0.4, 0.9],
        "control_guidance_start": [0.0, 0.3], "control_guidance_end": [0.6, 1.0],
    }  # fmt: skip
    pipe = beside(kind)
    got = pipe.check(name, **call)
    one = pipe.check(name, **{**call, "controlnet_conditioning_scale": [0.4, 0.0]})
    assert abs(got - one).max() > 1e-3


def test_a_list_of_lists_is_for_prompts(beside, photo):
    shown = [[photo, flipped(photo)], [flipped(photo), photo], [photo, photo]]
    beside("two").check(
        "StableDiffusionControlNetPipeline", ["a red heart", "a cat", "a tree"], image=shown
    )


def test_shuffle_acts_as_in_guess_mode(beside, photo):
    beside("shuffle").check("StableDiffusionControlNetPipeline", image=photo)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("union", {"control_mode": 2}),
        # With guidance diffusers' union has as many rows of kinds as without guess mode, and fails.
        ("union", {"control_mode": [2], "guess_mode": True, "guidance_scale": 1.0}),
        ("union", {"control_mode": [0, 3], "controlnet_conditioning_scale": [0.5, 1.0],
                   "control_guidance_end": [1.0, 0.5]}),
        ("unions", {"control_mode": [1, 4], "controlnet_conditioning_scale": [0.5, 0.8]}),
    ],
)  # fmt: skip
def test_unions(beside, photo, kind, call):
    several = isinstance(call["control_mode"], list) and len(call["control_mode"]) > 1
    shown = [photo, flipped(photo)] if several else [photo]
    beside(kind).check("StableDiffusionXLControlNetUnionPipeline", control_image=shown, **call)


def test_a_union_from_a_picture(beside, photo, mask):
    given = {"image": photo, "control_image": [flipped(photo)], "control_mode": [1]}
    pipe = beside("union")
    pipe.check("StableDiffusionXLControlNetUnionImg2ImgPipeline", **given)
    pipe.check("StableDiffusionXLControlNetUnionInpaintPipeline", mask_image=mask, **given)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("adapter", {}),
        ("adapters", {"adapter_conditioning_scale": [0.4, 0.9]}),
        ("grey", {"adapter_conditioning_scale": 0.5}),
        ("adapter_xl", {"adapter_conditioning_factor": 0.5}),
    ],
)
def test_t2i_adapters(beside, photo, kind, call):
    shown = photo.resize((64, 64)).convert("L" if kind == "grey" else "RGB")
    shown = [shown, flipped(shown)] if kind == "adapters" else shown
    name = f"StableDiffusion{'XL' if 'xl' in kind else ''}AdapterPipeline"
    beside(kind).check(name, image=shown, **call)


# --- bits -----------------------------------------------------------------------------------------


def draw(pipe, prompt="a red heart", **call):
    given = {"num_inference_steps": 3, "output_type": "latent", "height": 48, "width": 80, **call}
    return pipe(prompt, **given).images


def test_without_a_picture_the_bits_are_those_of_before(beside):
    pipe = beside("sd1")
    plain = pyengine.from_pretrained(pipe.folder, device="cpu")
    assert torch.equal(draw(plain, seed=3), draw(pipe.own, seed=3))
    shared = pyengine.StableDiffusionPipeline.from_pipe(pipe.own)
    assert shared.controlnet is None
    assert torch.equal(draw(plain, seed=3), draw(shared, seed=3))


@pytest.mark.parametrize("kind", ["sd1", "union", "adapter"])
def test_alone_in_a_batch_and_in_steps_of_others(beside, photo, kind):
    """Each picture with settings of its own; one of them without a network."""
    pipe = beside(kind).own
    union = {"control_mode": 1} if kind == "union" else {}
    scale = "adapter_conditioning_scale" if kind == "adapter" else "controlnet_conditioning_scale"
    calls = [
        {"control_image": photo, scale: 0.5, **union},
        {},
        {"control_image": flipped(photo), "guidance_scale": 1.0, **union},
        {"control_image": flipped(photo), "num_inference_steps": 4, **union},
    ]
    if kind != "adapter":
        calls[0] |= {"guess_mode": True}
        calls[3] |= {"control_guidance_start": 0.3, "control_guidance_end": 0.7}
    alone = [draw(pipe, seed=i, **call)[0] for i, call in enumerate(calls)]
    common = {"output_type": "latent", "height": 48, "width": 80}
    jobs = []
    for i, call in enumerate(calls):
        request = pipe.request(
            "a red heart", seed=i, **{"num_inference_steps": 3, **common, **call}
        )
        jobs += pipe.prepare(request)
    while any(job.active for job in jobs):
        pipe.step(jobs)
    for i, job in enumerate(jobs):
        assert torch.equal(pipe.finish(job), alone[i]), i


def test_a_picture_and_settings_for_each_prompt(beside, photo):
    pipe = beside("sd1").own
    prompts, shown = ["a red heart", "a cat"], [photo, flipped(photo)]
    both = draw(
        pipe,
        prompts,
        seed=5,
        num_images_per_prompt=2,
        image=shown,
        guess_mode=[True, False],
        controlnet_conditioning_scale=[0.4, 1.0],
        control_guidance_end=[1.0, 0.5],
    )
    settings = [
        {"guess_mode": True, "controlnet_conditioning_scale": 0.4},
        {"controlnet_conditioning_scale": 1.0, "control_guidance_end": 0.5},
    ]
    for i in range(4):
        k = i // 2
        own = draw(pipe, prompts[k], seed=5 + i, image=shown[k], **settings[k])
        assert torch.equal(own[0], both[i])


def test_on_any_number_of_threads(beside, photo, use_threads):
    pipe, found = beside("union").own, []
    for threads in (1, 3):
        use_threads(threads)
        found.append(draw(pipe, seed=3, control_image=photo, control_mode=2))
    assert torch.equal(*found)


def test_in_the_engine(beside, photo):
    pipe = beside("sd1").own
    call = {"num_inference_steps": 3, "height": 48, "width": 80}
    given = [{"image": photo}, {}, {"image": flipped(photo), "guess_mode": True}]
    with pyengine.Engine(pipe) as engine:
        jobs = [
            engine.submit(prompt="a red heart", seed=i, **call, **own)
            for i, own in enumerate(given)
        ]
        made = [job.result(timeout=60).images[0] for job in jobs]
    for i, own in enumerate(given):
        alone = pipe("a red heart", seed=i, **call, **own).images[0]
        assert np.array_equal(np.asarray(made[i]), np.asarray(alone))


def flipped(picture):
    return picture.transpose(0)


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "union"])
@pytest.mark.parametrize("prefix", ["", "control_model.", "state_dict.control_model.", "diffusers"])
def test_files_without_a_config(beside, tmp_path, kind, prefix):
    """The original layout, with any prefix, and diffusers' names in a single file."""
    pipe = beside(kind)
    if prefix == "diffusers":
        tensors = {n: t.contiguous() for n, t in pipe.theirs[0].state_dict().items()}
    elif kind == "union":
        pytest.skip("published unions have diffusers' names alone")
    else:
        tensors = {prefix + n: t for n, t in original_names(pipe.theirs[0]).items()}
    file = tmp_path / "control.safetensors"
    save_file(tensors, file)
    own = pyengine.from_pretrained(pipe.folder, controlnet=file, device="cpu")
    assert own.controlnet.config == pipe.own.controlnet.config
    for name, tensor in own.controlnet.state_dict().items():
        assert torch.equal(tensor, pipe.own.controlnet.state_dict()[name]), name


def test_a_whole_checkpoint_with_a_controlnet_in_it(beside, tmp_path):
    pipe = beside("sd1")
    tensors = {f"control_model.{n}": t for n, t in original_names(pipe.theirs[0]).items()}
    tensors["model.diffusion_model.out.2.bias"] = torch.zeros(4)
    save_file(tensors, tmp_path / "a.safetensors")
    assert pyengine.from_pretrained(pipe.folder, controlnet=tmp_path / "a.safetensors").controlnet
    tensors["somebody.weight"] = torch.zeros(4)
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors beside control_model.*'somebody.weight'"):
        pyengine.from_pretrained(pipe.folder, controlnet=tmp_path / "b.safetensors")


@pytest.mark.parametrize("kind", ["adapter", "grey", "adapter_xl"])
def test_files_of_adapters(beside, tmp_path, kind):
    pipe = beside(kind)
    named = {n: t.contiguous() for n, t in pipe.theirs[0].state_dict().items()}
    for i, tensors in enumerate((named, {_old(n, kind): t for n, t in named.items()})):
        file = tmp_path / f"{i}.safetensors"
        save_file(tensors, file)
        own = pyengine.from_pretrained(pipe.folder, adapter=file, device="cpu").adapter
        assert own.config == pipe.own.adapter.config
        for name, tensor in own.state_dict().items():
            assert torch.equal(tensor, pipe.own.adapter.state_dict()[name]), name


def _old(name, kind):
    """The name of an adapter's tensor in the original code."""
    name = name.removeprefix("adapter.")
    parts = name.split(".")
    if kind == "grey":
        return name.replace(".resnets.", ".body.")
    if parts[0] != "body":
        return name
    if parts[2] == "in_conv":
        return f"body.{2 * int(parts[1])}.in_conv.{parts[3]}"
    return f"body.{2 * int(parts[1]) + int(parts[3])}.{parts[4]}.{parts[5]}"


def _tensors(pipe):
    return dict(original_names(pipe.theirs[0]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("zero_convs.1.0.weight"), "1 missing: 'controlnet_down_blocks.1.weight'"),
        (lambda t: t.pop("input_hint_block.2.weight"), "missing: 'controlnet_cond_embedding.block"),
        (lambda t: t.update(a=torch.zeros(1)), "1 tensors are none of a ControlNet's: 'a'"),
        (lambda t: t.update({"input_hint_block.0.weight": torch.zeros(3)}), "expected a weight"),
        (lambda t: t.update(lora_controlnet=torch.zeros(1)), "a Control-LoRA"),
        (lambda t: t.update(difference=torch.zeros(1)), "holds differences"),
        (lambda t: [t.pop(n) for n in [*t] if "hint" in n], "expected a ControlNet, with"),
        (lambda t: t.update({"control_model.a": torch.zeros(1)}), "beside control_model"),
        (
            lambda t: t.update({"input_blocks.0.0.weight": torch.zeros(16, 9, 3, 3)}),
            "in_channels 9",
        ),
    ],
)
def test_damaged_files(beside, tmp_path, change, text):
    """Refused before a tensor is read, by the tensor's name."""
    pipe = beside("sd1")
    tensors = _tensors(pipe)
    change(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "c.safetensors")
    with pytest.raises((CheckpointError, ConfigError), match=text):
        pyengine.from_pretrained(pipe.folder, controlnet=tmp_path / "c.safetensors")


def test_places_that_are_refused(beside, tmp_path):
    pipe = beside("sd1")
    (tmp_path / "c.pth").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "c.pth", CheckpointError, "a pickle can run code"),
        (tmp_path / "none", CheckpointError, "controlnet: no such file or folder"),
        (tmp_path / "empty", CheckpointError, "expected config.json"),
        ([], RequestError, "expected 1 to 16"),
        (3, RequestError, "expected a folder or a file"),
        (pipe.theirs[0], RequestError, "given diffusers' ControlNetModel"),
        (
            beside("sdxl").places[0],
            ConfigError,
            "does not fit the U-Net: it has block_out_channels",
        ),
        (pipe.folder / "unet", ConfigError, "_class_name is 'UNet2DConditionModel'"),
    ]
    for given, kind, text in cases:
        with pytest.raises(kind, match=text):
            pyengine.from_pretrained(pipe.folder, controlnet=given)
    with pytest.raises(RequestError, match="expected a ControlNet or a T2I-Adapter, given both"):
        pyengine.from_pretrained(pipe.folder, controlnet=pipe.places, adapter=pipe.places)
    adapter = beside("adapter").places[0]
    with pytest.raises(ConfigError, match="adapter: does not fit the U-Net"):
        pyengine.from_pretrained(beside("sdxl").folder, adapter=adapter)
    folder = tiny.write_amused(tmp_path / "amused")
    with pytest.raises(RequestError, match="controlnet: expected none for a AmusedPipeline"):
        pyengine.from_pretrained(folder, controlnet=pipe.places)
    float16 = pyengine.models.ControlNetModel.from_pretrained(pipe.places[0], dtype=torch.float16)
    with pytest.raises(RequestError, match=r"controlnet: expected one on cpu in torch\.float32"):
        pyengine.from_pretrained(pipe.folder, controlnet=float16)


# --- classes and calls ----------------------------------------------------------------------------


def test_diffusers_classes(beside, photo):
    pipe = beside("sd1")
    own = pyengine.StableDiffusionControlNetPipeline
    made = own.from_pretrained(pipe.folder, controlnet=pipe.places[0])
    want = draw(pipe.own, seed=3, image=photo)
    # By position as in diffusers; over parts; over another pipeline's models.
    assert torch.equal(
        made("a red heart", photo, 48, 80, 3, seed=3, output_type="latent").images, want
    )
    again = own(**made.components)
    assert torch.equal(draw(again, seed=3, image=photo), want)
    shared = own.from_pipe(pyengine.from_pretrained(pipe.folder), controlnet=made.controlnet)
    assert torch.equal(draw(shared, seed=3, image=photo), want)
    with pytest.raises(RequestError, match="image: a StableDiffusionControlNetPipeline needs one"):
        made("a red heart")
    bare = own.from_pretrained(pipe.folder)
    with pytest.raises(RequestError, match="controlnet: a StableDiffusionControlNetPipeline needs"):
        bare("a red heart", photo)
    with pytest.raises(RequestError, match="controlnet came as objects"):
        again.to(torch.float16)


@pytest.mark.parametrize("kind", ["sd1", "two", "union", "adapters", "file"])
def test_saved_and_moved_with_what_lies_beside(beside, photo, tmp_path, kind):
    pipe = beside("sd1" if kind == "file" else kind)
    place = {"adapter" if kind == "adapters" else "controlnet": list(pipe.places)}
    if kind == "file":  # has no config: one is written
        place = {"controlnet": tmp_path / "control.safetensors"}
        save_file(original_names(pipe.theirs[0]), place["controlnet"])
    made = pyengine.from_pretrained(pipe.folder, device="cpu", **place)
    count = len(pipe.places)
    call = {"seed": 3, "control_image": photo if count == 1 else [photo] * count}
    if kind == "union":
        call |= {"control_image": [photo], "control_mode": [1]}
    want = draw(made, **call)
    made.save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    assert torch.equal(draw(again, **call), want)
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    theirs = getattr(diffusers, index["_class_name"])
    theirs.from_pretrained(tmp_path / "saved", safety_checker=None)
    again.to(torch.bfloat16)
    assert {net.dtype for net in again.parts.beside} == {torch.bfloat16}
    assert draw(again, **call).dtype == torch.bfloat16
    again.to(torch.float32)
    assert torch.equal(draw(again, **call), want)
    again.to(torch.bfloat16).save_pretrained(tmp_path / "narrow", variant="fp16")
    narrow = pyengine.from_pretrained(tmp_path / "narrow", variant="fp16", dtype="bfloat16")
    assert torch.equal(draw(narrow, **call), draw(again, **call))


@pytest.mark.parametrize(
    ("kind", "call", "text"),
    [
        ("sd1", {"controlnet_conditioning_scale": 0.5}, "control_image: expected a picture"),
        ("sd1", {"image": "photo", "control_guidance_start": 0.9, "control_guidance_end": 0.1},
         "control_guidance_start: expected less than control_guidance_end 0.1"),
        ("sd1", {"image": "photo", "control_guidance_end": 1.5}, "control_guidance_end: expected"),
        ("sd1", {"image": "photo", "controlnet_conditioning_scale": "x"}, "expected a number"),
        ("sd1", {"image": "photo", "controlnet_conditioning_scale": [1, 2, 3]}, "'3 of them'"),
        ("sd1", {"image": "photo", "guess_mode": 1}, "guess_mode: expected True or False"),
        ("sd1", {"image": "photo", "control_mode": 1}, "control_mode: expected None"),
        ("sd1", {"image": "photo", "adapter_conditioning_scale": 2}, "expected none of a pipeline"),
        ("sd1", {"image": "photo", "mask_image": "photo"}, "control_image: expected a picture"),
        ("sd1", {"image": 3}, "control_image: expected a PIL picture"),
        ("two", {"image": "photo"}, "control_image: expected a list of 2"),
        ("union", {"control_image": "photo"}, "control_mode: this ControlNet is for several"),
        ("union", {"control_image": "photo", "control_mode": 9}, "control_mode: expected a whole"),
        ("union", {"control_image": "photo", "control_mode": [1, 2]}, "one for each control_image"),
        ("adapter", {"image": "photo", "guess_mode": True}, "expected none of a pipeline"),
        ("adapter", {"image": "photo", "adapter_conditioning_factor": 2}, "adapter_conditioning_f"),
    ],
)  # fmt: skip
def test_calls_that_are_refused(beside, photo, kind, call, text):
    call = {n: photo if isinstance(v, str) and v == "photo" else v for n, v in call.items()}
    with pytest.raises(RequestError, match=text):
        beside(kind).own("a red heart", **call)


def test_a_pipeline_without_any_says_how_to_load_one(pair, photo):
    plain = pair("sd1").own
    with pytest.raises(RequestError, match=r"control_image: this pipeline has no ControlNet: load"):
        plain("a red heart", control_image=photo)
    with pytest.raises(RequestError, match=r"adapter_conditioning_scale: .*adapter="):
        plain("a red heart", adapter_conditioning_scale=0.5)
    assert draw(plain, controlnet_conditioning_scale=1.0, guess_mode=False) is not None
