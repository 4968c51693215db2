"""CLIP text encoders: ViT-L of SD 1.x and SDXL, OpenCLIP H of SD 2.x, bigG of SDXL.

Radford et al. 2021, arXiv:2103.00020; Cherti et al. 2022, arXiv:2212.07143 (OpenCLIP).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import ConfigError, RequestError
from ...guard import inference
from ...layers import Embedding, LayerNorm, Linear, WideEmbedding
from ...weights import read_config
from ...weights.config import ignored_in, ignoring
from .._ids import check_range
from ..base import TRANSFORMERS_KEYS, Model, Output, raise_problems
from ..blocks.clip import CLIPEncoder
from .masks import hidden_keys

_TRAINING = {"attention_dropout", "dropout", "initializer_factor", "initializer_range"}

#: In configs written before transformers 4.31: pool at the highest token id.
LEGACY_EOS = 2


def _bounds(low: float, high: float) -> dict[str, Any]:
    return {"min": low, "max": high}


@dataclass(frozen=True)
class CLIPTextConfig:
    """text_encoder/config.json; defaults are transformers'."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = TRANSFORMERS_KEYS | _TRAINING

    vocab_size: int = field(default=49408, metadata=_bounds(1, 1 << 20))
    hidden_size: int = field(default=512, metadata=_bounds(1, 16384))
    intermediate_size: int = field(default=2048, metadata=_bounds(1, 65536))
    projection_dim: int | None = field(default=512, metadata=_bounds(1, 16384))
    num_hidden_layers: int = field(default=12, metadata=_bounds(1, 128))
    num_attention_heads: int = field(default=8, metadata=_bounds(1, 256))
    max_position_embeddings: int = field(default=77, metadata=_bounds(1, 8192))
    hidden_act: Literal["quick_gelu", "gelu", "silu", "swish"] = "quick_gelu"
    layer_norm_eps: float = field(default=1e-5, metadata=_bounds(0, 1))
    eos_token_id: int = field(default=49407, metadata=_bounds(0, 1 << 20))
    model_type: Literal["clip_text_model"] = "clip_text_model"
    #: diffusers' pipelines then hide the padding; Stable Diffusion's do not.
    use_attention_mask: Literal[False] = False

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "CLIPTextConfig":
        """From a text model's config, or from a whole CLIP's, which holds it as `text_config`.

        Raises ConfigError that lists every problem.
        """
        if isinstance(d, dict) and isinstance(d.get("text_config"), dict):
            text = ignoring(d["text_config"], ignored_in(d))
            return read_config(cls, text, f"{where}: text_config")
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        if self.hidden_size % self.num_attention_heads:
            problems.append(
                f"hidden_size {self.hidden_size} is no multiple of"
                f" num_attention_heads {self.num_attention_heads}"
            )
        raise_problems(problems)


@dataclass
class CLIPTextOutput(Output):
    """What a text encoder returns.

    last_hidden_state: [N, L, hidden_size], after the final norm; pooler_output: [N, hidden_size],
    its row at the end of the text; hidden_states: None, or the embeddings and every layer's
    [N, L, hidden_size], before the final norm.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class CLIPTextProjectionOutput(Output):
    """text_embeds: [N, projection_dim], the projected pooler_output; the rest as CLIPTextOutput."""

    text_embeds: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class LearntRows:
    """Rows of the table of tokens in place of those from an id on: learnt tokens.

    first: the id of the first. rows: [K, hidden_size].
    """

    first: int
    rows: Tensor


class _Embeddings(nn.Module):
    def __init__(self, c: CLIPTextConfig):
        super().__init__()
        self.token_embedding = Embedding(c.vocab_size, c.hidden_size)
        # Wide, so that the sum of both tables is in the model's dtype.
        self.position_embedding = WideEmbedding(c.max_position_embeddings, c.hidden_size)

    def forward(self, ids: Tensor, learnt: LearntRows | None = None) -> Tensor:
        if learnt is None:
            tokens = self.token_embedding(ids)
        else:
            behind = ids >= learnt.first
            tokens = self.token_embedding(ids.masked_fill(behind, 0))
            rows = torch.nn.functional.embedding((ids - learnt.first).clamp(min=0), learnt.rows)
            tokens = torch.where(behind[..., None], rows.to(tokens.dtype), tokens)
        return tokens + self.position_embedding.weight[: ids.shape[1]]


class _Transformer(nn.Module):
    """Everything but the projection; saved as `text_model.*` (by transformers 5 without that)."""

    def __init__(self, c: CLIPTextConfig):
        super().__init__()
        self.embeddings = _Embeddings(c)
        self.encoder = CLIPEncoder(
            c.num_hidden_layers,
            c.hidden_size,
            c.num_attention_heads,
            c.intermediate_size,
            c.hidden_act,
            c.layer_norm_eps,
            causal=True,
        )
        self.final_layer_norm = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.eos_token_id = c.eos_token_id

    def forward(
        self, ids: Tensor, mask: Tensor | None, learnt: LearntRows | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(last_hidden_state, pooler_output, hidden_states) of ids [N, L]."""
        states = self.encoder(self.embeddings(ids, learnt), mask)
        x = self.final_layer_norm(states[-1])
        pooled = x[torch.arange(len(x), device=x.device), self._end_of_text(ids)]
        return x, pooled, states

    def _end_of_text(self, ids: Tensor) -> Tensor:
        """[N]: where the first end token is, 0 where there is none (as transformers has it)."""
        if self.eos_token_id == LEGACY_EOS:
            return ids.argmax(dim=-1)
        return (ids == self.eos_token_id).int().argmax(dim=-1)


class _TextEncoder(Model):
    config_class = CLIPTextConfig
    # A CLIP that was saved whole comes with the tower for pictures.
    harmless_extra: ClassVar[tuple[str, ...]] = ("vision_model.*", "visual_projection.weight")

    def __init__(self, config: CLIPTextConfig):
        super().__init__(config)
        self.text_model = _Transformer(config)

    def final_layer_norm(self, hidden_state: Tensor) -> Tensor:
        """The norm that last_hidden_state has had and hidden_states have not; for clip-skip."""
        return self.text_model.final_layer_norm(hidden_state)

    def _encode(
        self, input_ids: Tensor, attention_mask: Tensor | None, learnt: LearntRows | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        ids = self._checked(input_ids, learnt)
        mask = None
        if attention_mask is not None:
            mask = hidden_keys(attention_mask, ids, self.dtype)
        found: tuple[Tensor, Tensor, list[Tensor]] = self.text_model(ids, mask, learnt)
        return found

    def _checked(self, ids: Tensor, learnt: LearntRows | None = None) -> Tensor:
        most, vocab = self.config.max_position_embeddings, self.config.vocab_size
        vocab = vocab if learnt is None else learnt.first + len(learnt.rows)
        if ids.dim() != 2 or not 1 <= ids.shape[1] <= most or ids.is_floating_point():
            raise RequestError(
                f"input_ids: expected integers [N, 1 to {most}], got {ids.dtype} {list(ids.shape)}"
            )
        check_range("input_ids", ids, vocab)
        return ids.to(self.device)


class CLIPTextModel(_TextEncoder):
    """The text encoder of SD 1.x and 2.x, and SDXL's first."""

    # The first half of a CLIP that was saved whole may come with what the second half needs.
    harmless_extra = (*_TextEncoder.harmless_extra, "text_projection.weight")

    @inference
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        learnt: LearntRows | None = None,
    ) -> CLIPTextOutput | tuple[Any, ...]:
        """Hidden states of texts.

        Args:
            input_ids: [N, L] integers, L at most max_position_embeddings.
            attention_mask: [N, L], 0 hides a token from all later ones; Stable Diffusion passes
                none.
            output_hidden_states: whether every layer's are in the result, too.
            return_dict: False gives a tuple in place of an object with names.
            learnt: rows in place of the table's, of learnt tokens.

        Returns:
            last_hidden_state [N, L, C] after the last norm and pooler_output [N, C], that of the
            end token.

        Raises:
            RequestError: for ids that are no row of the vocabulary, or too many of them.
        """
        last, pooled, states = self._encode(input_ids, attention_mask, learnt)
        out = CLIPTextOutput(last, pooled, tuple(states) if output_hidden_states else None)
        return out if return_dict else out.to_tuple()


class CLIPTextModelWithProjection(_TextEncoder):
    """A text encoder and its projection into CLIP's shared space: SDXL's second."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__(config)
        if config.projection_dim is None:
            raise ConfigError("projection_dim is null, expected the width of the projection")
        self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    @inference
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        learnt: LearntRows | None = None,
    ) -> CLIPTextProjectionOutput | tuple[Any, ...]:
        """Hidden states of texts, and their embeddings.

        Args:
            input_ids: [N, L] integers, L at most max_position_embeddings.
            attention_mask: [N, L], 0 hides a token from all later ones; Stable Diffusion passes
                none.
            output_hidden_states: whether every layer's are in the result, too.
            return_dict: False gives a tuple in place of an object with names.
            learnt: rows in place of the table's, of learnt tokens.

        Returns:
            text_embeds [N, P], the projected pooled state, and last_hidden_state [N, L, C].

        Raises:
            RequestError: for ids that are no row of the vocabulary, or too many of them.
        """
        last, pooled, states = self._encode(input_ids, attention_mask, learnt)
        kept = tuple(states) if output_hidden_states else None
        out = CLIPTextProjectionOutput(self.text_projection(pooled), last, kept)
        return out if return_dict else out.to_tuple()
