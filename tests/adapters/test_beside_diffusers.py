"""LoRA files as diffusers and peft write and read them: the same pictures there and here."""

import re

import pytest
import torch
from adapter_pairs import draw, psnr
from lora_files import PREFIX, make
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from test_formats import LEAST_PSNR, usual

import pyengine
from pyengine.adapters.names import original_name
from pyengine.branches import targets
from pyengine.errors import RequestError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


def check(one, theirs, path, scale=0.7, least=LEAST_PSNR, **load):
    """Both libraries' pictures with the file at `path`."""
    plain = draw(one.own)
    theirs.load_lora_weights(str(path), adapter_name="it", **load)
    theirs.set_adapters("it", scale)
    one.own.load_lora(path, "it")
    try:
        got = draw(one.own, lora={"it": scale})
    finally:
        one.own.unload_lora("it")
    want = draw(theirs)
    assert psnr(want, plain) < 30
    assert psnr(want, got) >= least, f"{psnr(want, got):.1f} dB"


def attention(part, name):
    return name.endswith(ATTENTION if part == "unet" else TEXT)


def respelled(made, spell):
    """The file under other names. spell(part, dotted name, leaf): a tensor's new name, or None."""
    tensors = {}
    for name, tensor in made.tensors.items():
        new = spell(name)
        if new is not None:
            tensors[new] = tensor
    made.tensors = tensors
    return made


def dotted(one):
    """{kohya's name of a module: (part, its dotted name)}."""
    found = {}
    for part, prefix in PREFIX.items():
        model = getattr(one.own, part, None)
        for name in targets(model) if model is not None else ():
            found[f"{prefix}_{name.replace('.', '_')}"] = part, name
    return found


SIDE = {"lora_down.weight": "down", "lora_up.weight": "up"}


def peft_names(part, name, side):
    return f"{part}.{name}.lora_{'A' if side == 'down' else 'B'}.weight"


def diffusers_names(part, name, side):
    inner = "lora" if part == "unet" else "lora_linear_layer"
    return f"{part}.{name}.{inner}.{side}.weight"


def old_names(part, name, side):
    if part != "unet":
        letter = re.search(r"\.(q|k|v|out)_proj$", name)[1]
        return f"{part}.{name.rpartition('.')[0]}.to_{letter}_lora.{side}.weight"
    attention, letter = re.fullmatch(r"(.+)\.to_(q|k|v|out)(?:\.0)?", name).groups()
    return f"unet.{attention}.processor.to_{letter}_lora.{side}.weight"


@pytest.mark.parametrize("spelling", [peft_names, diffusers_names, old_names])
@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_spellings(opened, tmp_path, model, spelling):
    one = opened(model)
    made = make(one.own, one.folder, "lora_without_alpha", pick=attention)
    known = dotted(one)

    def spell(name):
        module, _, leaf = name.partition(".")
        return spelling(*known[module], SIDE[leaf])

    check(one, one.theirs(), respelled(made, spell).save(tmp_path / "file.safetensors"))


@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl"])
def test_kohya(opened, tmp_path, model):
    one = opened(model)
    prefix = {**PREFIX, "text_encoder": "lora_te1" if model == "sdxl" else "lora_te"}
    made = make(one.own, one.folder, "lora", pick=usual, prefix=prefix)
    check(one, one.theirs(), made.save(tmp_path / "file.safetensors"))


def originals(one):
    """{diffusers' flat name: the original code's} of the U-Net's layers."""
    names = targets(one.own.unet)
    layers = one.own.unet.config.layers_per_block
    found = {n: original_name(n, layers, names) for n in names}
    assert all(found.values())
    return {
        f"lora_unet_{n.replace('.', '_')}": f"lora_unet_{o.replace('.', '_')}"
        for n, o in found.items()
    }


def test_the_original_codes_names(opened, tmp_path):
    one = opened("sdxl")
    made = make(one.own, one.folder, "lora", pick=attention)
    table = originals(one)

    def spell(name):
        module, _, leaf = name.partition(".")
        return f"{table.get(module, module)}.{leaf}"

    path = respelled(made, spell).save(tmp_path / "file.safetensors")
    assert any("input_blocks" in name for name in made.tensors)
    check(one, one.theirs(), path)


def test_of_both_namings_diffusers_wins(opened, tmp_path):
    one = opened("sdxl")
    made = make(one.own, one.folder, "lora", pick=attention)
    alone = draw_with(one, made.save(tmp_path / "a.safetensors"))
    other = make(one.own, one.folder, "lora", seed=9, pick=attention)
    table = originals(one)
    for name, tensor in other.tensors.items():
        module, _, leaf = name.partition(".")
        if module in table:
            made.tensors[f"{table[module]}.{leaf}"] = tensor
    assert (draw_with(one, made.save(tmp_path / "b.safetensors")) == alone).all()


def draw_with(one, path):
    one.own.load_lora(path, "it")
    try:
        return draw(one.own, lora={"it": 0.7})
    finally:
        one.own.unload_lora("it")


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 8},
        {"lora_alpha": 3, "use_rslora": True},
        {"lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 2}},
        {
            "lora_alpha": 6,
            "alpha_pattern": {
                "to_q": 2,
                "attn1.to_q": 30,
                r"attn2\.to_k|to_v$": 12,
                r"^mid_block.attentions.0.proj_in": 1,
                "^to_out.0": 40,
            },
        },
        {"lora_alpha": 4, "use_dora": True},
    ],
    ids=["alpha", "rslora", "alpha-pattern", "alpha-patterns", "dora"],
)
def test_files_that_peft_trained(opened, tmp_path, settings):
    """Of linear layers and convolutions, saved by diffusers with peft's config beside them."""
    one = opened("sd1")
    theirs = one.theirs()
    names = [*ATTENTION, "proj_in", "conv1", "conv2"]
    config = LoraConfig(r=4, target_modules=names, init_lora_weights=False, **settings)
    torch.manual_seed(0)
    theirs.unet.add_adapter(config, "default")
    with torch.no_grad():
        for name, p in theirs.unet.named_parameters():
            if "lora_magnitude" in name:
                p.mul_(1 + 0.3 * torch.randn(p.shape))
            elif "lora_" in name:
                p.mul_(3)
    state = get_peft_model_state_dict(theirs.unet, adapter_name="default")
    type(theirs).save_lora_weights(
        tmp_path, unet_lora_layers=state, unet_lora_adapter_metadata=config.to_dict()
    )
    scale = 1.0 if settings.get("use_dora") else 0.7
    check(one, one.theirs(), tmp_path, scale)


def test_which_are_active(opened, tmp_path):
    """After load_lora_weights, set_adapters and cross_attention_kwargs."""
    one = opened("sd1")
    files = [
        make(one.own, one.folder, "lora", seed, usual).save(tmp_path / f"{seed}.safetensors")
        for seed in (1, 2)
    ]
    theirs, own = one.theirs(), one.own
    pipes = (theirs, own)

    def same(**call):
        want, got = (draw(pipe, **call) for pipe in pipes)
        assert psnr(want, got) >= LEAST_PSNR, f"{psnr(want, got):.1f} dB"
        return got

    try:
        plain = same()
        for pipe in pipes:
            pipe.load_lora_weights(str(files[0]), adapter_name="a")
        first = same()
        assert psnr(plain, first) < 30
        for pipe in pipes:
            pipe.load_lora_weights(str(files[1]), adapter_name="b")
        assert theirs.get_active_adapters() == own.get_active_adapters()
        same()
        for pipe in pipes:
            pipe.set_adapters(["a", "b"], [0.5, -0.3])
        assert theirs.get_active_adapters() == own.get_active_adapters() == ["a", "b"]
        assert theirs.get_list_adapters() == own.get_list_adapters()
        both = same()
        scaled = same(cross_attention_kwargs={"scale": 0.5})
        assert psnr(both, scaled) < 40
        for pipe in pipes:
            pipe.set_adapters(["a"], {"unet": 0.4, "text_encoder": 0.9})
        same()
        for pipe in pipes:
            pipe.set_adapters(["a", "b"], [0.5, -0.3])
            pipe.fuse_lora(lora_scale=0.7)
        same()
        for pipe in pipes:
            pipe.unfuse_lora()
            pipe.set_adapters(["a", "b"], [0.5, -0.3])  # diffusers keeps the scale of fusing
        same()
        for pipe in pipes:
            pipe.delete_adapters("b")
        assert psnr(same(), both) < 60
        for pipe in pipes:
            pipe.disable_lora()
        assert (same() == plain).all()
        for pipe in pipes:
            pipe.enable_lora()
        same()
    finally:
        own.unload_lora_weights()
    assert (draw(own) == plain).all()


def test_fused_and_unloaded(opened, tmp_path):
    """diffusers' way of merging one for good, and another beside it; then moved, told, undone."""
    one = opened("sd1")
    files = [
        make(one.own, one.folder, "lora", seed, usual).save(tmp_path / f"{seed}.safetensors")
        for seed in (1, 2)
    ]
    theirs, own = one.theirs(), pyengine.from_pretrained(one.folder, device="cpu")
    plain = draw(own)
    for pipe in (theirs, own):
        pipe.load_lora_weights(str(files[0]))
        pipe.fuse_lora(lora_scale=0.7)
        pipe.unload_lora_weights()
    want, merged = draw(theirs), draw(own)
    assert psnr(want, merged) >= LEAST_PSNR
    assert psnr(merged, plain) < 30
    [told] = own("a", seed=1, num_inference_steps=1, height=32, width=32).report.loras
    assert (told["default_0"]["weight"], told["default_0"]["fused"]) == (0.7, True)
    own.to("cpu", torch.bfloat16)
    own.to("cpu", torch.float32)
    assert (draw(own) == merged).all()
    with pytest.raises(RequestError, match=r"^name: a LoRA 'default_0' is fused into the weights"):
        own.load_lora(files[1], "default_0")
    for pipe in (theirs, own):
        pipe.load_lora_weights(str(files[1]))
    want, both = draw(theirs), draw(own)
    assert psnr(want, both) >= LEAST_PSNR
    assert psnr(both, merged) < 30
    own.unload_lora_weights()
    own.unfuse_lora()
    assert (draw(own) == plain).all()
    own.load_lora(files[1], "default_0")
