"""Configs of Stable Diffusion models from the shapes of their original tensors.

What no shape shows follows the three families' own rule and is said beside the rule: the number of
attention heads, norm groups (32 everywhere), activations, the autoencoder's scale.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from .text import show

Shape = tuple[int, ...]


class Shapes:
    """{name: shape} below one prefix of a file; a missing name or wrong rank is an error."""

    def __init__(self, shapes: Mapping[str, Shape], prefix: str, where: str):
        self.prefix, self.where = prefix, where
        self._shapes = {n[len(prefix) :]: s for n, s in shapes.items() if n.startswith(prefix)}

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def of(self, name: str, *ranks: int) -> Shape:
        """The tensor's shape, which must have one of `ranks` dimensions, none of them 0."""
        at = f"{self.where}: {show(self.prefix + name)}"
        if name not in self._shapes:
            raise CheckpointError(f"{at} is missing, and with it the model's size")
        shape = self._shapes[name]
        if len(shape) not in ranks or 0 in shape:
            wanted = " or ".join(map(str, ranks))
            raise CheckpointError(f"{at} is {list(shape)}, expected {wanted} dimensions above 0")
        return shape

    def count(self, pattern: str) -> int:
        """How many of pattern.format(0), pattern.format(1), ... there are in a row."""
        n = 0
        while pattern.format(n) in self._shapes:
            n += 1
        return n


def unet_config(shapes: Shapes, sample_size: int) -> dict[str, Any]:
    """A U-Net's config. Heads: 8 at every level if projections are convolutions (SD 1.x), else
    as many as give 64 channels each (SD 2.x and XL)."""
    levels = _unet_levels(shapes)
    channels = [width for width, _ in levels]
    depths = [depth for _, depth in levels]
    layers = _layers_per_block(shapes, len(levels))
    middle = shapes.count("middle_block.1.transformer_blocks.{}.norm1.weight")
    if depths[-1] not in (0, middle):
        raise CheckpointError(
            f"{shapes.where}: {middle} transformer layers in the middle, {depths[-1]} before it;"
            " Stable Diffusion has as many in both"
        )
    linear = len(shapes.of("middle_block.1.proj_in.weight", 2, 4)) == 2
    cross = shapes.of("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    attends = [depth > 0 for depth in depths]
    layers_of_transformers = [depth or 1 for depth in depths[:-1]] + [middle]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": shapes.of("input_blocks.0.0.weight", 4)[1],
        "out_channels": shapes.of("out.2.weight", 4)[0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        "cross_attention_dim": cross,
        "attention_head_dim": [max(1, c // 64) for c in channels] if linear else 8,
        "use_linear_projection": linear,
        "transformer_layers_per_block": (
            1 if set(layers_of_transformers) == {1} else layers_of_transformers
        ),
    }


def added_conditioning(shapes: Shapes, pooled: int, sizes: int) -> dict[str, Any]:
    """SDXL's text_time fields: its label embedding takes the pooled text and some numbers: six in
    the base model, five in the refiner."""
    width = shapes.of("label_emb.0.0.weight", 2)[1]
    each, rest = divmod(width - pooled, sizes)
    if rest or each <= 0:
        what = "six sizes, as in SDXL's base model"
        if sizes == 5:
            what = "five sizes: any other refiner is not supported"
        raise CheckpointError(
            f"{shapes.where}: label_emb.0.0.weight takes {width} inputs, expected {pooled} of text"
            f" and {what}"
        )
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": each,
        "projection_class_embeddings_input_dim": width,
    }


def _unet_levels(shapes: Shapes) -> list[tuple[int, int]]:
    """(channels, transformer layers) of every level: downsamplings stand between the levels."""
    levels: list[tuple[int, int]] = []
    fresh = True
    number = 1
    while True:
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in shapes:
            fresh = True
        elif f"{block}.0.in_layers.2.weight" in shapes:
            width = shapes.of(f"{block}.0.in_layers.2.weight", 4)[0]
            depth = shapes.count(block + ".1.transformer_blocks.{}.norm1.weight")
            if fresh:
                levels.append((width, depth))
            elif levels[-1] != (width, depth):
                raise CheckpointError(
                    f"{shapes.where}: {block} has {width} channels and {depth} transformer layers,"
                    f" the block before it {levels[-1][0]} and {levels[-1][1]}"
                )
            fresh = False
        else:
            break
        number += 1
    if not levels:
        raise CheckpointError(f"{shapes.where}: {shapes.prefix}input_blocks.1 is missing")
    return levels


def _layers_per_block(shapes: Shapes, levels: int) -> int:
    blocks = sum(f"input_blocks.{i}.0.in_layers.2.weight" in shapes for i in range(1, 1000))
    layers, rest = divmod(blocks, levels)
    outputs = shapes.count("output_blocks.{}.0.in_layers.2.weight")
    if rest or outputs != levels * (layers + 1):
        raise CheckpointError(
            f"{shapes.where}: {blocks} input and {outputs} output blocks at {levels} levels;"
            " expected as many at each level, and one more there on the way out"
        )
    return layers


def vae_config(shapes: Shapes, sample_size: int, scaling_factor: float) -> dict[str, Any]:
    """An autoencoder's config; `scaling_factor`, which divides latents, is the family's."""
    levels = shapes.count("encoder.down.{}.block.0.conv1.weight")
    if levels == 0:
        raise CheckpointError(f"{shapes.where}: {shapes.prefix}encoder.down.0 is missing")
    widths = [shapes.of(f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": sample_size,
        "in_channels": shapes.of("encoder.conv_in.weight", 4)[1],
        "out_channels": shapes.of("decoder.conv_out.weight", 4)[0],
        "latent_channels": shapes.of("decoder.conv_in.weight", 4)[1],
        "block_out_channels": widths,
        "layers_per_block": shapes.count("encoder.down.0.block.{}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": scaling_factor,
    }


def clip_config(shapes: Shapes) -> dict[str, Any]:
    """OpenAI's CLIP, under transformers' names without `text_model.`: 64 channels a head."""
    vocab, hidden = shapes.of("embeddings.token_embedding.weight", 2)
    return _text_config(
        vocab=vocab,
        hidden=hidden,
        positions=shapes.of("embeddings.position_embedding.weight", 2)[0],
        inner=shapes.of("encoder.layers.0.mlp.fc1.weight", 2)[0],
        layers=shapes.count("encoder.layers.{}.mlp.fc1.weight"),
        activation="quick_gelu",
        projection=hidden,
    )


def openclip_config(shapes: Shapes, *, projection: bool) -> dict[str, Any]:
    """OpenCLIP's text tower, with its projection (SDXL) or without (SD 2.x).

    SD 2.x takes the last layer but one, and diffusers does not keep the last: here it is dropped
    at OpenCLIP H's 24 layers (with 23 it is gone already), and where a tower of another size is
    whole, as its projection shows.
    """
    vocab, hidden = shapes.of("token_embedding.weight", 2)
    layers = shapes.count("transformer.resblocks.{}.mlp.c_fc.weight")
    spelling = next((n for n in ("text_projection", "text_projection.weight") if n in shapes), None)
    if not projection and (layers == 24 or (spelling and layers != 23)):
        layers -= 1
    width = hidden
    if projection:
        # [in, out], or as a linear layer's weight [out, in]
        rows, columns = shapes.of(spelling or "text_projection", 2)
        width = columns if spelling == "text_projection" else rows
    return _text_config(
        vocab=vocab,
        hidden=hidden,
        positions=shapes.of("positional_embedding", 2)[0],
        inner=shapes.of("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        layers=layers,
        activation="gelu",
        projection=width,
    )


def _text_config(
    *,
    vocab: int,
    hidden: int,
    positions: int,
    inner: int,
    layers: int,
    activation: str,
    projection: int,
) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 64),
        "max_position_embeddings": positions,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": projection,
        # CLIP's vocabulary ends with the start and the end token.
        "bos_token_id": vocab - 2,
        "eos_token_id": vocab - 1,
    }
