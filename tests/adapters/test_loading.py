"""What is refused, and in which words; half of a file; folders, names and the Hub's manners."""

import json
import struct
import warnings

import pytest
import torch
from adapter_pairs import draw
from lora_files import make
from PIL import Image
from safetensors.torch import load_file, save_file
from test_formats import usual

import pyengine
from pyengine.adapters.names import original_name
from pyengine.branches import targets
from pyengine.errors import CheckpointError, RequestError
from pyengine.weights.original import unet_target

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
K = Q.replace("to_q", "to_k")


@pytest.fixture(scope="module")
def good(opened):
    """The tensors of a sound file."""
    one = opened("sd1")
    return make(one.own, one.folder, "lora", 1, usual).tensors


def drop(name):
    return lambda t: t.pop(name)


def put(name, value):
    return lambda t: t.update({name: value})


def scaled(name, factor):
    return lambda t: t.update({name: t[name] * factor})


DOWN, UP = f"{Q}.lora_down.weight", f"{Q}.lora_up.weight"
#: name -> (what is done to a sound file's tensors, what is said).
DAMAGE = {
    "no-up": (drop(UP), f"{DOWN}.*tensors of a LoRA, found alpha, down alone|{Q}.*expected the"),
    "no-down": (drop(DOWN), f"{Q}.*expected the tensors of a LoRA"),
    "nan": (scaled(DOWN, float("nan")), f"{DOWN}': expected finite numbers"),
    "infinity": (put(UP, torch.full((32, 4), float("inf"))), f"{UP}': expected finite"),
    "wide": (put(DOWN, torch.ones(4, 33)), rf"{DOWN}': expected \[4, 32\], found \[4, 33\]"),
    "ranks": (put(UP, torch.ones(32, 5)), rf"{UP}': expected \[32, 4\], found \[32, 5\]"),
    "vector": (put(DOWN, torch.ones(32)), f"{DOWN}': expected two dimensions"),
    "empty": (put(DOWN, torch.ones(0, 32)), rf"{DOWN}': found shape \[0, 32\]"),
    "rank-of-5000": (put(DOWN, torch.ones(5000, 32)), f"{DOWN}': expected a rank from 1 to 4096"),
    "whole-numbers": (put(DOWN, torch.ones(4, 32).int()), f"{DOWN}': expected floating-point"),
    "alpha-of-two": (put(f"{Q}.alpha", torch.ones(2)), f"{Q}.alpha': expected one number"),
    "alpha-nan": (put(f"{Q}.alpha", torch.tensor(float("nan"))), f"{Q}.alpha': expected finite"),
    "two-kinds": (put(f"{Q}.hada_w1_a", torch.ones(32, 2)), "LoRA and LoHa"),
    "half-loha": (
        lambda t: (t.pop(DOWN), t.pop(UP), t.update({f"{Q}.hada_w1_a": torch.ones(32, 2)})),
        "expected the tensors of a LoHa, found alpha, hada_w1_a",
    ),
    "lokr-that-divides-nothing": (
        lambda t: (t.pop(DOWN), t.pop(UP), t.update({
            f"{Q}.lokr_w1": torch.ones(3, 3), f"{Q}.lokr_w2": torch.ones(10, 10)})),
        "lokr_w1': expected sizes that divide 32 and 32",
    ),
    "dora-of-others": (put(f"{Q}.dora_scale", torch.ones(7, 1)), "dora_scale': expected .32., one"),
    "bias-of-others": (put(f"{Q}.diff_b", torch.ones(7)), r"diff_b': expected \[32\]"),
    "unknown-tensor": (put("optimizer.state", torch.ones(1)), "1 tensors are of no LoRA format"),
    "unknown-kind": (put(f"{Q}.oft_blocks", torch.ones(1, 2, 2)), "of no LoRA format.*oft_blocks"),
    "norm-of-a-layer": (
        put("lora_unet_conv_norm_out.lora_down.weight", torch.ones(1, 16)), "w_norm and b_norm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files(opened, good, tmp_path, name):
    change, complaint = DAMAGE[name]
    tensors = dict(good)
    change(tensors)
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path)
    own = opened("sd1").own
    with pytest.raises(CheckpointError, match=complaint):
        own.load_lora(path)
    assert own._loras.loaded == {}


def test_of_another_model(opened, tmp_path):
    """SDXL's on SD 1.x: shapes that differ; a ControlNet's tensors; nothing at all."""
    xl, own = opened("sdxl"), opened("sd1").own
    path = make(xl.own, xl.folder, "lora", 1, usual).save(tmp_path / "xl.safetensors")
    with pytest.raises(CheckpointError, match=r"xl.safetensors: '[^']+': expected \["):
        own.load_lora(path)
    for tensors, complaint in (
        ({"control_model.zero_convs.0.0.weight": torch.ones(1)}, "no.*fits|no LoRA format"),
        ({}, "expected a LoRA's tensors, found none"),
        ({"lora_unet_nowhere.lora_down.weight": torch.ones(1, 2)},
         "none of its 1 tensors fits a layer of this model .UNet2D.*'lora_unet_nowhere"),
    ):  # fmt: skip
        save_file(tensors, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match=complaint):
            own.load_lora(tmp_path / "other.safetensors")


def test_one_that_half_fits_says_so(opened, good, tmp_path):
    own = opened("sd1").own
    save_file(dict(good), tmp_path / "whole.safetensors")
    save_file(
        {
            **good,
            "lora_te2_text_projection.lora_down.weight": torch.ones(2, 8),
            "lora_unet_up_blocks_9_conv.lora_up.weight": torch.ones(2, 8),
        },
        tmp_path / "half.safetensors",
    )
    own.load_lora(tmp_path / "whole.safetensors")
    with pytest.warns(UserWarning, match=r"2 tensors fit no layer.*lora_te2_text_projection"):
        own.load_lora(tmp_path / "half.safetensors")
    try:
        assert (draw(own, lora={"whole": 1.0}) == draw(own, lora={"half": 1.0})).all()
    finally:
        own.unload_lora_weights()


def test_files_that_are_none(opened, tmp_path):
    own = opened("sd1").own
    pickle = tmp_path / "lora.pt"
    pickle.write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match=r"pickle"):
        own.load_lora(pickle)
    cut = tmp_path / "cut.safetensors"
    save_file({DOWN: torch.ones(4, 32)}, cut)
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"truncated|lie outside"):
        own.load_lora(cut)
    absurd = tmp_path / "absurd.safetensors"
    header = {DOWN: {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}
    data = json.dumps(header).encode()
    absurd.write_bytes(struct.pack("<Q", len(data)) + data + b"abcd")
    with pytest.raises(CheckpointError, match=r"takes .* bytes"):
        own.load_lora(absurd)
    for place in ("", None, 3, "no such/file.safetensors", "a\0b", "no/such/thing/at/all"):
        with pytest.raises((CheckpointError, RequestError)):
            own.load_lora(place)


def test_sizes_beyond_memory_are_not_taken(opened, tmp_path, monkeypatch):
    from pyengine.adapters import file

    monkeypatch.setattr(file, "machine_memory", lambda: 1000)
    save_file({DOWN: torch.ones(40, 32)}, tmp_path / "big.safetensors")
    with pytest.raises(CheckpointError, match=r"this machine has"):
        opened("sd1").own.load_lora(tmp_path / "big.safetensors")


def test_ordinal_files(opened, tmp_path):
    own = opened("sd1").own
    path = tmp_path / "numbered.safetensors"
    few = {"unet:0:down": torch.ones(1, 16), "unet:0:up": torch.ones(16, 1)}
    for tensors, metadata, complaint in (
        ({**few, "unet:9999:down": torch.ones(1, 16)}, {}, "'unet:9999:down': expected a number"),
        (few, {"unet": '["ResnetBlock2D"]'}, "metadata unet: expected the classes"),
        (few, {"unet": "[" * 5000}, "metadata unet: expected the classes"),
        ({"unet:0:down": torch.ones(1, 16)}, {}, "'unet:0:down': expected the tensors of a LoRA"),
    ):
        save_file(tensors, path, metadata=metadata or None)
        with pytest.raises(CheckpointError, match=complaint):
            own.load_lora(path)


def test_folders(opened, good, tmp_path):
    own = opened("sd1").own
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"expected one .safetensors file.*found none"):
        own.load_lora(folder)
    save_file(dict(good), folder / "a.safetensors")
    assert own.load_lora(folder) == "a"
    save_file(dict(good), folder / "b.safetensors")
    save_file(dict(good), folder / "inner" / "c.safetensors")
    save_file(dict(good), tmp_path / "outside.safetensors")
    try:
        with pytest.raises(CheckpointError, match=r"weight_name= says which"):
            own.load_lora(folder)
        assert own.load_lora(folder, weight_name="b.safetensors") == "b"
        assert own.load_lora(folder, subfolder="inner") == "c"
        for outside in ({"weight_name": "../outside.safetensors"}, {"subfolder": ".."}):
            with pytest.raises(CheckpointError, match=r"leads outside"):
                own.load_lora(folder, **outside)
        with pytest.raises(RequestError, match=r"a LoRA 'b' is loaded already"):
            own.load_lora(folder, weight_name="b.safetensors")
        with pytest.raises(RequestError, match=r"load_lora: expected some of weight_name"):
            own.load_lora(folder, "d", weight="b.safetensors")
        with pytest.raises(RequestError, match=r"name: no LoRA is named 'x'"):
            own.unload_lora("x")
    finally:
        own.unload_lora_weights()


def test_fused_ones_stay_until_unfused(opened, good, tmp_path):
    own = opened("sd1").own
    save_file(dict(good), tmp_path / "a.safetensors")
    plain = draw(own)
    own.load_lora(tmp_path / "a.safetensors")
    with pytest.raises(RequestError, match=r"fuse_lora: no LoRA is active"):
        own.fuse_lora()
    jobs = own.prepare(own.request("a cat", num_inference_steps=1, height=32, width=32))
    own.fuse_lora(adapter_names=["a"])
    with pytest.raises(RequestError, match=r"prepared since"):
        own.step(jobs)
    try:
        assert own.num_fused_loras == 1
        with pytest.raises(RequestError, match=r"'a' is fused into the weights"):
            own.unload_lora("a")
        with pytest.raises(RequestError, match=r"'a': fused already"):
            own.fuse_lora(adapter_names=["a"])
        assert (draw(own) != plain).any()
    finally:
        own.unfuse_lora()
        own.unload_lora("a")
    assert (draw(own) == plain).all()


@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl"])
def test_original_names_lead_back(opened, model):
    """original_name against weights.original's table, which reads whole checkpoints."""
    unet = opened(model).own.unet
    names, layers = targets(unet), unet.config.layers_per_block
    for name in names:
        original = original_name(name, layers, names)
        if name.startswith("add_embedding"):
            assert original.startswith("label_emb.0.")
        else:
            assert unet_target(f"{original}.weight", layers) == (f"{name}.weight", None)


def test_weights_of_a_loaded_file_are_its_own(opened, good, tmp_path):
    """The file may change or go once it is loaded."""
    own = opened("sd1").own
    path = tmp_path / "a.safetensors"
    save_file(dict(good), path)
    own.load_lora(path)
    want = draw(own, lora={"a": 1.0})
    save_file({n: t * 0 for n, t in load_file(path).items()}, path)
    try:
        assert (draw(own, lora={"a": 1.0}) == want).all()
    finally:
        own.unload_lora("a")


def test_flipped_bytes(opened, good, tmp_path):
    """Any byte of a file may be another: it loads, or is refused in words of ours."""
    own, path = opened("sd1").own, tmp_path / "flipped.safetensors"
    few = {name: good[name] for name in (DOWN, UP, f"{Q}.alpha")}
    save_file(few, path)
    sound = path.read_bytes()
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for at in range(0, 420, 3):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x15]) + sound[at + 1 :])
            try:
                own.load_lora(path, "it")
            except CheckpointError:
                refused += 1
            else:
                own.unload_lora("it")
    assert refused > 80


def test_out_of_the_hubs_cache(opened, good, tmp_path, monkeypatch):
    """A Hub id whose file is cached is not asked for; one that is not says so offline."""
    own, cache = opened("sd1").own, tmp_path / "hub"
    repo = cache / "models--someone--ink"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "blobs").mkdir()
    save_file(dict(good), repo / "blobs" / "1234")
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "ink.safetensors").symlink_to(repo / "blobs" / "1234")
    assert own.load_lora("someone/ink", cache_dir=cache) == "ink"
    own.unload_lora("ink")
    with pytest.raises(CheckpointError, match=r"someone/ink: no such file here"):
        own.load_lora(
            "someone/ink", weight_name="other.safetensors", cache_dir=cache, local_files_only=True
        )


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"peft_type": "LOHA"}, "peft_type: expected LORA, found 'LOHA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: it was trained beside other"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: it was trained beside other"),
        ({"alpha_pattern": {"(a+)+": 3}}, r"alpha_pattern: expected names.*found '\(a\+\)\+'"),
        ({"alpha_pattern": {".*to_q": 3}}, "alpha_pattern: expected names"),
    ],
)
def test_configs_of_peft_that_are_refused(opened, good, tmp_path, config, complaint):
    """Whose tensors would mean something else here."""
    tensors = {n: t for n, t in good.items() if not n.endswith(".alpha")}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, **config}))
    with pytest.raises(CheckpointError, match=rf"adapter_model\.safetensors: {complaint}"):
        opened("sd1").own.load_lora(tmp_path, "a")
    taken = {"peft_type": "LORA", "init_lora_weights": "gaussian", "alpha_pattern": {"to_q": 3}}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, **taken}))
    opened("sd1").own.load_lora(tmp_path, "a")
    opened("sd1").own.unload_lora("a")


def test_other_parts_while_fused(opened, good, tmp_path):
    """A pipeline that gets another U-Net reads its LoRAs again for it, and fuses them again."""
    own = pyengine.from_pretrained(opened("sd1").folder, device="cpu")
    other = pyengine.from_pretrained(opened("sd1").folder, device="cpu")
    plain = draw(own)
    save_file(dict(good), tmp_path / "a.safetensors")
    own.load_lora(tmp_path / "a.safetensors")
    own.fuse_lora(adapter_names=["a"])
    want = draw(own)
    with pytest.raises(RequestError, match=r"save_pretrained: a LoRA is fused"):
        own.save_pretrained(tmp_path / "saved")
    own.unet = other.unet
    assert (draw(own) == want).all()
    own.unfuse_lora()
    assert (draw(own) == plain).all()
    assert (draw(other) == plain).all()


@pytest.mark.parametrize("cls", ["StableDiffusionImg2ImgPipeline", "AutoPipelineForInpainting"])
def test_classes_by_task(opened, good, tmp_path, cls):
    """Image-to-image and inpainting over the same models have the same LoRAs."""
    own = opened("sd1").own
    save_file(dict(good), tmp_path / "a.safetensors")
    own.load_lora(tmp_path / "a.safetensors")
    pipe = getattr(pyengine, cls).from_pipe(own)
    image = Image.new("RGB", (32, 32), "red")
    call = {"image": image, "seed": 1, "num_inference_steps": 4, "output_type": "np"}
    if "Inpaint" in cls:
        call |= {"mask_image": Image.new("L", (32, 32), 255), "height": 32, "width": 32}
    try:
        plain, got = (pipe("a cat", lora=lora, **call).images for lora in (None, {"a": 1.0}))
        assert (plain != got).any()
    finally:
        own.unload_lora("a")
