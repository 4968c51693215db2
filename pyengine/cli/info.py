"""`pyengine info`: what is in a checkpoint, from its configs and headers."""

import json
import math
from typing import Any

from ..models import AutoencoderKLConfig, CLIPTextConfig, UNet2DConditionConfig
from ..pipelines.loading import find_checkpoint
from ..schedules import from_config
from ..weights import Checkpoint, TensorSource
from ..weights.text import show

CONFIGS = {
    "unet": UNet2DConditionConfig,
    "vae": AutoencoderKLConfig,
    "text_encoder": CLIPTextConfig,
    "text_encoder_2": CLIPTextConfig,
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
}  # fmt: skip


def run(model: str | None, variant: str | None, as_json: bool) -> int:
    checkpoint, source = find_checkpoint(model, variant)
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
    keys = ", ".join(f"{k} {show_plain(v)}" for k, v in scheduler["config"].items())
    print(f"  scheduler: {scheduler['sampler']}: {keys}")
    print(f"  hash: {facts['hash']}")
    return 0


def describe(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """Everything that `info` tells, as plain values. Raises as the loader does for bad configs."""
    parts = {}
    for name, cls in CONFIGS.items():
        if name not in checkpoint.components:
            continue
        data, tensors = checkpoint.component(name)
        config = cls.from_dict(data, f"{source}: {name}/config.json")
        keys = SUMMARY[name.removesuffix("_2")]
        parts[name] = {**count(tensors), "config": {k: getattr(config, k) for k in keys}}
    saved = checkpoint.config("scheduler")
    scheduler = from_config(saved, stable_diffusion="XL" not in checkpoint.pipeline_class)
    plain = {k: v for k, v in saved.items() if isinstance(v, int | float | str | bool)}
    return {
        "model": source,
        "pipeline": checkpoint.pipeline_class,
        "options": checkpoint.options,
        "parameters": sum(p["parameters"] for p in parts.values()),
        "parts": parts,
        "scheduler": {"sampler": scheduler.name, "config": plain},
        "hash": checkpoint.model_hash,
    }


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
