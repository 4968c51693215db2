"""A LoRA's weight by part and block: diffusers' set_adapters, calls, fusing, settings."""

import json

import pytest
from adapter_pairs import CALL, draw, psnr
from lora_files import make
from test_formats import LEAST_PSNR, usual

import pyengine
from pyengine.errors import RequestError
from pyengine.pipelines.by_block import as_mapping
from pyengine.pipelines.lora_weights import LoraWeight, as_text, read_text, read_weight
from pyengine.pipelines.remembered import settings_of

#: Of SD 1.x's arrangement with one layer a block: down 0 has one attention, up 1 has two.
BLOCKS = {
    "sd1": [
        {"unet": {"down": 0.3, "mid": -0.5, "up": 0.9}, "text_encoder": 0.2},
        {"unet": {"down": {"block_0": [0.7]}, "up": {"block_1": [0.0, 1.2]}}},
        {"unet": {"mid": [0.0]}, "text_encoder": 0.0},
        {"unet": 0.4},
    ],
    "sdxl": [
        {"unet": {"down": 0.3, "mid": -0.5, "up": {"block_0": [0.2, 0.8]}}, "text_encoder_2": 0.1},
        {"unet": {"up": 0.0}, "text_encoder": -0.4},
    ],
}
CASES = [(model, i) for model, own in BLOCKS.items() for i in range(len(own))]


def inside(part, name):
    """Layers that diffusers can weigh by block: it fails at those outside of the blocks."""
    return usual(part, name) and (part != "unet" or "block" in name)


@pytest.fixture(scope="module")
def files(opened, tmp_path_factory):
    """{model: a LoRA beside attentions and convolutions}."""
    place = tmp_path_factory.mktemp("loras")
    return {
        model: make(opened(model).own, opened(model).folder, "lora", 1, inside).save(
            place / f"{model}.safetensors"
        )
        for model in BLOCKS
    }


@pytest.mark.parametrize(("model", "case"), CASES)
def test_as_diffusers(opened, files, model, case):
    one, weights = opened(model), BLOCKS[model][case]
    theirs, own = one.theirs(), one.own
    theirs.load_lora_weights(str(files[model]), adapter_name="a")
    own.load_lora(files[model], "a")
    try:
        plain, even = draw(own), draw(own, lora={"a": 1.0})
        theirs.set_adapters("a", weights)
        own.set_adapters("a", weights)
        want, got = draw(theirs), draw(own)
        assert psnr(want, got) >= LEAST_PSNR, f"{psnr(want, got):.1f} dB"
        assert psnr(got, plain) < 35
        assert psnr(got, even) < 35
        assert (draw(own, lora={"a": weights}) == got).all()
        own.fuse_lora()
        assert psnr(draw(own), got) >= 60
        own.unfuse_lora()
        own.disable_lora()
        assert (draw(own) == plain).all()
    finally:
        own.unload_lora_weights()


@pytest.mark.parametrize("kind", ["dora", "full", "loha", "lokr", "dora_per_input"])
def test_every_kind_beside_all_layers(opened, tmp_path, kind):
    """One number for all blocks and all else is that number for the LoRA, to a few last bits."""
    one = opened("sd1").own
    made = make(one, opened("sd1").folder, kind, 3, usual, norms=kind == "full")
    one.load_lora(made.save(tmp_path / "a.safetensors"))
    half = {"unet": {"down": 0.5, "mid": 0.5, "up": 0.5, "other": 0.5}, "text_encoder": 0.5}
    try:
        want = draw(one, lora={"a": 0.5})
        assert psnr(want, draw(one, lora={"a": half})) >= 90
        none = {"unet": {"down": 0, "mid": 0, "up": 0, "other": 0}, "text_encoder": 0}
        assert (draw(one, lora={"a": none}) == draw(one)).all()
    finally:
        one.unload_lora_weights()


def test_pictures_of_other_blocks_have_their_bits_alone(opened, files):
    own = opened("sd1").own
    own.load_lora(files["sd1"], "a")
    loras = [{"a": BLOCKS["sd1"][0]}, None, {"a": 0.5}, {"a": BLOCKS["sd1"][1]},
             {"a": BLOCKS["sd1"][0]}]  # fmt: skip
    call = {**CALL, "output_type": "latent"}
    try:
        together = own(["a cat"] * 5, lora=loras, seed=[*range(5)], **call).images
        for i, lora in enumerate(loras):
            assert (own("a cat", lora=lora, seed=i, **call).images[0] == together[i]).all()
    finally:
        own.unload_lora_weights()


@pytest.mark.parametrize(
    ("weight", "complaint"),
    [
        ({"unet": {"left": 1}}, "unet: expected keys down, mid, up, given 'left'"),
        ({"unet": {"down": {"block_1": 1}}}, "unet: down: expected blocks with attention: block_0"),
        ({"unet": {"up": {"block_1": [1, 2, 3]}}}, "unet: up: block_1: expected 2 numbers, given"),
        ({"unet": {"mid": [1, 2]}}, "unet: mid: expected 1 numbers"),
        ({"unet": {"mid": {"block_0": 1}}}, "unet: expected a number from -100"),
        ({"unet": {"down": "x"}}, "unet: expected a number from -100 to 100, given 'x'"),
        ({"unet": {"up": {"block_1": [1, None]}}}, "unet: expected a number from -100"),
        ({"unet": {"other": float("nan")}}, "unet: other: expected a number"),
        ({"unet": [1, 2]}, "unet: expected a number"),
        ({"text_encoder": {"down": 1}}, "text_encoder: expected a number"),
        ({"vae": 1}, "expected a number, or"),
        ("x", "expected a number"),
    ],
)
def test_what_is_refused(opened, files, weight, complaint):
    own = opened("sd1").own
    own.load_lora(files["sd1"], "a")
    try:
        with pytest.raises(RequestError, match=f"^adapter_weights: {complaint}"):
            own.set_adapters("a", weight)
        with pytest.raises(RequestError, match=f"^lora: 'a': {complaint}"):
            draw(own, lora={"a": weight})
    finally:
        own.unload_lora_weights()


# --- as text, in settings -------------------------------------------------------------------------


def test_texts():
    assert read_text("a:0.5, b ,a:0.25") == [("a", 0.5), ("b", 1.0), ("a", 0.25)]
    assert read_text('{"a, b": 0.5}') == [("a, b", 0.5)]
    assert as_text({"a": 0.5, "b": 1}) == "a:0.5,b:1"
    for weights in ({"a": {"unet": 0.5}}, {"a,b": 0.5}, {" a": 1.0}, {"{": 1.0}):
        assert dict(read_text(as_text(weights))) == weights
    for wrong in ("{", '{"a": NaN}', '{"a": 1, "a": 2}', "{" * 100):
        with pytest.raises(RequestError, match=r"^lora"):
            read_text(wrong)


def test_weights_and_back():
    names = ["down_blocks.1.attentions.0", "down_blocks.1.attentions.1", "mid_block.attentions.0",
             "up_blocks.0.attentions.0"]  # fmt: skip
    given = {"unet": {"down": {"block_1": [0.5, 2.0]}, "mid": 0.0, "other": 0.25},
             "text_encoder": 3}  # fmt: skip
    weight = read_weight("x", given, names)
    assert weight.blocks == (*zip(names, (0.5, 2.0, 0.0, 0.25), strict=True),)
    assert weight == LoraWeight(0.25, 3.0, 1.0, weight.blocks)
    assert read_weight("x", json.loads(json.dumps(weight.asked)), names).asked == weight.asked
    assert as_mapping(dict(weight.blocks))["down"] == {"block_1": [0.5, 2.0]}
    both = weight.plus(LoraWeight(1.0, 0.5))
    assert dict(both.blocks)["down_blocks.1.attentions.1"] == 3.0
    assert (both.unet, both.text, both.text_2) == (1.25, 3.5, 1.5)
    assert LoraWeight(2.0, 2.0).asked == 2.0


def test_settings_tell_all_of_it(opened, files):
    """What set_adapters chose, by part and block, and what is asked for twice: drawn again."""
    one = opened("sd1")
    own = pyengine.from_pretrained(one.folder, device="cpu")
    own.load_lora(files["sd1"], "a")
    how = {**CALL, "seed": 3}

    def again(prompt="a fox", **call):
        output = own(prompt, **call, **how)
        settings = settings_of(own, {"prompt": prompt, **call}, output, model="m", hashes={})
        own.set_adapters([])
        return settings.lora, output.images, own("a fox", lora=settings.lora, **how).images

    own.set_adapters("a", BLOCKS["sd1"][0])
    text, first, second = again()
    assert '"text_encoder": 0.2' in text
    assert (first == second).all()
    own.set_adapters("a", 0.5)
    text, first, second = again()
    assert text == "a:0.5"
    assert (first == second).all()
    text, first, second = again(lora={"a": {"unet": {"mid": 0.1}}})
    assert (first == second).all()
    own.lora_dir = files["sd1"].parent
    text, first, second = again(lora="sd1:0.5,sd1:0.25")
    assert text == "sd1:0.75"
    assert (first == own("a fox", lora={"sd1": 0.75}, **how).images).all()
    output = own("a fox <lora:sd1:0.5>", lora={"sd1": 0.25}, **how)
    assert output.report.loras[0]["sd1"]["weight"] == 0.75
    assert (output.images == first).all()


@pytest.mark.parametrize("names", [5, ["a", 5], ["a", "a"], {"a": 1}, None])
def test_names_that_are_none(opened, names):
    """One, or a list with each once."""
    own = opened("sd1").own
    with pytest.raises(RequestError, match=r"^adapter_names: expected"):
        own.set_adapters(names)
    with pytest.raises(RequestError, match=r"^adapter_names: expected"):
        own.delete_adapters(names)
    with pytest.raises(RequestError, match=r"^(adapter_names: expected|fuse_lora: no LoRA)"):
        own.fuse_lora(adapter_names=names)
    if names is not None:
        with pytest.raises(RequestError, match=r"^components: expected"):
            own.fuse_lora(components=names)
        with pytest.raises(RequestError, match=r"^components: expected"):
            own.unfuse_lora(components=names)


def test_settings_tell_the_ip_adapters_scale(opened, files):
    """What set_ip_adapter_scale chose, where it is one number."""
    from pyengine.pipelines import remembered
    from pyengine.pipelines.stable_diffusion.image_prompts import ImageAdapters

    class Pipe:
        _images = ImageAdapters()

    for scales, told in (
        ((0.5,), 0.5), ((1.0,), None), ((0.5, 0.5), 0.5), ((0.5, 0.6), None), ((), None),
        (({"mid_block": 0.5},), None), (((0.5, 0.5),), None),
    ):  # fmt: skip
        Pipe._images.scales = scales
        assert remembered._image_scale(Pipe) == told
