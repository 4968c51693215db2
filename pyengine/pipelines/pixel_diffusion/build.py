"""From a checkpoint to a pipeline of pixel diffusion by text."""

from typing import Any

from ...errors import ConfigError
from ...models import CLIPTextConfig, PatchTransformerConfig
from ..borrowed import borrowed_texts
from ..diffusers_names.schedulers import choose
from ..reading import Load


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("network",), checkpoint.where)
    load.compare(check_network, configs["network"])
    # Reads the scheduler's config now, so that a bad one is refused when the model is loaded.
    scheduler = choose(None, checkpoint.config("scheduler"), load.kind)
    defaults = load.defaults()
    encoder, tokenizer = borrowed_texts(load)
    load.compare(check_texts, configs["network"], encoder.config)
    models = {
        "network": load.network("network", configs["network"], sources["network"]),
        "text_encoder": encoder,
    }
    checkpoint.hold(sources)
    return load.pipeline_class(models, tokenizer, checkpoint, load.source, defaults, scheduler)


def check_network(network: PatchTransformerConfig) -> None:
    """Raises ConfigError where a network does not denoise pictures."""
    if (network.in_channels, network.out_channels) != (3, 3):
        raise ConfigError(
            f"network: in_channels {network.in_channels}, out_channels {network.out_channels}:"
            " expected 3 and 3"
        )


def check_texts(network: PatchTransformerConfig, text: CLIPTextConfig) -> None:
    """Raises ConfigError where the network is told texts of another width."""
    if network.vector_size != text.hidden_size:
        raise ConfigError(
            f"network: vector_size {network.vector_size}, but the text encoder gives"
            f" {text.hidden_size}"
        )
