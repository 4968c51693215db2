"""Every kind of LoRA against the weights that it stands for, merged in float64."""

import pytest
from adapter_pairs import Opened, draw, psnr
from lora_files import KINDS, make, merge

from pyengine.branches import targets

LEAST_PSNR = 40.0
#: What most LoRAs have, and what some have.
USUAL = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2",
         "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # fmt: skip
OTHERS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv")


def usual(part, name):
    return name.endswith(USUAL + OTHERS)


def check(opened, copied, tmp_path, model, kind, scale=0.8, **how):
    one = opened(model)
    made = make(one.own, one.folder, kind, **how)
    merged = Opened(merge(copied(model), made.deltas, scale)).own
    one.own.load_lora(made.save(tmp_path / "file.safetensors"), "file")
    try:
        got, want = draw(one.own, lora={"file": scale}), draw(merged)
        plain = draw(one.own)
    finally:
        one.own.unload_lora("file")
    assert want.std() > 0.02
    assert psnr(want, plain) < 30, "a LoRA that changes nothing would prove nothing"
    assert psnr(want, got) >= LEAST_PSNR, f"{psnr(want, got):.1f} dB"
    return psnr(want, got)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(opened, copied, tmp_path, kind):
    check(opened, copied, tmp_path, "sd1", kind, pick=usual)


@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_every_layer(opened, copied, tmp_path, model, kind):
    """Embeddings of time, first and last convolution, norms and all of the text encoders."""
    check(opened, copied, tmp_path, model, kind, norms=kind == "full", scale=0.5)


def test_alphas_that_differ(opened, copied, tmp_path):
    """A missing alpha is scale 1 for that module, whatever others have."""
    one = opened("sd1")
    first = make(one.own, one.folder, "lora", pick=lambda part, name: name.endswith("to_q"))
    second = make(
        one.own,
        one.folder,
        "lora_without_alpha",
        seed=5,
        pick=lambda part, name: name.endswith("to_v"),
    )
    assert any(name.endswith(".alpha") for name in first.tensors)
    assert not any(name.endswith(".alpha") for name in second.tensors)
    first.tensors |= second.tensors
    for part, own in second.deltas.items():
        first.deltas[part] |= own
    merged = Opened(merge(copied("sd1"), first.deltas, 1.0)).own
    one.own.load_lora(first.save(tmp_path / "mixed.safetensors"))
    got = draw(one.own, lora={"mixed": 1.0})
    one.own.unload_lora("mixed")
    assert psnr(draw(merged), got) >= LEAST_PSNR


def test_two_at_once_and_one_negative(opened, copied, tmp_path):
    one = opened("sdxl")
    a = make(one.own, one.folder, "lora", 1, usual)
    b = make(one.own, one.folder, "lokr_low", 7, usual)
    folder = merge(merge(copied("sdxl"), a.deltas, 0.6), b.deltas, -0.4)
    one.own.load_lora(a.save(tmp_path / "a.safetensors"))
    one.own.load_lora(b.save(tmp_path / "b.safetensors"))
    got = draw(one.own, lora={"a": 0.6, "b": -0.4})
    one.own.unload_lora_weights()
    assert psnr(draw(Opened(folder).own), got) >= LEAST_PSNR


def test_dora_between_no_scale_and_all(opened, copied, tmp_path):
    """Half of a DoRA is half of its difference, as LyCORIS and ComfyUI have it."""
    check(opened, copied, tmp_path, "sd2", "dora", scale=0.5, pick=usual)


@pytest.mark.parametrize("kind", ["lora", "dora", "loha_of_high_rank", "full"])
def test_fused(opened, copied, tmp_path, kind):
    one = opened("sd1")
    made = make(one.own, one.folder, kind, pick=usual)
    merged = Opened(merge(copied("sd1"), made.deltas, 0.8)).own
    plain = draw(one.own)
    one.own.load_lora(made.save(tmp_path / "file.safetensors"))
    one.own.fuse_lora(lora_scale=0.8, adapter_names=["file"])
    got = draw(one.own)
    one.own.unfuse_lora()
    assert (draw(one.own) == plain).all()
    one.own.unload_lora("file")
    assert psnr(draw(merged), got) >= LEAST_PSNR


def test_all_layers_are_named(opened):
    """What these tests pick from is what the models have."""
    names = set(targets(opened("sdxl").own.unet))
    assert {"conv_in", "conv_out", "add_embedding.linear_1", "time_embedding.linear_2"} <= names
    assert any(name.endswith(USUAL) for name in names)
