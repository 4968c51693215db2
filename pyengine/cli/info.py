"""`pyengine info`: what is in a checkpoint, from its configs and headers."""

import dataclasses
import json
import math
import operator
from typing import Any

from ..models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    ImageGPTConfig,
    JanusConfig,
    PictureGPTConfig,
    PictureTokens,
    UNet2DConditionConfig,
    UVit2DConfig,
    VQConfig,
)
from ..pipelines.loading import find_checkpoint
from ..schedules import from_config
from ..schedules.masked import MaskedConfig
from ..weights import Checkpoint, TensorSource
from ..weights.text import show

CONFIGS = {
    "unet": UNet2DConditionConfig,
    "vae": AutoencoderKLConfig,
    "text_encoder": CLIPTextConfig,
    "text_encoder_2": CLIPTextConfig,
    "transformer": UVit2DConfig,
    "vqvae": VQConfig,
}
#: Those of pyengine's own pipeline, where they are others.
GPT_CONFIGS = {"transformer": PictureGPTConfig}
#: The config of the one model that a checkpoint of this kind holds.
SINGLE = {
    "ImageGPTForCausalImageModeling": ImageGPTConfig,
    "JanusForConditionalGeneration": JanusConfig,
}
#: The keys of each config that tell most.
SUMMARY = {
    "unet": ("sample_size", "in_channels", "block_out_channels", "layers_per_block",
             "cross_attention_dim", "attention_head_dim", "transformer_layers_per_block",
             "addition_embed_type", "time_cond_proj_dim"),
    "vae": ("latent_channels", "block_out_channels", "layers_per_block", "scaling_factor",
            "force_upcast"),
    "text_encoder": ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                     "hidden_act", "max_position_embeddings"),
    "transformer": ("sample_size", "codebook_size", "vocab_size", "hidden_size",
                    "num_hidden_layers", "num_attention_heads", "block_out_channels"),
    "vqvae": ("num_vq_embeddings", "embed_dim", "latent_channels", "block_out_channels",
              "layers_per_block", "force_upcast"),
    "PictureGPTPipeline": ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                           "num_attention_heads", "kv_heads", "max_position_embeddings"),
    "ImageGPTForCausalImageModeling": ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head",
                                       "activation_function"),
    "JanusForConditionalGeneration": (
        "text_config.vocab_size", "text_config.hidden_size", "text_config.num_hidden_layers",
        "text_config.num_attention_heads", "text_config.kv_heads",
        "text_config.max_position_embeddings", "vq_config.num_embeddings", "vq_config.embed_dim",
        "vision_config.num_image_tokens"),
}  # fmt: skip


def run(
    model: str | None, variant: str | None, as_json: bool, ignored: list[str] | None = None
) -> int:
    checkpoint, source = find_checkpoint(model, variant, {"ignore_config_keys": ignored or ()})
    facts = describe(checkpoint, source)
    if as_json:
        print(json.dumps(facts))
        return 0
    print(f"{show_plain(source)}: {facts['pipeline']}, {facts['parameters']:,} parameters")
    for name, part in facts["parts"].items():
        stored = ", ".join(f"{n} {dtype}" for dtype, n in part["tensors"].items())
        size = f"{part['bytes'] / 1e6:,.1f} MB"
        print(f"  {name}: {part['parameters']:,} parameters, {size}, tensors: {stored}")
        pairs = ", ".join(f"{k} {v}" for k, v in part["config"].items() if v is not None)
        print(f"    {pairs}")
    scheduler = facts["scheduler"]
    if scheduler is not None:
        keys = ", ".join(f"{k} {show_plain(v)}" for k, v in scheduler["config"].items())
        print(f"  scheduler: {scheduler['sampler']}: {keys}")
    if facts["tokens"] is not None:
        print(f"  tokens: {', '.join(f'{k} {v}' for k, v in facts['tokens'].items())}")
    print(f"  hash: {facts['hash']}")
    return 0


def describe(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """Everything that `info` tells, as plain values. Raises as the loader does for bad configs."""
    parts = {}
    kind = checkpoint.pipeline_class
    own = GPT_CONFIGS if kind == "PictureGPTPipeline" else {}
    for name, cls in {**CONFIGS, **own, "model": SINGLE.get(kind)}.items():
        if name not in checkpoint.components:
            continue
        data, tensors = checkpoint.component(name)
        config = cls.from_dict(data, f"{source}: {name}/config.json")
        keys = SUMMARY[kind if name == "model" or name in own else name.removesuffix("_2")]
        values = {k.rpartition(".")[2]: operator.attrgetter(k)(config) for k in keys}
        parts[name] = {**count(tensors), "config": values}
    return {
        "model": source,
        "pipeline": checkpoint.pipeline_class,
        "options": checkpoint.options,
        "parameters": sum(p["parameters"] for p in parts.values()),
        "parts": parts,
        "scheduler": describe_scheduler(checkpoint),
        "tokens": describe_tokens(checkpoint),
        "hash": checkpoint.model_hash,
    }


def describe_tokens(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Which ids are text and which pictures; None for models that need not say so."""
    if "tokens" not in checkpoint.components:
        return None
    tokens = PictureTokens.from_dict(checkpoint.config("tokens"), checkpoint.where("tokens"))
    return dataclasses.asdict(tokens)


def describe_scheduler(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The sampler's name and what its config says; None for models that need none."""
    if "scheduler" not in checkpoint.components:
        return None
    saved, kind = checkpoint.config("scheduler"), checkpoint.pipeline_class
    plain = {k: v for k, v in saved.items() if isinstance(v, int | float | str | bool)}
    if kind.startswith("Amused"):
        MaskedConfig.from_dict(saved, checkpoint.where("scheduler"))
        return {"sampler": "masked", "config": plain}
    scheduler = from_config(saved, pipeline=kind)
    return {"sampler": scheduler.name, "config": plain}


def count(tensors: TensorSource) -> dict[str, Any]:
    """Parameters, stored bytes, and how many tensors of which dtype."""
    dtypes: dict[str, int] = {}
    parameters = 0
    for name in tensors.keys():  # noqa: SIM118 - no dict
        dtype, shape = tensors.spec(name)
        parameters += math.prod(shape)
        kind = str(dtype).removeprefix("torch.")
        dtypes[kind] = dtypes.get(kind, 0) + 1
    return {"parameters": parameters, "bytes": tensors.nbytes(), "tensors": dtypes}


def show_plain(value: Any) -> str:
    """A stranger's value on one line, without terminal escapes."""
    return show(value).strip("'") if isinstance(value, str) else show(value)
