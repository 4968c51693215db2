"""<lora:name:0.8> in prompts, a folder of LoRAs, few-step presets, the command line."""

import json
import os

import pytest
import torch
from adapter_pairs import CALL, draw
from lora_files import make
from safetensors.torch import load_file, save_file
from test_formats import usual
from typer.testing import CliRunner

import pyengine
from pyengine.adapters import PRESETS, Tag, find_tags
from pyengine.cli.app import app
from pyengine.errors import CheckpointError, RequestError
from pyengine.pipelines import lora_folder


@pytest.fixture(scope="module")
def folder(opened, tmp_path_factory):
    """A folder of two LoRAs, and one beside it."""
    one, place = opened("sd1"), tmp_path_factory.mktemp("loras") / "inside"
    place.mkdir()
    for seed, name in enumerate(("ink", "oil paint")):
        make(one.own, one.folder, "lora", seed, usual).save(place / f"{name}.safetensors")
    make(one.own, one.folder, "lora", 5, usual).save(place.parent / "outside.safetensors")
    (place / "notes.txt").write_text("no LoRA")
    return place


@pytest.fixture
def pipe(opened, folder):
    own = opened("sd1").own
    own.lora_dir = folder
    yield own
    own.lora_dir = None


@pytest.mark.parametrize(
    ("prompt", "text", "tags"),
    [
        ("a fox", "a fox", []),
        ("a <lora:ink:0.8> fox", "a fox", [Tag("ink", 0.8, 0.8)]),
        ("a fox <lora:oil paint>", "a fox", [Tag("oil paint")]),
        ("<lora:a:-.5><lora:b:1:2>x", "x", [Tag("a", -0.5, -0.5), Tag("b", 1.0, 2.0)]),
        ("<lora:a:te=0.5:unet=0.25>x", "x", [Tag("a", 0.5, 0.25)]),
        ("a <lyco:ink:0.5> fox", "a fox", [Tag("ink", 0.5, 0.5)]),
        ("a < b <lora> lora:x", "a < b <lora> lora:x", []),
    ],
)
def test_tags(prompt, text, tags):
    assert find_tags(prompt) == (text, tags)


@pytest.mark.parametrize("tag", ["", ":1", "a:b", "a:1:2:3", "a:1e3", "a:nan", "a:x=1", "a:101"])
def test_tags_that_are_refused(tag):
    with pytest.raises(RequestError, match=r"^prompt: expected <lora:NAME:WEIGHT>"):
        find_tags(f"a fox <lora:{tag}>")


def test_prompts_name_files_of_the_folder(pipe, folder):
    pipe.load_lora(folder / "ink.safetensors", "loaded")
    want = draw(pipe, "a fox", lora={"loaded": 0.8})
    assert (draw(pipe, "a fox <lora:ink:0.8>") == want).all()
    assert (draw(pipe, "a fox", lora={"ink": 0.8}) == want).all()
    assert (draw(pipe, "a fox <lora:loaded:0.3>", lora={"ink": 0.5}) != want).any()
    both = pipe(["a fox <lora:ink:0.8>", "a cat"], seed=[1, 2], **CALL).images
    assert (both[1] == pipe("a cat", seed=2, **CALL).images[0]).all()
    pipe.unload_lora("loaded")
    apart = draw(pipe, "a fox <lora:ink:0:0.8>")
    assert (apart != want).any()  # of the U-Net alone


@pytest.mark.parametrize(
    "name", ["outside", "../outside", "nobody", "notes.txt", "notes", "/etc/passwd", "ink.", "."]
)
def test_names_not_paths(pipe, name):
    with pytest.raises(RequestError, match=r"^prompt: no LoRA is named"):
        draw(pipe, f"a fox <lora:{name}:1>")
    with pytest.raises(RequestError, match=r"^lora: no LoRA is named"):
        draw(pipe, "a fox", lora={name: 1.0})


def test_a_link_out_of_the_folder(pipe, folder):
    link = folder / "link.safetensors"
    os.symlink(folder.parent / "outside.safetensors", link)
    try:
        with pytest.raises(CheckpointError, match=r"^lora 'link': a link that leads outside") as e:
            draw(pipe, "a fox <lora:link:1>")
        assert str(folder.parent) not in str(e.value)
    finally:
        link.unlink()


@pytest.mark.parametrize("content", [b"\xff" * 100, b"\x80\x02.", b"", None, "cut", "other"])
def test_files_of_the_folder_that_do_not_fit(pipe, folder, content):
    """Named without the folder's place: a server's clients read it."""
    bad = folder / "bad.safetensors"
    if content is None:
        bad.mkdir()
    elif content == "other":
        save_file({"what": torch.ones(2)}, bad)
    else:
        whole = (folder / "ink.safetensors").read_bytes()
        bad.write_bytes(whole[:-100] if content == "cut" else content)
    try:
        with pytest.raises(CheckpointError, match=r"^lora 'bad': ") as e:
            draw(pipe, "a fox <lora:bad:1>")
        assert str(folder) not in str(e.value)
    finally:
        bad.rmdir() if bad.is_dir() else bad.unlink()


def test_tags_of_negative_prompts_are_text(pipe):
    """As in A1111's; but that is said."""
    with pytest.warns(UserWarning, match=r"^negative_prompt: <lora:...> is read in the prompt"):
        got = draw(pipe, "a fox", negative_prompt="a cat <lora:ink:0.8>")
    assert (got != draw(pipe, "a fox", negative_prompt="a cat")).any()


def test_without_a_folder_tags_are_text(opened):
    own = opened("sd1").own
    with pytest.warns(UserWarning, match=r"is read where a folder of LoRAs is given"):
        draw(own, "a fox <lora:ink:0.8>")
    with pytest.raises(RequestError, match=r"^lora_dir: expected a folder"):
        own.lora_dir = "/no/such/folder"


def test_the_folder_keeps_few(pipe, monkeypatch):
    want = [draw(pipe, f"a fox <lora:{name}:1>") for name in ("ink", "oil paint")]
    kept = pipe._loras.folder._kept
    assert list(kept) == ["ink", "oil paint"]
    monkeypatch.setattr(lora_folder, "CACHE_BYTES", 1)
    kept.clear()
    again = [draw(pipe, f"a fox <lora:{name}:1>") for name in ("ink", "oil paint")]
    assert list(kept) == ["oil paint"]
    assert all((a == b).all() for a, b in zip(want, again, strict=True))


# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets(opened, name):
    preset = PRESETS[name]
    pipe = pyengine.from_pretrained(opened("sd1").folder, device="cpu", preset=name)
    call = {**CALL, "seed": 3}
    del call["num_inference_steps"]
    output = pipe("a fox", **call)
    assert output.report.sampler == preset.scheduler
    assert output.report.steps == preset.steps
    assert pipe.scheduler.name == preset.scheduler
    if preset.spacing:
        assert pipe.scheduler.config.timestep_spacing == preset.spacing
    same = opened("sd1").own(
        "a fox", scheduler=preset.scheduler, timestep_spacing=preset.spacing, eta=preset.eta,
        num_inference_steps=preset.steps, guidance_scale=preset.guidance_scale, **call,
    )  # fmt: skip
    assert (output.images == same.images).all()
    other = pipe("a fox", num_inference_steps=3, scheduler="euler", guidance_scale=2.0, **call)
    assert (other.report.steps, other.report.sampler) == (3, "euler")


def test_presets_that_are_refused(opened):
    with pytest.raises(RequestError, match=r"^preset: expected one of lcm, tcd.*did you mean lcm"):
        pyengine.from_pretrained(opened("sd1").folder, preset="lcmm")
    for name, value in (("preset", "lcm"), ("lora_dir", ".")):
        with pytest.raises(RequestError, match=f"^{name}: expected none for a "):
            pyengine.from_pretrained("emoji-ar", **{name: value})


def test_a_file_that_names_its_preset(opened, folder, tmp_path):
    own, path = opened("sd1").own, tmp_path / "fast.safetensors"
    save_file(load_file(folder / "ink.safetensors"), path, metadata={"preset": "tcd"})
    call = {"seed": 3, "height": 32, "width": 32, "output_type": "np"}
    own.load_lora(path)
    own.load_lora(folder / "ink.safetensors")
    try:
        got = own("a fox", lora={"fast": 1.0}, **call)
        assert (got.report.sampler, got.report.steps, got.report.eta) == ("tcd", 4, 0.3)
        want = own("a fox", lora={"ink": 1.0}, scheduler="tcd", num_inference_steps=4,
                   guidance_scale=0.0, eta=0.3, **call)  # fmt: skip
        assert (got.images == want.images).all()
        with pytest.warns(UserWarning, match=r"some of the pictures' LoRAs are for few steps"):
            mixed = own(["a", "b"], lora=[{"fast": 1.0}, None], num_inference_steps=2,
                        **{**call, "seed": [1, 2]})  # fmt: skip
        assert mixed.report.sampler == "ddim"
    finally:
        own.unload_lora_weights()
    save_file(load_file(path), path, metadata={"preset": "warp"})
    with pytest.raises(CheckpointError, match=r"metadata preset: expected one of lcm"):
        own.load_lora(path)


# --- the command line -----------------------------------------------------------------------------


def command(*args):
    result = CliRunner().invoke(app, [str(a) for a in args], standalone_mode=False)
    return result


def test_generate_and_again(opened, folder, tmp_path):
    """--lora-dir with tags and with --lora; the picture's settings draw it again."""
    model = opened("sd1").folder
    first = tmp_path / "first.png"
    how = ["--steps", 2, "--height", 32, "--width", 32, "--device", "cpu"]
    done = command("generate", "a fox <lora:ink:0.8>", "-m", model, "--lora-dir", folder,
                   "--lora", "oil paint:-0.3", "--seed", 3, "-o", first, *how)  # fmt: skip
    assert done.exception is None, done.exception
    settings = pyengine.metadata.read(first)
    assert settings.lora == "oil paint:-0.3"
    assert [name for name, _ in settings.files_of_loras] == ["oil paint", "ink"]
    assert "Lora hashes" in settings.to_a1111()
    again = tmp_path / "again.png"
    refused = command("generate", "--from", first, "-m", model, "-o", again)
    assert "expected --lora-dir" in str(refused.exception)
    done = command("generate", "--from", first, "-m", model, "--lora-dir", folder, "-o", again)
    assert done.exception is None, done.exception
    images = [pyengine.images.load_image(p, "x").tobytes() for p in (first, again)]
    assert images[0] == images[1]
    assert "not the one" not in done.output
    other = tmp_path / "other"
    other.mkdir()
    (other / "ink.safetensors").write_bytes((folder / "oil paint.safetensors").read_bytes())
    (other / "oil paint.safetensors").write_bytes((folder / "ink.safetensors").read_bytes())
    done = command("generate", "--from", first, "-m", model, "--lora-dir", other, "-o", again)
    assert "'ink' is not the one that was used before" in done.output + done.stderr


def test_generate_with_a_preset_and_again(opened, tmp_path):
    model, first, again = opened("sd1").folder, tmp_path / "a.png", tmp_path / "b.png"
    done = command("generate", "a fox", "-m", model, "--preset", "lightning", "--seed", 3,
                   "--height", 32, "--width", 32, "--device", "cpu", "-o", first)  # fmt: skip
    assert done.exception is None, done.exception
    settings = pyengine.metadata.read(first)
    assert (settings.preset, settings.steps, settings.sampler) == ("lightning", 4, "euler")
    done = command("generate", "--from", first, "-m", model, "-o", again)
    assert done.exception is None, done.exception
    images = [pyengine.images.load_image(p, "x").tobytes() for p in (first, again)]
    assert images[0] == images[1]
    done = command("generate", "a fox", "-m", model, "--preset", "warp", "-o", again)
    assert "preset: expected one of lcm" in str(done.exception)


def test_presets_of_the_command_line():
    from pyengine.cli.values import PRESETS as NAMES

    assert tuple(PRESETS) == NAMES


def test_pictures_tell_what_was_fused(opened, folder):
    """Settings name a fused LoRA as one that the call asks for, so that it is drawn again."""
    from pyengine.pipelines.remembered import settings_of

    own, call = opened("sd1").own, {"prompt": "a fox", "lora": {"oil paint": -0.5}}
    for name in ("ink", "oil paint"):
        own.load_lora(folder / f"{name}.safetensors")
    how = {**CALL, "num_inference_steps": 2, "seed": 3}
    try:
        own.set_adapters("ink", 0.75)
        own.fuse_lora()
        output = own(**call, **how)
        told = output.report.loras[0]
        assert told["ink"]["fused"]
        assert told["ink"]["weight"] == 0.75
        assert "fused" not in told["oil paint"]
        settings = settings_of(own, call, output, model="m", hashes={})
        assert settings.lora == "ink:0.75,oil paint:-0.5"
        assert [name for name, _ in settings.files_of_loras] == ["ink", "oil paint"]
        own.unfuse_lora()
        again = own("a fox", lora=settings.lora, **how).images
        assert abs(again - output.images).max() < 1e-3
        assert abs(again - own("a fox", lora="oil paint:-0.5", **how).images).max() > 1e-2
    finally:
        own.unfuse_lora()
        own.unload_lora_weights()
    assert own("a fox", **how).report.loras == []


def test_a_scale_for_each_text_encoder(opened, tmp_path):
    """As diffusers' set_adapters: what a mapping leaves out is 1."""
    xl = opened("sdxl")
    path = make(xl.own, xl.folder, "lora", 1, usual).save(tmp_path / "xl.safetensors")
    xl.own.load_lora(path, "a")

    def encoded(**scales):
        xl.own.set_adapters("a", scales)
        return xl.own.encode_prompt("a fox", do_classifier_free_guidance=False)[0]

    try:
        first = xl.own.parts.encoders[0].config.hidden_size
        both = encoded(text_encoder=0.25, text_encoder_2=-0.5)
        assert torch.equal(both[..., :first], encoded(text_encoder=0.25)[..., :first])
        assert torch.equal(both[..., first:], encoded(text_encoder_2=-0.5)[..., first:])
        assert not torch.equal(both[..., first:], encoded()[..., first:])
        assert torch.equal(encoded(), encoded(text_encoder=1.0, text_encoder_2=1.0))
        with pytest.raises(RequestError, match="adapter_weights: expected a number, or"):
            xl.own.set_adapters("a", {"vae": 1.0})
    finally:
        xl.own.unload_lora_weights()


def test_info(folder):
    done = command("info", folder / "ink.safetensors")
    assert "a LoRA, kohya" in done.output
    assert "rank 4" in done.output
    facts = json.loads(command("info", folder / "ink.safetensors", "--json").output)
    assert facts["parts"]["unet"]["ranks"] == [4]
    assert set(facts["parts"]) == {"unet", "text_encoder"}
