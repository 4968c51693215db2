"""Attention masks of text encoders."""

import torch
from torch import Tensor

from ...errors import RequestError


def hidden_keys(attention_mask: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, 1, 1, L], what ops.attention adds: 0 where attention_mask [N, L] is not 0, else the
    least number of `dtype`. Not -inf: a row of which every key is hidden would be NaN.

    Raises RequestError unless attention_mask has the shape of ids.
    """
    if attention_mask.shape != ids.shape:
        raise RequestError(
            f"attention_mask: expected shape {list(ids.shape)} as input_ids,"
            f" got {list(attention_mask.shape)}"
        )
    hidden = attention_mask.to(ids.device) == 0
    mask = torch.zeros(ids.shape, dtype=dtype, device=ids.device)
    return mask.masked_fill(hidden, torch.finfo(dtype).min)[:, None, None, :]
