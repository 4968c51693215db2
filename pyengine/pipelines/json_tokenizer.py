"""A byte-pair tokenizer out of a tokenizer.json, as Llama's relatives have it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigError
from ..tokenizer import check_text, check_vocab
from ..weights.files import read_small
from ..weights.jsonio import parse_object
from ..weights.text import show

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: DeepSeek's takes 4.7 MB and 200,000 values.
MAX_BYTES = 24 << 20
MAX_VALUES = 1_500_000


class JsonTokenizer:
    """The `tokenizers` library over a checked tokenizer.json.

    size: one more than the largest id, so the rows that the embedding must have.
    """

    def __init__(self, tokenizer: "Tokenizer"):
        self._tokenizer = tokenizer
        self.size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())

    @classmethod
    def from_files(cls, files: Mapping[str, Path], where: str) -> "JsonTokenizer":
        """files: name -> path, with tokenizer.json among them. Raises CheckpointError where it is
        missing, ConfigError for what is no byte-pair tokenizer.
        """
        if "tokenizer.json" not in files:
            raise CheckpointError(f"{where}: expected tokenizer.json")
        path = files["tokenizer.json"]
        data = read_small(path, MAX_BYTES)
        parsed = parse_object(data, str(path), max_values=MAX_VALUES)
        model = parsed.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE":
            kind = model.get("type") if isinstance(model, dict) else model
            raise ConfigError(f"{path}: model: expected a BPE model, found {show(kind)}")
        check_vocab(model.get("vocab"), f"{path}: model.vocab")
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(data.decode("utf-8"))
            tokenizer.no_padding()
            tokenizer.no_truncation()
        except Exception as e:  # the library raises plain Exceptions
            raise ConfigError(f"{path}: cannot be used: {show(str(e), 300)}") from None
        if not tokenizer.get_vocab(with_added_tokens=True):
            raise ConfigError(f"{path}: model.vocab is empty")
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, with what the file says comes before and after."""
        check_text(text)
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids
