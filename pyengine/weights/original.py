"""Tensor names of the original Stable Diffusion code (CompVis's, Stability's) in diffusers' terms.

A map gives, for one original tensor, the tensors it becomes: (new name, part), with part one of
    None          the tensor as it is
    "matrix"      a 1x1 convolution's weight [O, I, 1, 1] as a matrix [O, I]
    "transposed"  a matrix transposed
    0, 1, 2       that third of the rows (OpenCLIP keeps queries, keys and values in one)
Original code: github.com/CompVis/stable-diffusion, ldm/modules/diffusionmodules;
github.com/mlfoundations/open_clip, transformer.py.
"""

import re
from collections.abc import Iterator
from typing import Literal

Part = None | Literal["matrix", "transposed"] | int
Target = tuple[str, Part]

_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)\.(weight|bias)")
_UNET_MIDDLE = re.compile(r"middle_block\.([012])\.(.+)\.(weight|bias)")


def unet_target(name: str, layers_per_block: int) -> Target | None:
    """Where a tensor of `model.diffusion_model.` goes; None if it is none that a U-Net has.

    Input blocks, after the first convolution, come in groups of one level: its residual blocks and
    then its downsampling. Output blocks come in groups of one residual block more, the last of
    which ends with the upsampling.
    """
    stem, _, leaf = name.rpartition(".")
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{leaf}", None
    if match := _UNET_MIDDLE.fullmatch(name):
        slot, rest, leaf = match.groups()
        if slot == "1":
            return f"mid_block.attentions.0.{rest}.{leaf}", None
        return _unet_resnet(f"mid_block.resnets.{int(slot) // 2}", rest, leaf)
    match = _UNET_BLOCK.fullmatch(name)
    if not match:
        return None
    side, number, slot, rest, leaf = match.groups()
    down = side == "input_blocks"
    level, layer = divmod(int(number) - down, layers_per_block + 1)
    block = f"{'down' if down else 'up'}_blocks.{level}"
    if down and rest == "op":
        return f"{block}.downsamplers.0.conv.{leaf}", None
    if not down and rest == "conv" and slot in "12":
        return f"{block}.upsamplers.0.conv.{leaf}", None
    if slot == "0":
        return _unet_resnet(f"{block}.resnets.{layer}", rest, leaf)
    return f"{block}.attentions.{layer}.{rest}.{leaf}", None


def _unet_resnet(block: str, rest: str, leaf: str) -> Target | None:
    return (f"{block}.{_UNET_RESNET[rest]}.{leaf}", None) if rest in _UNET_RESNET else None


_VAE_BLOCK = re.compile(
    r"(encoder\.down|decoder\.up)\.(\d+)\.(?:block\.(\d+)\.(\w+)|((?:down|up)sample)\.conv)\.(\w+)"
)
_VAE_MID = re.compile(
    r"(encoder|decoder)\.mid\.(block_([12])|attn_1)\.(\w+(?:\.0)?)\.(weight|bias)"
)
_VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    # diffusers' names, which its script for the way back left in many files.
    "to_q": "to_q",
    "to_k": "to_k",
    "to_v": "to_v",
    "to_out.0": "to_out.0",
}


def vae_target(name: str, levels: int) -> Target | None:
    """Where a tensor of `first_stage_model.` goes; None if it is none that an autoencoder has."""
    if match := _VAE_BLOCK.fullmatch(name):
        side, number, layer, rest, sampler, leaf = match.groups()
        # The original counts the decoder's levels from the finest.
        level = int(number) if side == "encoder.down" else levels - 1 - int(number)
        block = f"{side}_blocks.{level}"
        if sampler:
            return f"{block}.{sampler}rs.0.conv.{leaf}", None
        return f"{block}.resnets.{layer}.{_shortcut(rest)}.{leaf}", None
    if match := _VAE_MID.fullmatch(name):
        side, _, number, rest, leaf = match.groups()
        if number:
            return f"{side}.mid_block.resnets.{int(number) - 1}.{_shortcut(rest)}.{leaf}", None
        if rest not in _VAE_ATTENTION:
            return None
        matrix = leaf == "weight" and rest != "norm"
        target = f"{side}.mid_block.attentions.0.{_VAE_ATTENTION[rest]}.{leaf}"
        return target, "matrix" if matrix else None
    if re.fullmatch(r"(?:(?:en|de)coder\.conv_(?:in|out)|(?:post_)?quant_conv)\.\w+", name):
        return name, None
    if match := re.fullmatch(r"((?:en|de)coder)\.norm_out\.(\w+)", name):
        return f"{match[1]}.conv_norm_out.{match[2]}", None
    return None


def _shortcut(name: str) -> str:
    return "conv_shortcut" if name == "nin_shortcut" else name


_OPENCLIP_ENDS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_OPENCLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OPENCLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def openclip_targets(name: str, layers: int, projection: bool) -> Iterator[Target]:
    """Where a tensor of OpenCLIP's text tower goes: nowhere, to one tensor or to three.

    layers: how many layers diffusers keeps (Stable Diffusion 2 drops the last, which it never
    runs). projection: whether diffusers keeps text_projection.
    """
    if name in _OPENCLIP_ENDS:
        yield _OPENCLIP_ENDS[name], None
    elif name == "text_projection" and projection:
        yield "text_projection.weight", "transposed"
    elif name == "text_projection.weight" and projection:
        yield name, None
    elif match := _OPENCLIP_BLOCK.fullmatch(name):
        layer, rest, leaf = match.groups()
        block = f"text_model.encoder.layers.{layer}"
        if int(layer) >= layers:
            return
        if rest == "attn.in_proj":
            for third, letter in enumerate("qkv"):
                yield f"{block}.self_attn.{letter}_proj.{leaf}", third
        elif rest in _OPENCLIP_LAYER:
            yield f"{block}.{_OPENCLIP_LAYER[rest]}.{leaf}", None


def hf_clip_target(name: str) -> Target | None:
    """Where a tensor of `...transformer.` goes; some files lack the `text_model.` in between."""
    name = name.removeprefix("text_model.")
    if name.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
        return f"text_model.{name}", None
    return None
