"""Tiny random IP-Adapters under the names of published files."""

import torch

INNER, TOKENS = 64, 3
IMAGE = {"hidden_size": 24, "projection_dim": 20}


def tensors_of(kind, unet, seed=0):
    """An IP-Adapter's file, random, for diffusers' U-Net."""
    draw = torch.Generator().manual_seed(seed)
    made = {}

    def linear(name, out, width, bias=False):
        made[f"{name}.weight"] = torch.randn(out, width, generator=draw) / width**0.5
        if bias:
            made[f"{name}.bias"] = 0.3 * torch.randn(out, generator=draw)

    def norm(name, width):
        made[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=draw)
        made[f"{name}.bias"] = 0.3 * torch.randn(width, generator=draw)

    text, p = unet.config.cross_attention_dim, "image_proj"
    if kind == "base":
        linear(f"{p}.proj", 4 * text, IMAGE["projection_dim"], True)
        norm(f"{p}.norm", text)
    elif kind == "full":
        linear(f"{p}.proj.0", IMAGE["hidden_size"], IMAGE["hidden_size"], True)
        linear(f"{p}.proj.2", text, IMAGE["hidden_size"], True)
        norm(f"{p}.proj.3", text)
    else:
        made[f"{p}.latents"] = torch.randn(1, TOKENS, INNER, generator=draw) / INNER**0.5
        linear(f"{p}.proj_in", INNER, IMAGE["hidden_size"], True)
        linear(f"{p}.proj_out", text, INNER, True)
        norm(f"{p}.norm_out", text)
        for i in range(4):  # as many as diffusers' class has
            layer = f"{p}.layers.{i}"
            for name in ("0.norm1", "0.norm2", "1.0"):
                norm(f"{layer}.{name}", INNER)
            for name, out, width in (
                ("0.to_q", 128, INNER), ("0.to_kv", 256, INNER), ("0.to_out", INNER, 128),
                ("1.1", 4 * INNER, INNER), ("1.3", INNER, 4 * INNER),
            ):  # fmt: skip
                linear(f"{layer}.{name}", out, width)
    names = [n for n in unet.attn_processors if n.endswith("attn2.processor")]
    for i, name in enumerate(names):
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        for leaf in ("to_k_ip", "to_v_ip"):
            linear(f"ip_adapter.{2 * i + 1}.{leaf}", width, text)
    return made
