"""From a checkpoint to a pixel cascade, and what `pyengine info --plan` runs of it."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ...errors import ConfigError
from ...models import PatchTransformerConfig
from ..diffusers_names.schedulers import choose
from ..pixel_diffusion.build import check_network
from ..pixel_diffusion.rehearsal import run_network
from ..reading import Load
from ..shipped_text import check_width, load_shipped_text

PARTS = ("base", "super_res")


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(PARTS, checkpoint.where)
    load.compare(check_stages, configs["base"], configs["super_res"])
    scheduler = choose(None, checkpoint.config("scheduler"), load.kind)
    defaults = load.defaults()
    text = load_shipped_text(configs["base"].text_encoder, load)
    check_width(text, configs["base"].vector_size, f"{checkpoint.where('base')}: vector_size")
    models = {name: load.network(name, configs[name], sources[name]) for name in PARTS}
    checkpoint.hold(sources)
    return load.pipeline_class(models, text, checkpoint, load.source, defaults, scheduler)


def check_stages(base: PatchTransformerConfig, super_res: PatchTransformerConfig) -> None:
    """Raises ConfigError where two networks are no cascade."""
    check_network(base, "base")
    for name, value, wanted in (
        ("sample_size", super_res.sample_size, 2 * base.sample_size),
        ("in_channels", super_res.in_channels, 6),
        ("out_channels", super_res.out_channels, 3),
        ("vector_size", super_res.vector_size, base.vector_size + 1),
        ("text_encoder", super_res.text_encoder, base.text_encoder),
    ):
        if value != wanted:
            raise ConfigError(f"super_res: {name}: expected {wanted} beside base, found {value}")


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for one call of each network with `batch` pictures of its one size."""
    for name in PARTS:
        yield name, partial(run_network, models[name], batch)
