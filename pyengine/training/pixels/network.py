"""The transformer that predicts a picture's next pixel, for training.

`pyengine.models.PixelGPT` computes the same from the same weights with the engine's ops.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .settings import PixelSettings


class PixelGPT(nn.Module):
    """A Llama over a text's hidden states and then a picture's colours in reading order."""

    def __init__(self, s: PixelSettings):
        super().__init__()
        from transformers import LlamaConfig, LlamaModel

        self.model = LlamaModel(
            LlamaConfig(
                vocab_size=s.colours,
                hidden_size=s.width,
                intermediate_size=s.inner,
                num_hidden_layers=s.layers,
                num_attention_heads=s.heads,
                max_position_embeddings=s.context,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
                rms_norm_eps=s.eps,
                use_cache=False,
            )
        )
        self.positions = nn.Embedding(s.context, s.width)
        self.text = nn.Linear(s.text_width, s.width, bias=False)
        self.head = nn.Linear(s.width, s.colours, bias=False)
        nn.init.normal_(self.positions.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        """[N, L, colours]: logits of pixel 0, 1, ... L - 1, each from those before it.

        pixels: [N, L - 1]; text: [N, T, text_width], the text's hidden states.
        """
        x = torch.cat([self.text(text), self.model.embed_tokens(pixels)], dim=1)
        x = x + self.positions.weight[: x.shape[1]]
        states = self.model(inputs_embeds=x).last_hidden_state
        out: Tensor = self.head(states[:, text.shape[1] - 1 :])
        return out
