"""Tiny random ControlNets and T2I-Adapters, of diffusers and under the original code's names."""

import re

import tiny

#: Widths of the convolutions that embed a picture; a factor of 8.
HINT = (8, 12, 16, 20)


def make_controlnet(unet, seed=3, **overrides):
    """diffusers' ControlNetModel beside one of its U-Nets; every tensor random."""
    from diffusers import ControlNetModel

    made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=HINT)
    made.register_to_config(**overrides)
    return tiny.randomise(made, seed).eval()


def make_union(unet, seed=4, kinds=6):
    """diffusers' ControlNetUnionModel beside an SDXL U-Net."""
    import inspect

    from diffusers import ControlNetUnionModel

    names = inspect.signature(ControlNetUnionModel.__init__).parameters
    width = unet.config.block_out_channels[0]
    made = ControlNetUnionModel(
        **{name: value for name, value in unet.config.items() if name in names},
        conditioning_embedding_out_channels=HINT,
        num_control_type=kinds,
        num_trans_channel=width,
        num_proj_channel=width,
    )
    return tiny.randomise(made, seed).eval()


def make_adapter(kind="full_adapter", channels=(16, 32), factor=8, in_channels=3, seed=5):
    """diffusers' T2IAdapter."""
    from diffusers import T2IAdapter

    made = T2IAdapter(in_channels, list(channels), 2, factor, kind)
    return tiny.randomise(made, seed).eval()


def original_names(controlnet):
    """The tensors of diffusers' ControlNet under the names of the original code."""
    layers = controlnet.config.layers_per_block
    found = {}
    last = 2 * len(controlnet.controlnet_cond_embedding.blocks) + 2
    for name, tensor in controlnet.state_dict().items():
        found[_original(name, layers, last)] = tensor.contiguous()
    return found


_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
}


def _original(name, layers, last):
    stem, _, leaf = name.rpartition(".")
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{leaf}"
    if m := re.fullmatch(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d+))", stem):
        number = {"conv_in": 0, "conv_out": last}.get(m[1], 2 * int(m[2] or 0) + 2)
        return f"input_hint_block.{number}.{leaf}"
    if m := re.fullmatch(r"controlnet_down_blocks\.(\d+)", stem):
        return f"zero_convs.{m[1]}.0.{leaf}"
    if stem == "controlnet_mid_block":
        return f"middle_block_out.0.{leaf}"
    if m := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", stem):
        if m[1] == "attentions":
            return f"middle_block.1.{m[3]}.{leaf}"
        return f"middle_block.{2 * int(m[2])}.{_RESNET[m[3]]}.{leaf}"
    m = re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.+)", stem)
    block = 1 + int(m[1]) * (layers + 1) + (layers if m[2] == "downsamplers" else int(m[3]))
    if m[2] == "downsamplers":
        return f"input_blocks.{block}.0.op.{leaf}"
    if m[2] == "attentions":
        return f"input_blocks.{block}.1.{m[4]}.{leaf}"
    return f"input_blocks.{block}.0.{_RESNET[m[4]]}.{leaf}"
