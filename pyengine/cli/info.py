"""`pyengine info`: what is in a checkpoint, from its configs and headers."""

import dataclasses
import json
import math
import operator
import os
from typing import Any

from ..adapters import open_lora, summary
from ..pipelines.loading import find_checkpoint
from ..pipelines.reading import read_defaults
from ..pipelines.registry import family_of
from ..pipelines.stable_diffusion.defaults import Defaults
from ..pipelines.stable_diffusion.effort import described
from ..schedules import from_config
from ..weights import Checkpoint, TensorSource
from ..weights.source import MappedSource
from ..weights.text import show


def run(
    model: str | None, variant: str | None, as_json: bool, ignored: list[str] | None = None
) -> int:
    lora = describe_lora(model)
    if lora is not None:
        print(json.dumps(lora) if as_json else "\n".join(lines_of_lora(lora)))
        return 0
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
    schedulers = {"scheduler": facts["scheduler"], **facts["further_schedulers"]}
    for name, scheduler in schedulers.items():
        if scheduler is not None:
            keys = ", ".join(f"{k} {show_plain(v)}" for k, v in scheduler["config"].items())
            print(f"  {name}: {scheduler['sampler']}: {keys}")
    if facts["tokens"] is not None:
        print(f"  tokens: {', '.join(f'{k} {v}' for k, v in facts['tokens'].items())}")
    if facts["fast"] is not None:
        print(f"  fast: {', '.join(f'{k} {show_plain(v)}' for k, v in facts['fast'].items())}")
    print(f"  hash: {facts['hash']}")
    return 0


def describe(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """Everything that `info` tells, as plain values. Raises as the loader does for bad configs."""
    parts = {}
    layout = family_of(checkpoint.pipeline_class)
    for name in (n for n in layout.parts if n in checkpoint.models):
        part = layout.parts[name]
        data, tensors = checkpoint.component(name)
        config = part.config_class(data).from_dict(data, f"{source}: {name}/config.json")
        values = {"class": data["_class_name"]} if part.others and "_class_name" in data else {}
        values |= {
            k.rpartition(".")[2]: operator.attrgetter(k)(config)
            for k in part.summary
            if not part.others or hasattr(config, k)
        }
        parts[name] = {**count(tensors), "config": values}
    return {
        "model": source,
        "pipeline": checkpoint.pipeline_class,
        "options": checkpoint.options,
        "parameters": sum(p["parameters"] for p in parts.values()),
        "parts": parts,
        "scheduler": describe_scheduler(checkpoint, "scheduler"),
        "further_schedulers": {
            name: describe_scheduler(checkpoint, name)
            for name in layout.named("scheduler")
            if name != "scheduler"
        },
        "tokens": describe_tokens(checkpoint),
        "fast": describe_fast(checkpoint),
        "hash": checkpoint.model_hash,
    }


def describe_tokens(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Which ids are text and which pictures; None for models that need not say so."""
    if "tokens" not in checkpoint.components:
        return None
    read = family_of(checkpoint.pipeline_class).parts["tokens"].config_class().from_dict
    return dataclasses.asdict(read(checkpoint.config("tokens"), checkpoint.where("tokens")))


def describe_fast(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What effort="fast" comes to, by the call's arguments; None for models without."""
    defaults = read_defaults(checkpoint, family_of(checkpoint.pipeline_class).defaults_class)
    return {**described(defaults)} if isinstance(defaults, Defaults) else None


def describe_scheduler(checkpoint: Checkpoint, name: str) -> dict[str, Any] | None:
    """The sampler's name and what its config says; None for models that need none. name: of the
    part.
    """
    if name not in checkpoint.components:
        return None
    saved, family = checkpoint.config(name), family_of(checkpoint.pipeline_class)
    plain = {k: v for k, v in saved.items() if isinstance(v, int | float | str | bool)}
    config = family.parts[name].config_class()
    if config is not None:
        config.from_dict(saved, checkpoint.where(name))
        return {"sampler": family.sampler, "config": plain}
    scheduler = from_config(saved, pipeline=checkpoint.pipeline_class)
    return {"sampler": scheduler.name, "config": plain}


def count(tensors: TensorSource | MappedSource) -> dict[str, Any]:
    """Parameters, stored bytes, and how many tensors of which dtype."""
    dtypes: dict[str, int] = {}
    parameters = 0
    for name in tensors.keys():  # noqa: SIM118 - no dict
        dtype, shape = tensors.spec(name)
        parameters += math.prod(shape)
        kind = str(dtype).removeprefix("torch.")
        dtypes[kind] = dtypes.get(kind, 0) + 1
    return {"parameters": parameters, "bytes": tensors.nbytes(), "tensors": dtypes}


def describe_lora(model: str | None) -> dict[str, Any] | None:
    """Everything that `info` tells of a LoRA file, as plain values; None for anything else."""
    if model is None or not model.endswith(".safetensors") or not os.path.isfile(model):
        return None
    with open_lora(model) as file:
        found = summary(file)
        return None if found is None else {"lora": model, **found}


def lines_of_lora(facts: dict[str, Any]) -> list[str]:
    size = f"{facts['bytes'] / 1e6:,.1f} MB"
    lines = [f"{show_plain(facts['lora'])}: a LoRA, {facts['format']}, {size}"]
    for part, own in facts["parts"].items():
        ranks = ", ".join(map(str, own["ranks"])) or "none"
        kinds = ", ".join(f"{n} {kind}" for kind, n in own["kinds"].items())
        lines.append(f"  {part}: {own['modules']} layers: {kinds}; rank {ranks}")
    for key in ("base", "preset", "tokens"):
        if facts[key]:
            lines.append(f"  {key}: {show_plain(facts[key])}")
    return [*lines, f"  hash: {facts['hash']}"]


def show_plain(value: Any) -> str:
    """A stranger's value on one line, without terminal escapes."""
    return show(value).strip("'") if isinstance(value, str) else show(value)
