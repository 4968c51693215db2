"""What unCLIP's decoder is told of a text and of a picture's embedding.

Ramesh et al. 2022, arXiv:2204.06125, section 2.1: the embeddings are added to the time's, and are
tokens of the context before those of the text.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import LayerNorm, Linear
from ...weights import read_config
from ..base import Model

_WIDTH = {"min": 1, "max": 65536}


@dataclass(frozen=True)
class UnCLIPTextProjConfig:
    """text_proj/config.json; names and defaults are diffusers' UnCLIPTextProjModel's."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("UnCLIPTextProjModel",)

    time_embed_dim: int = field(metadata=_WIDTH)
    cross_attention_dim: int = field(metadata=_WIDTH)
    clip_extra_context_tokens: int = field(default=4, metadata={"min": 1, "max": 64})
    clip_embeddings_dim: int = field(default=768, metadata=_WIDTH)

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "UnCLIPTextProjConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)


class UnCLIPTextProjModel(Model):
    """Embeddings of a picture and of its text, and the text's tokens, as unCLIP's decoder takes
    them: one vector beside the time's, and tokens.
    """

    config_class = UnCLIPTextProjConfig

    def __init__(self, config: UnCLIPTextProjConfig):
        super().__init__(config)
        c, width = config, config.clip_embeddings_dim
        empty = torch.empty(width, device="meta")
        self.learned_classifier_free_guidance_embeddings = nn.Parameter(empty, requires_grad=False)
        self.embedding_proj = Linear(width, c.time_embed_dim)
        self.clip_image_embeddings_project_to_time_embeddings = Linear(width, c.time_embed_dim)
        self.clip_extra_context_tokens_proj = Linear(
            width, c.clip_extra_context_tokens * c.cross_attention_dim
        )
        self.encoder_hidden_states_proj = Linear(width, c.cross_attention_dim)
        self.text_encoder_hidden_states_norm = LayerNorm(c.cross_attention_dim)

    @inference
    def forward(
        self,
        *,
        image_embeddings: Tensor,
        prompt_embeds: Tensor,
        text_encoder_hidden_states: Tensor,
        do_classifier_free_guidance: bool,
    ) -> tuple[Tensor, Tensor]:
        """What unCLIP's decoder is told of pictures' embeddings and texts.

        Args:
            image_embeddings: [N, clip_embeddings_dim], of pictures.
            prompt_embeds: [R, clip_embeddings_dim], of texts.
            text_encoder_hidden_states: [R, L, clip_embeddings_dim], their tokens.
            do_classifier_free_guidance: whether R is 2 N in place of N: the first N rows are then
                the negative texts', with the embedding that stands for no picture.

        Returns:
            (tokens [R, clip_extra_context_tokens + L, cross_attention_dim], vectors [R,
            time_embed_dim], which are the decoder's class_labels).

        Raises:
            RequestError: for other shapes.
        """
        images = self._checked("image_embeddings", image_embeddings, 2)
        texts = self._checked("prompt_embeds", prompt_embeds, 2)
        tokens = self._checked("text_encoder_hidden_states", text_encoder_hidden_states, 3)
        if do_classifier_free_guidance:
            none = self.learned_classifier_free_guidance_embeddings.expand(len(images), -1)
            images = torch.cat([none, images])
        for name, given in (("prompt_embeds", texts), ("text_encoder_hidden_states", tokens)):
            if len(given) != len(images):
                raise RequestError(f"{name}: expected {len(images)} rows, got {len(given)}")
        project = self.clip_image_embeddings_project_to_time_embeddings
        vectors = project(images) + self.embedding_proj(texts)
        extra = self.config.clip_extra_context_tokens
        # Saved so that the tokens are the last dimension of what is projected.
        before = self.clip_extra_context_tokens_proj(images).view(len(images), -1, extra)
        normed = self.text_encoder_hidden_states_norm(self.encoder_hidden_states_proj(tokens))
        return torch.cat([before.transpose(1, 2), normed], dim=1), vectors

    def _checked(self, name: str, x: Tensor, dims: int) -> Tensor:
        width = self.config.clip_embeddings_dim
        if x.dim() != dims or x.shape[-1] != width or not x.numel():
            shape = f"[N, {'L, ' * (dims - 2)}{width}]"
            raise RequestError(f"{name}: expected {shape}, got {list(x.shape)}")
        return x.to(device=self.device, dtype=self.dtype).contiguous()
