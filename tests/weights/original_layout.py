"""Writes a diffusers folder as one file in Stable Diffusion's original layout.

The way back of what pyengine.weights reads, written from the original code's module tree
(ldm.modules.diffusionmodules.openaimodel.UNetModel, .model.Encoder and Decoder,
open_clip.transformer.Transformer) and not from the reader.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# Sizes whose hidden facts (64 channels a head, 8 heads, 32 norm groups) are the real models'.
WIDE = {
    "sd1": {
        "unet": {"block_out_channels": (32, 64), "norm_num_groups": 32, "attention_head_dim": 8},
        "text": {"hidden_size": 64, "num_attention_heads": 1},
    },
    "sd2": {
        "unet": {
            "block_out_channels": (64, 128),
            "norm_num_groups": 32,
            "attention_head_dim": (1, 2),
        },
        "text": {"hidden_size": 128, "num_attention_heads": 2},
    },
    "sdxl": {
        "unet": {
            "block_out_channels": (64, 128, 192),
            "norm_num_groups": 32,
            "attention_head_dim": (1, 2, 3),
            "layers_per_block": 1,
            "cross_attention_dim": 64 + 128,
            "projection_class_embeddings_input_dim": 128 + 6 * 8,
        },
        "text": {"hidden_size": 64, "num_attention_heads": 1},
        "text_2": {"hidden_size": 128, "num_attention_heads": 2, "projection_dim": 128},
    },
}
for _sizes in WIDE.values():
    _sizes["unet"].setdefault("cross_attention_dim", _sizes["text"]["hidden_size"])
    _sizes["vae"] = {"block_out_channels": (32, 32, 64, 64), "norm_num_groups": 32}


def write_original(
    folder: Path,
    path: Path,
    family: str,
    *,
    extra: dict[str, torch.Tensor] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Saves the weights of the diffusers `folder` to `path`; extra: more tensors."""
    parts = {p.name: _weights(p) for p in folder.iterdir() if list(p.glob("*.safetensors"))}
    config = json.loads((folder / "unet" / "config.json").read_text())
    tensors = original_tensors(parts, config, family) | (extra or {})
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, path, metadata)
    return path


def original_tensors(parts: dict[str, dict], unet_config: dict, family: str) -> dict:
    """{original name: tensor} from {part: {diffusers' name: tensor}}; meta tensors will do."""
    tensors = {}
    for name, tensor in parts["unet"].items():
        tensors["model.diffusion_model." + _unet_name(name, unet_config)] = tensor
    levels = len({n.split(".")[2] for n in parts["vae"] if n.startswith("encoder.down_blocks.")})
    for name, tensor in parts["vae"].items():
        new = _vae_name(name, levels)
        if ".attn_1." in new and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]
        tensors["first_stage_model." + new] = tensor
    if family == "refiner":
        second = _openclip(parts["text_encoder_2"])
        return tensors | {f"conditioner.embedders.0.model.{n}": t for n, t in second.items()}
    text = parts["text_encoder"]
    text = {n if n.startswith("text_") else f"text_model.{n}": t for n, t in text.items()}
    if family == "sd1":
        return tensors | {f"cond_stage_model.transformer.{n}": t for n, t in text.items()}
    if family == "sdxl":
        tensors |= {f"conditioner.embedders.0.transformer.{n}": t for n, t in text.items()}
        second = _openclip(parts["text_encoder_2"])
        return tensors | {f"conditioner.embedders.1.model.{n}": t for n, t in second.items()}
    openclip = _openclip(text)
    # The layer that diffusers drops, and the projection that it does not use.
    layers = 1 + max(int(n.split(".")[2]) for n in openclip if "resblocks" in n)
    last = f"transformer.resblocks.{layers - 1}."
    for name in [n for n in openclip if n.startswith(last)]:
        openclip[name.replace(last, f"transformer.resblocks.{layers}.")] = openclip[name] + 1
    openclip["text_projection"] = torch.eye(openclip["ln_final.bias"].shape[0])
    openclip["logit_scale"] = torch.tensor(4.6)
    return tensors | {f"cond_stage_model.model.{n}": t for n, t in openclip.items()}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def _unet_name(name: str, config: dict) -> str:
    per_level = config["layers_per_block"] + 1
    words = name.split(".")
    leaf = words[-1]
    plain = {
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
    if (stem := ".".join(words[:-1])) in plain:
        return f"{plain[stem]}.{leaf}"
    if words[0] == "mid_block":
        kind, number, rest = words[1], int(words[2]), words[3:]
        place = f"middle_block.{2 * number if kind == 'resnets' else 1}"
    else:
        level, kind, number, rest = int(words[1]), words[2], int(words[3]), words[4:]
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * per_level}.0.op.{leaf}"
        if kind == "upsamplers":
            attends = config["up_block_types"][level].startswith("CrossAttn")
            place = f"output_blocks.{(level + 1) * per_level - 1}.{2 if attends else 1}"
            return f"{place}.conv.{leaf}"
        index = level * per_level + number
        side, index = ("input", index + 1) if words[0] == "down_blocks" else ("output", index)
        place = f"{side}_blocks.{index}.{0 if kind == 'resnets' else 1}"
    if kind == "attentions":
        return ".".join([place, *rest])
    layers = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    return f"{place}.{layers[rest[0]]}.{leaf}"


def _vae_name(name: str, levels: int) -> str:
    words = name.split(".")
    if len(words) == 2:
        return name
    side, what = words[0], words[1]
    if what == "mid_block":
        if words[2] == "resnets":
            return f"{side}.mid.block_{int(words[3]) + 1}.{_nin(words[4])}.{words[-1]}"
        inner = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
        return f"{side}.mid.attn_1.{inner[words[4]]}.{words[-1]}"
    if what in ("down_blocks", "up_blocks"):
        down = what == "down_blocks"
        level = int(words[2]) if down else levels - 1 - int(words[2])
        place = f"{side}.{'down' if down else 'up'}.{level}"
        if words[3] == "resnets":
            return f"{place}.block.{words[4]}.{_nin(words[5])}.{words[-1]}"
        return f"{place}.{'downsample' if down else 'upsample'}.conv.{words[-1]}"
    return name.replace("conv_norm_out", "norm_out")


def _nin(name: str) -> str:
    return {"conv_shortcut": "nin_shortcut"}.get(name, name)


def _openclip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    result = {
        "token_embedding.weight": text["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": text["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": text["text_model.final_layer_norm.weight"],
        "ln_final.bias": text["text_model.final_layer_norm.bias"],
    }
    if "text_projection.weight" in text:
        result["text_projection"] = text["text_projection.weight"].T
    layer = 0
    while f"text_model.encoder.layers.{layer}.mlp.fc1.weight" in text:
        old, new = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for leaf in ("weight", "bias"):
            heads = [text[f"{old}.self_attn.{x}_proj.{leaf}"] for x in ("q", "k", "v")]
            result[f"{new}.attn.in_proj_{leaf}"] = torch.cat(heads)
            for a, b in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                result[f"{new}.{b}.{leaf}"] = text[f"{old}.{a}.{leaf}"]
        layer += 1
    return result
