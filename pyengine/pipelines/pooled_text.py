"""Texts as one vector each: the hidden state at a text's end, as CLIP pools it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models import CLIPTextModel
from ..tokenizer import ClipTokenizer
from .text import encode, token_mask


def pooled(
    tokenizer: ClipTokenizer, encoder: CLIPTextModel, prompts: Sequence[str], warned: list[str]
) -> Tensor:
    """[N, hidden_size], after the encoder's last norm. warned: gets what was cut off."""
    hidden = encode(tokenizer, encoder, prompts, None, warned)[0]
    ends = token_mask(tokenizer, prompts, hidden.shape[1]).sum(dim=1).long() - 1
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, ends.to(hidden.device)]
