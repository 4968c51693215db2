"""From a checkpoint to the pipeline of masked tokens."""

from typing import Any

from ...errors import ConfigError
from ...schedules.masked import MaskedConfig
from ..reading import Load
from ..shipped_text import load_shipped_text
from ..shipped_vqvae import load_shipped_vqvae
from .pipeline import MaskedTokensParts


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("transformer",), checkpoint.where)
    config = configs["transformer"]
    defaults = load.defaults()
    text = load_shipped_text(config.text_encoder, load)
    vqvae = load_shipped_vqvae(config.vqvae, load)
    load.compare(check_parts, config, vqvae.config, text.encoder.config)
    transformer = load.network("transformer", config, sources["transformer"])
    checkpoint.hold(sources)
    parts = MaskedTokensParts(
        transformer=transformer,
        vqvae=vqvae,
        text_encoder=text.encoder,
        tokenizer=text.tokenizer,
        schedule=MaskedConfig(mask_token_id=config.mask_token),
    )
    return load.pipeline_class(parts, checkpoint, load.source, defaults)


def check_parts(transformer: Any, vqvae: Any, text: Any) -> None:
    """Raises ConfigError where the transformer does not fit the shipped models that it names."""
    problems = []
    if transformer.codebook_size != vqvae.num_vq_embeddings:
        problems.append(
            f"transformer: codebook_size {transformer.codebook_size}, but num_vq_embeddings of"
            f" {transformer.vqvae} is {vqvae.num_vq_embeddings}"
        )
    if transformer.encoder_hidden_size != text.hidden_size:
        problems.append(
            f"transformer: encoder_hidden_size {transformer.encoder_hidden_size}, but hidden_size"
            f" of {transformer.text_encoder}'s text encoder is {text.hidden_size}"
        )
    if problems:
        raise ConfigError("; ".join(problems))
