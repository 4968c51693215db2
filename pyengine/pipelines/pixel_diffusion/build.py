"""From a checkpoint to a pipeline of pixel diffusion by text."""

from typing import Any

from ...errors import ConfigError
from ...models import PatchTransformerConfig
from ..diffusers_names.schedulers import choose
from ..reading import Load
from ..shipped_text import check_width, load_shipped_text


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("network",), checkpoint.where)
    load.compare(check_network, configs["network"])
    # Reads the scheduler's config now, so that a bad one is refused when the model is loaded.
    scheduler = choose(None, checkpoint.config("scheduler"), load.kind)
    defaults = load.defaults()
    config = configs["network"]
    text = load_shipped_text(config.text_encoder, load)
    check_width(text, config.vector_size, f"{checkpoint.where('network')}: vector_size")
    network = load.network("network", config, sources["network"])
    checkpoint.hold(sources)
    return load.pipeline_class(network, text, checkpoint, load.source, defaults, scheduler)


def check_network(network: PatchTransformerConfig, name: str = "network") -> None:
    """Raises ConfigError where a network does not denoise pictures."""
    if (network.in_channels, network.out_channels) != (3, 3):
        raise ConfigError(
            f"{name}: in_channels {network.in_channels}, out_channels {network.out_channels}:"
            " expected 3 and 3"
        )
