"""A Llama over a text's hidden states and then a picture's pixels, as colours of a palette.

Chen et al. 2020, "Generative Pretraining from Pixels"; van den Oord et al. 2016, arXiv:1601.06759.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from ...errors import RequestError
from ...guard import inference
from ...layers import Linear, WideEmbedding
from ...weights import read_config
from .._ids import check_ids, check_length
from ..base import Model, raise_problems
from .kv_cache import KVCache
from .llama import Llama, LlamaConfig

#: A picture comes out with each pixel drawn this often along both sides.
ENLARGED = 4


@dataclass(frozen=True, kw_only=True)
class PixelGPTConfig(LlamaConfig):
    """transformer/config.json: a Llama's, and what it reads and draws.

    vocab_size: colours. palette: [vocab_size, 3] RGB, 0 to 255. sample_size: pixels along each
    side. encoder_hidden_size, text_length: of the text's hidden states. text_encoder: the shipped
    model that has the text encoder.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("PixelGPT",)

    palette: tuple[tuple[int, int, int], ...] = field(
        metadata={"min": 0, "max": 255, "max_items": 1 << 16}
    )
    text_encoder: Literal["emoji"]
    encoder_hidden_size: int = field(default=128, metadata={"min": 1, "max": 16384})
    text_length: int = field(default=24, metadata={"min": 1, "max": 4096})
    sample_size: int = field(default=16, metadata={"min": 1, "max": 1024})

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "PixelGPTConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        if len(self.palette) != self.vocab_size:
            problems.append(
                f"palette has {len(self.palette)} colours, but vocab_size is {self.vocab_size}"
            )
        if self.text_length + self.sample_size**2 != self.max_position_embeddings:
            problems.append(
                f"text_length {self.text_length} and sample_size {self.sample_size} make rows of"
                f" {self.text_length + self.sample_size**2}, but max_position_embeddings is"
                f" {self.max_position_embeddings}"
            )
        raise_problems(problems)
        super().__post_init__()


class PixelGPT(Model):
    """Logits of the next pixel's colour.

    cache = gpt.cache(rows, most)
    logits = gpt.read_text(hidden, cache)         # [N, vocab_size], of the first pixel
    logits = gpt.read_pixels(pixels, cache)       # of the pixel after these
    """

    config_class = PixelGPTConfig
    tiers = ("int8", "fp8")
    quantized_layers = ("model.layers.*", "head")

    def __init__(self, config: PixelGPTConfig):
        super().__init__(config)
        self.model = Llama(config)
        # Wide, so that the sum with it is in the model's dtype.
        self.positions = WideEmbedding(config.max_position_embeddings, config.hidden_size)
        self.text = Linear(config.encoder_hidden_size, config.hidden_size, bias=False)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def cache(self, rows: int, most: int, slots: int | None = None) -> KVCache:
        """An empty cache of keys and values.

        Args:
            rows: sequences of a batch.
            most: tokens of a sequence.
            slots: how many sequences it can hold; see KVCache.
        """
        return self.model.cache(rows, most, slots)

    @inference
    def read_text(self, hidden: Tensor, cache: KVCache) -> Tensor:
        """Logits of the first pixel after a text.

        Args:
            hidden: [N, text_length, encoder_hidden_size], a text's hidden states.
            cache: an empty one; they come first in it.

        Returns:
            [N, vocab_size].
        """
        c = self.config
        shape = (len(cache), c.text_length, c.encoder_hidden_size)
        if hidden.shape != shape:
            raise RequestError(f"hidden: expected {list(shape)}, got {list(hidden.shape)}")
        x = self._states(self.text(hidden.to(self.device, self.dtype)), cache)
        logits: Tensor = self.head(x[:, -1].contiguous())
        return logits

    @inference
    def read_pixels(self, pixels: Tensor, cache: KVCache, every: bool = False) -> Tensor:
        """Logits of the pixel that follows.

        Args:
            pixels: [N, L] colours, which come behind what the cache holds.
            cache: what comes before; they are added to it.
            every: whether the logits after each of them are wanted.

        Returns:
            [N, vocab_size]; with every [N, L, vocab_size].

        Raises:
            RequestError: for colours that the palette has not, or more pixels than a picture has.
        """
        c = self.config
        check_ids("pixels", pixels, c.vocab_size)
        limit = "max_position_embeddings", c.max_position_embeddings
        check_length("pixels", cache.lengths, pixels.shape[1], *limit)
        x = self._states(self.model.embed_tokens(pixels.to(self.device)).to(self.dtype), cache)
        logits: Tensor = self.head(x if every else x[:, -1].contiguous())
        return logits

    def _states(self, x: Tensor, cache: KVCache) -> Tensor:
        states: Tensor = self.model(x + self.positions(cache.positions(x.shape[1])), cache)
        return states
