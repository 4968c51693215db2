"""From a checkpoint to a small unCLIP, and what `pyengine info --plan` runs of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch

from ...errors import ConfigError
from ...models import AutoencoderKLConfig, PatchTransformerConfig, PriorConfig, PriorTransformer
from ...weights import resolve
from ...weights.text import show
from ..diffusers_names.schedulers import choose
from ..loading import shipped_folder
from ..pixel_diffusion.rehearsal import run_network
from ..reading import Load
from ..shipped_text import TextEncoderName, check_width, load_shipped_text

PARTS = ("prior", "decoder")


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(PARTS, checkpoint.where)
    scheduler = choose(None, checkpoint.config("scheduler"), load.kind)
    defaults = load.defaults()
    text = load_shipped_text(configs["decoder"].text_encoder, load)
    length = text.encoder.config.max_position_embeddings
    load.compare(check_prior, configs["prior"], configs["decoder"], length)
    check_width(text, configs["prior"].embedding_dim, f"{checkpoint.where('prior')}: embedding_dim")
    vae = shipped_autoencoder(load)
    load.compare(check_decoder, configs["decoder"], vae.config)
    models = {name: load.network(name, configs[name], sources[name]) for name in PARTS}
    checkpoint.hold(sources)
    return load.pipeline_class(models, vae, text, checkpoint, load.source, defaults, scheduler)


def shipped_autoencoder(load: Load) -> Any:
    """The autoencoder of the shipped model that model_index.json names, and no other's."""
    name = load.checkpoint.data.get("autoencoder")
    known = get_args(TextEncoderName)
    if name not in known:
        raise ConfigError(
            f"{load.source}: model_index.json: autoencoder: expected"
            f" {', '.join(known)}, found {show(name)}"
        )
    own = replace(
        load,
        checkpoint=resolve(shipped_folder(str(name))),
        source=str(name),
        weights=None,
        wanted=None,
        given={},
    )
    configs, sources = own.configs(("vae",))
    return own.network("vae", configs["vae"], sources["vae"], configs["vae"].force_upcast)


def check_prior(prior: PriorConfig, decoder: PatchTransformerConfig, length: int) -> None:
    """Raises ConfigError where a prior gives other embeddings than the decoder reads, or reads
    other texts than of `length` tokens.
    """
    for name, value, wanted in (
        ("num_embeddings", prior.num_embeddings, length),
        ("embedding_proj_dim", prior.projected_dim, prior.embedding_dim),
        ("added_emb_type", prior.added_emb_type, "prd"),
        ("encoder_hid_proj_type", prior.encoder_hid_proj_type, "linear"),
        ("clip_embed_dim", prior.clip_dim, prior.embedding_dim),
    ):
        if value != wanted:
            raise ConfigError(f"prior: {name}: expected {show(wanted)}, found {show(value)}")
    if decoder.vector_size != prior.embedding_dim:
        raise ConfigError(
            f"decoder: vector_size: expected {prior.embedding_dim}, the prior's"
            f" embedding_dim, found {decoder.vector_size}"
        )


def check_decoder(decoder: PatchTransformerConfig, vae: AutoencoderKLConfig) -> None:
    """Raises ConfigError where a decoder does not denoise an autoencoder's latents."""
    latent = vae.latent_channels
    if (decoder.in_channels, decoder.out_channels) != (latent, latent):
        raise ConfigError(
            f"decoder: in_channels {decoder.in_channels}, out_channels {decoder.out_channels}:"
            f" expected {latent} and {latent}, as the autoencoder has them"
        )


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for one call of each network with `batch` pictures of its one size."""
    yield "prior", partial(_prior, models["prior"], batch)
    yield "decoder", partial(run_network, models["decoder"], batch)


def _prior(model: PriorTransformer, batch: int) -> None:
    c = model.config
    sample = torch.empty(batch, c.embedding_dim, device="meta")
    hidden = torch.empty(batch, c.num_embeddings, c.embedding_dim, device="meta")
    seen = torch.ones(batch, c.num_embeddings, device="meta")
    model(sample, 0, torch.empty(batch, c.projected_dim, device="meta"), hidden, seen)
