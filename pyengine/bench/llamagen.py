"""A GPT of LlamaGen's shape: sizes, work of a token, and how its weights lie in memory."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..models import PictureTokens
from . import checkpoints

#: Rows of a call: the conditional and the unconditional one of classifier-free guidance.
ROWS = 2


@dataclass(frozen=True)
class Storage:
    """A way to store weights. load: arguments of load_module; itemsize: bytes of a weight;
    agreement: relative L2 from torch's logits, of weights in the dtype, beyond which a run fails.
    """

    load: dict[str, Any]
    itemsize: float
    agreement: float


#: Storage.agreement by dtype. Measured on the CPU, on the logits of XL's 36 layers with random
#: weights, a quarter as wide: bfloat16 moves them by 0.032, float16 by 0.0045; weights in int8 by
#: 0.048, in e4m3 by 0.18.
AGREEMENT = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
IN_8_BITS = {"int8": 0.1, "fp8": 0.3}


def storages(device: str, dtype: torch.dtype) -> dict[str, Storage]:
    """By name, the dtype itself first; each is a row of the result. The checkpoint is float16, so
    that float32 and float16 storage hold the same numbers.
    """
    most, on_cpu = AGREEMENT[dtype], device == "cpu"
    found = {str(dtype)[6:]: Storage({"keep_narrow": False}, dtype.itemsize, most)}
    if on_cpu and dtype == torch.float32:
        found["float16"] = Storage({"keep_narrow": True}, 2, most)
    for name in ("int8",) if on_cpu else ("int8", "fp8"):
        found[name] = Storage({"weights": name}, 1, IN_8_BITS[name])
    return found


@dataclass(frozen=True)
class Shape:
    """A GPT and its pictures of side x side tokens. The measured token follows half of a picture's
    (`behind`). size: one of checkpoints.GPTS. dtype: of the arithmetic, and of keys and values.
    """

    quick: bool
    size: str = "b"
    dtype: torch.dtype = torch.float32

    @property
    def config(self) -> dict[str, Any]:
        return checkpoints.GPTS[self.size][self.quick]

    @property
    def codes(self) -> int:
        return int(self.config["vocab_size"]) - 4

    @property
    def side(self) -> int:
        return math.isqrt(int(self.config["max_position_embeddings"]) - 4)

    @property
    def behind(self) -> int:
        return self.side**2 // 2

    def tokens(self) -> PictureTokens:
        """Two prompts of one id each, then the id that begins a picture."""
        return PictureTokens(
            picture_tokens=self.codes,
            text_tokens=2,
            first_text_token=self.codes,
            begin_of_picture=self.codes + 2,
            padding=self.codes + 3,
            text_length=2,
            side=self.side,
        )

    def ids(self) -> np.ndarray:
        """[ROWS, behind + 1] int64; the last is the token whose pass is measured."""
        return np.random.default_rng(0).integers(0, self.codes, (ROWS, self.behind + 1))

    def matrices(self) -> int:
        """Weights that a token multiplies."""
        c = self.config
        width, inner = c["hidden_size"], c["intermediate_size"]
        layer = 4 * width * width + 3 * width * inner
        return int(c["num_hidden_layers"] * layer + c["vocab_size"] * width)

    def work(self, itemsize: float, behind: int | None = None) -> tuple[int, int]:
        """(operations, bytes) of one token in each of ROWS rows, after `behind` others: the weights
        are read once, keys and values for each row.
        """
        c, seen = self.config, (self.behind if behind is None else behind) + 1
        cache = ROWS * seen * 2 * c["num_hidden_layers"] * c["hidden_size"]
        flops = 2 * ROWS * self.matrices() + 2 * cache
        return flops, round(self.matrices() * itemsize) + self.dtype.itemsize * cache
