"""ControlNets, adapters and IP-Adapters of the Hub, and checkpoints that have such in them."""

import json
import shutil

import control_networks
import image_prompt_files
import numpy as np
import pytest
import tiny
from safetensors.torch import save_file
from test_hub import make_cache, no_network  # noqa: F401  a fixture

import pyengine
from pyengine.errors import CheckpointError, RequestError

HOW = {"num_inference_steps": 2, "output_type": "np", "seed": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, and beside it two ControlNets, an IP-Adapter with its encoder, a LoRA."""
    from diffusers import UNet2DConditionModel

    root = tmp_path_factory.mktemp("beside")
    tiny.write_sd1(root / "sd")
    unet = UNet2DConditionModel.from_pretrained(root / "sd" / "unet")
    for seed in (3, 4):
        control_networks.make_controlnet(unet, seed).save_pretrained(root / f"control{seed}")
    control_networks.make_adapter().save_pretrained(root / "adapter")
    (root / "ip" / "models").mkdir(parents=True)
    tensors = image_prompt_files.tensors_of("base", unet)
    save_file(tensors, root / "ip" / "models" / "ip.safetensors")
    encoder = tiny.make_image_encoder(**image_prompt_files.IMAGE)
    encoder.save_pretrained(root / "ip" / "models" / "image_encoder", safe_serialization=True)
    return root


@pytest.fixture
def cached(place, tmp_path):
    """cached(name) -> options; the folder is some-org/<name> of a cache."""

    def make(*names):
        for name in names:
            make_cache(place / name, tmp_path / "hub", f"some-org/{name}")
        return {"cache_dir": tmp_path / "hub", "local_files_only": True}

    return make


def picture(seed=0):
    return np.random.default_rng(seed).random((1, 64, 64, 3), np.float32)


def drawn(pipe, **call):
    return pipe("a red heart", **HOW, **call).images


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("keyword", "name"), [("controlnet", "control3"), ("adapter", "adapter")])
def test_beside_by_id(place, cached, keyword, name):
    own = pyengine.from_pretrained(
        place / "sd", **{keyword: f"some-org/{name}"}, **cached(name), device="cpu"
    )
    want = pyengine.from_pretrained(place / "sd", **{keyword: place / name}, device="cpu")
    assert np.array_equal(drawn(own, image=picture()), drawn(want, image=picture()))


@pytest.mark.usefixtures("no_network")
def test_ip_adapters_by_id(place, cached):
    own = pyengine.from_pretrained(place / "sd", device="cpu")
    where = {"subfolder": "models", "weight_name": "ip.safetensors"}
    own.load_ip_adapter("some-org/ip", **where, **cached("ip"))
    given = drawn(own, ip_adapter_image=picture())
    own.load_ip_adapter(place / "ip", **where)
    assert np.array_equal(given, drawn(own, ip_adapter_image=picture()))
    for wrong in ({"weight_name": "../ip.safetensors"}, {"weight_name": None}):
        with pytest.raises(RequestError, match="weight_name: expected"):
            own.load_ip_adapter("some-org/ip", **(where | wrong))
    with pytest.raises(RequestError, match="image_encoder_folder: expected a name within"):
        own.load_ip_adapter("some-org/ip", **where, **{"image_encoder_folder": "../x"}, **cached())


def test_what_a_cache_lacks_is_said(place, tmp_path):
    for keyword in ("controlnet", "adapter"):
        with pytest.raises(CheckpointError, match=f"{keyword}: some-org/none: no such file here"):
            pyengine.from_pretrained(
                place / "sd",
                **{keyword: "some-org/none"},
                device="cpu",
                cache_dir=tmp_path,
                local_files_only=True,
            )


def whole(place, folder, named, cls="StableDiffusionControlNetPipeline"):
    """The checkpoint with networks in it, as diffusers' pipeline of that class saves it."""
    shutil.copytree(place / "sd", folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = cls
    for name, (source, value) in named.items():
        shutil.copytree(place / source, folder / name)
        if value is not None:
            index[name] = ["diffusers", value]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_checkpoint_with_a_controlnet_in_it(place, tmp_path):
    folder = whole(place, tmp_path / "one", {"controlnet": ("control3", "ControlNetModel")})
    own = pyengine.from_pretrained(folder, device="cpu")
    want = pyengine.from_pretrained(place / "sd", controlnet=place / "control3", device="cpu")
    assert np.array_equal(drawn(own, image=picture()), drawn(want, image=picture()))
    own = pyengine.from_pretrained(folder, controlnet=place / "control4", device="cpu")
    other = drawn(own, image=picture())
    assert not np.array_equal(other, drawn(want, image=picture()))


def test_a_checkpoint_with_several_in_it(place, tmp_path):
    named = {"controlnet": ("control3", "MultiControlNetModel"), "controlnet_1": ("control4", None)}
    folder = whole(place, tmp_path / "two", named)
    own = pyengine.from_pretrained(folder, device="cpu")
    given = [place / "control3", place / "control4"]
    want = pyengine.from_pretrained(place / "sd", controlnet=given, device="cpu")
    shown = [picture(1), picture(2)]
    assert np.array_equal(drawn(own, image=shown), drawn(want, image=shown))


def test_a_checkpoint_with_an_adapter_in_it(place, tmp_path):
    folder = whole(
        place,
        tmp_path / "t2i",
        {"adapter": ("adapter", "T2IAdapter")},
        "StableDiffusionAdapterPipeline",
    )
    own = pyengine.from_pretrained(folder, device="cpu")
    want = pyengine.from_pretrained(place / "sd", adapter=place / "adapter", device="cpu")
    assert np.array_equal(drawn(own, image=picture()), drawn(want, image=picture()))


@pytest.mark.usefixtures("no_network")
def test_such_a_checkpoint_by_id(place, tmp_path):
    whole(place, tmp_path / "one", {"controlnet": ("control3", "ControlNetModel")})
    make_cache(tmp_path / "one", tmp_path / "hub", "some-org/one")
    own = pyengine.from_pretrained("some-org/one", cache_dir=tmp_path / "hub", device="cpu")
    assert own.controlnet is not None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([None, None], "controlnet should be"),
        ("../control3", "controlnet should be"),
        (None, "needs one of controlnet, adapter, found neither"),
    ],
)
def test_checkpoints_that_do_not_hold_what_they_say(place, tmp_path, value, message):
    folder = whole(place, tmp_path / "bad", {"controlnet": ("control3", None)})
    index = json.loads((folder / "model_index.json").read_text())
    index |= {} if value is None else {"controlnet": value}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        pyengine.from_pretrained(folder, device="cpu")


def test_a_controlnets_folder_may_not_lead_out(place, tmp_path):
    folder = whole(place, tmp_path / "bad", {"controlnet": ("control3", "ControlNetModel")})
    shutil.rmtree(folder / "controlnet")
    (folder / "controlnet").symlink_to(place / "control3")
    with pytest.raises(CheckpointError, match="controlnet"):
        pyengine.from_pretrained(folder, device="cpu")


def test_files_of_such_a_repository():
    from pyengine.weights import hub

    names = [
        "controlnet/config.json", "controlnet/diffusion_pytorch_model.safetensors",
        "controlnet/diffusion_pytorch_model.bin", "controlnet_1/config.json",
        "controlnet_1/diffusion_pytorch_model.fp16.safetensors",
        "controlnet_1/diffusion_pytorch_model.safetensors", "controlnet/../x.safetensors",
        "unet/config.json",
    ]  # fmt: skip
    index = {"controlnet": ["diffusers", "MultiControlNetModel"]}
    assert hub.beside_files(names, index, None, "a/b") == [
        *names[:2],
        "controlnet_1/config.json",
        "controlnet_1/diffusion_pytorch_model.safetensors",
    ]
