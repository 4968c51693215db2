"""The parts of an aMUSEd checkpoint, and whether they fit together."""

from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError
from ...models import CLIPTextModelWithProjection, UVit2DModel, VQModel
from ...schedules.masked import MaskedConfig
from ...tokenizer import ClipTokenizer


@dataclass(frozen=True)
class AmusedParts:
    """A checkpoint's parts, loaded."""

    transformer: UVit2DModel
    vqvae: VQModel
    text_encoder: CLIPTextModelWithProjection
    tokenizer: ClipTokenizer
    schedule: MaskedConfig


def check_parts(transformer: Any, vqvae: Any, text: Any, schedule: MaskedConfig) -> None:
    """Raises ConfigError where the configs of a checkpoint's parts do not fit together."""
    t = transformer
    problems = []
    if t.codebook_size != vqvae.num_vq_embeddings:
        problems.append(
            f"transformer: codebook_size {t.codebook_size}, but vqvae's num_vq_embeddings is"
            f" {vqvae.num_vq_embeddings}"
        )
    if not t.codebook_size <= schedule.mask_token_id < t.vocab_size:
        problems.append(
            f"scheduler: mask_token_id {schedule.mask_token_id} is no token of the transformer"
            f" beyond its codebook: expected {t.codebook_size} to {t.vocab_size - 1}"
        )
    if t.encoder_hidden_size != text.hidden_size or t.cond_embed_dim != text.projection_dim:
        problems.append(
            f"transformer: encoder_hidden_size {t.encoder_hidden_size} and cond_embed_dim"
            f" {t.cond_embed_dim}, but the text encoder gives {text.hidden_size} and"
            f" {text.projection_dim}"
        )
    if vqvae.in_channels != 3 or vqvae.out_channels != 3:
        problems.append(
            f"vqvae: expected pictures of 3 channels, found {vqvae.in_channels} in and"
            f" {vqvae.out_channels} out"
        )
    if problems:
        raise ConfigError("; ".join(problems))
