"""Other LoRAs for every picture of one call, of one engine; memory; tiers of weights."""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from adapter_pairs import CALL, Opened, draw, psnr
from lora_files import make
from safetensors.torch import load_file, save_file
from test_formats import USUAL, usual

import pyengine
from pyengine.errors import RequestError

KINDS = ("lora", "dora", "loha", "lokr", "lora_mid", "full", "dora_per_input")
PUBLISHED = Path(
    os.environ.get(
        "PYENGINE_LORAS", str(Path(__file__).parents[2].parent / "shared/data/published")
    )
)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def drawn_with_seven(request, opened, tmp_path_factory):
    """(a pipeline with a LoRA of each kind, their names)."""
    one, folder = opened(request.param), tmp_path_factory.mktemp("loras")
    for seed, kind in enumerate(KINDS):
        made = make(one.own, one.folder, kind, 10 + seed, usual, norms=kind == "full")
        one.own.load_lora(made.save(folder / f"{kind}.safetensors"))
    yield one.own
    one.own.unload_lora_weights()


def test_eight_pictures_have_their_bits_alone(drawn_with_seven):
    """Seven kinds and none, at other scales, prompts and seeds; guided and not."""
    pipe = drawn_with_seven
    wanted = [*({kind: 0.7 - 0.2 * i} for i, kind in enumerate(KINDS)), None]
    prompts = ["a cat", "a dog"] * 4
    call = {**CALL, "output_type": "latent", "guidance_scale": [5.0, 1.0, 3.0, 2.0] * 2}
    together = pipe(prompts, lora=wanted, seed=list(range(8)), **call).images
    for i in (0, 1, 4, 5, 6, 7):
        alone = pipe(
            prompts[i],
            lora=wanted[i],
            seed=i,
            **{**call, "guidance_scale": call["guidance_scale"][i]},
        ).images
        assert (alone[0] == together[i]).all(), KINDS[i : i + 1]
    plain = pipe(prompts[:7], seed=list(range(7)), **{**call, "guidance_scale": 2.0}).images
    assert all(not np.array_equal(a, b) for a, b in zip(together[:7], plain, strict=True))


def test_pictures_of_one_prompt(drawn_with_seven):
    pipe = drawn_with_seven
    call = {**CALL, "output_type": "latent"}
    pair = pipe(
        "a cat",
        num_images_per_prompt=2,
        lora=[{"lora": 1.0}, {"lokr": 0.5, "full": 0.2}],
        seed=[4, 4],
        **call,
    ).images
    for i, lora in enumerate(({"lora": 1.0}, "lokr:0.5,full:0.2")):
        assert (pipe("a cat", lora=lora, seed=4, **call).images[0] == pair[i]).all()
    each = pipe(
        ["a cat", "a dog"],
        num_images_per_prompt=2,
        lora=[{"lora": 1.0}, None],
        seed=[4, 5, 6, 7],
        **call,
    ).images
    assert (each[0] == pair[0]).all()
    assert (each[3] == pipe("a dog", seed=7, **call).images[0]).all()


def test_requests_of_an_engine(drawn_with_seven):
    pipe = drawn_with_seven
    call = {**CALL, "output_type": "latent"}
    loras = [{"lora": 0.5}, None, {"dora": 1.0}, {"lora": -0.5}]
    with pyengine.Engine(pipe) as engine:
        jobs = [
            engine.submit(prompt="a cat", seed=i, lora=lora, **call) for i, lora in enumerate(loras)
        ]
        got = [job.result(timeout=100).images[0] for job in jobs]
        with pytest.raises(
            RequestError, match=r"lora: no LoRA is named 'nobody'; there are 'lora'"
        ):
            engine.submit(prompt="a cat", lora={"nobody": 1.0})
    for i, lora in enumerate(loras):
        assert (got[i] == pipe("a cat", seed=i, lora=lora, **call).images[0]).all()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"lora": "much"}, "lora: 'lora': expected a number from -100 to 100"),
        ({"lora": float("nan")}, "lora: 'lora': expected a number"),
        ({"lora": 101}, "lora: 'lora': expected a number"),
        ({"lor": 1}, "lora: no LoRA is named 'lor'.*did you mean lora?"),
        ([{"lora": 1}, None, None], "lora: expected one mapping, or one per prompt: 2"),
        (7, "lora: expected {name: weight}"),
        ({3: 1.0}, "lora: expected a LoRA's name"),
        ("lora:x", "lora: expected NAME:WEIGHT"),
        ("", "lora: expected NAME:WEIGHT"),
    ],
)
def test_what_a_call_refuses(drawn_with_seven, given, complaint):
    with pytest.raises(RequestError, match=f"^{complaint}"):
        drawn_with_seven(["a cat", "a dog"], lora=given, **CALL)


def test_cross_attention_kwargs(drawn_with_seven):
    pipe = drawn_with_seven
    want = draw(pipe, lora={"lora": 0.4})
    assert (draw(pipe, lora={"lora": 0.8}, cross_attention_kwargs={"scale": 0.5}) == want).all()
    for wrong in ({"gate": 1}, 0.5, {"scale": "x"}):
        with pytest.raises(RequestError, match=r"^cross_attention_kwargs"):
            draw(pipe, cross_attention_kwargs=wrong)
    with pytest.warns(UserWarning, match=r"no LoRA is in use"):
        draw(pipe, cross_attention_kwargs={"scale": 0.5})


# --- tiers and memory -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "least"),
    [({"dtype": "bfloat16"}, 15), ({"dtype": "float16"}, 30), ({"weights": "fp8"}, 15)],
    ids=["bfloat16", "float16", "fp8"],
)
@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_tiers(opened, tmp_path, how, least, kind):
    """Beside weights of 16 and 8 bits; and what was fused is undone to the bit."""
    one = opened("sd1")
    made = make(one.own, one.folder, kind, 3, usual)
    path = made.save(tmp_path / "file.safetensors")
    one.own.load_lora(path)
    want = draw(one.own, lora={"file": 0.4})
    one.own.unload_lora("file")
    pipe = pyengine.from_pretrained(one.folder, device="cpu", **how)
    plain = draw(pipe)
    pipe.load_lora(path)
    got = draw(pipe, lora={"file": 0.4})
    assert psnr(want, got) > max(least, psnr(want, plain) + 5)
    pipe.fuse_lora(lora_scale=0.4, adapter_names=["file"])
    assert psnr(want, draw(pipe)) > max(least, psnr(want, plain) + 5)
    pipe.unfuse_lora()
    pipe.unload_lora("file")
    assert (draw(pipe) == plain).all()


def test_a_hundred_loaded_used_and_unloaded(opened, tmp_path):
    one = opened("sd1")
    path = make(one.own, one.folder, "lora", 3, usual).save(tmp_path / "file.safetensors")
    plain = draw(one.own)

    def load_use_unload(times):
        for i in range(times):
            one.own.load_lora(path, "it")
            if i % 10 == 0:
                draw(one.own, lora={"it": 1.0}, num_inference_steps=1)
            one.own.unload_lora("it")
        gc.collect()
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = load_use_unload(20)
    after = load_use_unload(100)
    size = path.stat().st_size
    assert after - before < 20 * size, f"{(after - before) / size:.1f} files"
    assert (draw(one.own) == plain).all()


def test_moved_to_another_dtype(opened, tmp_path):
    one = opened("sd1")
    path = make(one.own, one.folder, "lora", 3, usual).save(tmp_path / "file.safetensors")
    pipe = pyengine.from_pretrained(one.folder, device="cpu")
    pipe.load_lora(path)
    pipe.set_adapters("file", 0.5)
    want = draw(pipe)
    pipe.to("cpu", torch.bfloat16)
    assert psnr(want, draw(pipe)) > 15
    pipe.to("cpu", torch.float32)
    assert (draw(pipe) == want).all()


def test_beside_weights_stored_in_half(opened, tmp_path):
    """The adapter's float32 tensors beside float16 weights, which are widened as they are read."""
    folder = tmp_path / "half"
    shutil.copytree(opened("sd1").folder, folder)
    file = next((folder / "unet").glob("*.safetensors"))
    save_file({n: t.half() for n, t in load_file(file).items()}, file, metadata={"format": "pt"})
    one = Opened(folder)
    made = make(one.own, folder, "dora", 3, lambda part, name: name.endswith(USUAL))
    one.own.load_lora(made.save(tmp_path / "file.safetensors"))
    got = draw(one.own, lora={"file": 0.8})
    weights = {n: t.float() for n, t in load_file(file).items()}
    for name, delta in made.deltas["unet"].items():
        weights[name] = (weights[name].double() + 0.8 * delta).float()
    save_file(weights, file, metadata={"format": "pt"})
    text = next((folder / "text_encoder").glob("*.safetensors"))
    weights = load_file(text)
    for name, delta in made.deltas["text_encoder"].items():
        weights[name] = (weights[name].double() + 0.8 * delta).float()
    save_file(weights, text, metadata={"format": "pt"})
    assert psnr(draw(Opened(folder).own), got) >= 40


# --- published files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """SD 1.5's layers in number and width, over fewer pixels, with random weights."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    unet = {
        "block_out_channels": (320, 640, 1280, 1280),
        "norm_num_groups": 32,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    }
    text = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    }
    return Opened(tiny.write_sd1(folder, unet=unet, text=text, dtype=torch.float16))


@pytest.mark.slow
@pytest.mark.skipif(
    not (PUBLISHED / "lora_disney.safetensors").is_file(),
    reason="no published LoRAs: PYENGINE_LORAS names no folder with lora_disney.safetensors",
)
@pytest.mark.parametrize("name", ["lora_disney", "analog_svd_rank4"])
def test_published_files(wide, name, tmp_path):
    """cloneofsimo's numbered layers: the same as in a file that names them, by another list."""
    pipe = wide.own
    tensors = load_file(PUBLISHED / f"{name}.safetensors")
    named = {}
    for part, layers in (("unet", _unet_layers()), ("text_encoder", _text_layers())):
        assert len(layers) == sum(n.startswith(part) and n.endswith("up") for n in tensors)
        for i, layer in enumerate(layers):
            flat = f"{'lora_unet' if part == 'unet' else 'lora_te'}_{layer.replace('.', '_')}"
            for side in ("down", "up"):
                named[f"{flat}.lora_{side}.weight"] = tensors[f"{part}:{i}:{side}"]
    save_file(named, tmp_path / "named.safetensors")
    if "<s1>" in tensors:
        with pytest.warns(UserWarning, match=r"learnt tokens '<s1>', '<s2>'"):
            pipe.load_lora(PUBLISHED / f"{name}.safetensors", "numbered")
    else:
        pipe.load_lora(PUBLISHED / f"{name}.safetensors", "numbered")
    pipe.load_lora(tmp_path / "named.safetensors", "named")
    try:
        call = {"num_inference_steps": 1, "height": 32, "width": 32}
        got, want = (draw(pipe, lora={n: 20.0}, **call) for n in ("numbered", "named"))
        assert (got == want).all()
        assert psnr(got, draw(pipe, **call)) < 60
    finally:
        pipe.unload_lora_weights()


def _unet_layers():
    """In the order in which the modules were registered in diffusers of that time."""
    blocks = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
    blocks += [f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)]
    blocks.append("mid_block.attentions.0")
    attention = ["to_q", "to_k", "to_v", "to_out.0"]
    inner = [
        *(f"attn1.{n}" for n in attention),
        "ff.net.0.proj",
        *(f"attn2.{n}" for n in attention),
    ]
    return [f"{block}.transformer_blocks.0.{n}" for block in blocks for n in inner]


def _text_layers():
    return [
        f"text_model.encoder.layers.{i}.self_attn.{n}_proj"
        for i in range(12)
        for n in ("k", "v", "q", "out")
    ]
