"""What no single field of unet/config.json tells of Simple blocks, projections and embeddings."""

from typing import TYPE_CHECKING

from ..blocks.added_kv import TEXT_GROUPS
from .conditioning import HINT_CHANNELS

if TYPE_CHECKING:
    from .config import UNet2DConditionConfig


def simple_problems(c: "UNet2DConditionConfig") -> list[str]:
    """Of a config whose lists have an item for every level."""
    return [*_head_problems(c), *_residual_problems(c), *_projection_problems(c)]


def _is_simple(kind: str | None) -> bool:
    return kind is not None and "Simple" in kind


def _head_problems(c: "UNet2DConditionConfig") -> list[str]:
    problems = []
    last = c.levels - 1
    for level, channels in enumerate(c.block_out_channels):
        mid = level == last and _is_simple(c.mid_block_type)
        down = _is_simple(c.down_block_types[level]) or mid
        up = _is_simple(c.up_block_types[last - level])
        widths = {c.heads(level)} if down else set()
        widths |= {c.heads(last - level)} if up else set()
        problems += [
            f"block_out_channels[{level}] {channels} is no multiple of {width}, the width of its"
            " heads (attention_head_dim)"
            for width in sorted(widths)
            if channels % width
        ]
        if (down or up) and c.cross_attention_norm and c.context_dim(level) % TEXT_GROUPS:
            problems.append(
                f"cross_attention_dim {c.context_dim(level)} is no multiple of the {TEXT_GROUPS}"
                " groups of cross_attention_norm"
            )
        if any(c.crosses(level)) and c.only_context(level):
            problems.append(
                f"only_cross_attention of level {level} is True, expected False beside transformers"
            )
    if c.mid_block_only_cross_attention and not _is_simple(c.mid_block_type):
        problems.append(
            f"mid_block_only_cross_attention is True, expected False beside {c.mid_block_type}"
        )
    return problems


def _residual_problems(c: "UNet2DConditionConfig") -> list[str]:
    problems = []
    names = (*c.down_block_types, *c.up_block_types)
    others = sorted({name for name in names if "Simple" not in name and "Resnet" not in name})
    if others:
        for name, default in (("resnet_out_scale_factor", 1), ("resnet_skip_time_act", False)):
            if getattr(c, name) != default:
                problems.append(
                    f"{name} is {getattr(c, name)}, expected {default} beside {others[0]}"
                )
    if c.mid_block_scale_factor != 1 and not _is_simple(c.mid_block_type):
        problems.append(
            f"mid_block_scale_factor is {c.mid_block_scale_factor}, expected 1 beside"
            f" {c.mid_block_type}"
        )
    return problems


def _projection_problems(c: "UNet2DConditionConfig") -> list[str]:
    problems = []
    one = isinstance(c.cross_attention_dim, int)
    if c.projection is not None:
        if c.encoder_hid_dim is None:
            problems.append(f'encoder_hid_dim_type "{c.projection}" needs encoder_hid_dim')
        if not one:
            problems.append("encoder_hid_dim needs one cross_attention_dim for all levels")
    kind = c.addition_embed_type
    if kind in ("text", "text_image") and not one:
        problems.append(f'addition_embed_type "{kind}" needs one cross_attention_dim')
    if kind in ("image", "image_hint") and c.encoder_hid_dim is None:
        problems.append(f'addition_embed_type "{kind}" needs encoder_hid_dim')
    if kind == "image_hint" and c.in_channels <= HINT_CHANNELS:
        problems.append(
            f"in_channels is {c.in_channels}, expected more than the {HINT_CHANNELS} that"
            ' addition_embed_type "image_hint" puts beside the sample'
        )
    if kind == "text" and one:
        width = c.encoder_hid_dim or c.cross_attention_dim
        if isinstance(width, int) and width % c.addition_embed_type_num_heads:
            problems.append(
                f"addition_embed_type_num_heads {c.addition_embed_type_num_heads} does not divide"
                f" the text's width {width}"
            )
    if c.class_embed_type == "simple_projection" and not c.projection_class_embeddings_input_dim:
        problems.append(
            'class_embed_type "simple_projection" needs projection_class_embeddings_input_dim'
        )
    return problems
