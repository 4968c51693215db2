"""T5's tokenizer: a unigram model over words, from tokenizer.json or spiece.model.

Kudo 2018, arXiv:1804.10959; Raffel et al. 2020, arXiv:1910.10683.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..tokenizer import MAX_IDS, MAX_LENGTH, check_text, read_max_length
from ..weights.files import read_small
from ..weights.jsonio import load_json, parse_object
from ..weights.text import show
from .sentencepiece import CONTROL, USER_DEFINED, check_charsmap, read_sentencepieces

#: T5's takes 1.4 MB and 130,000 values.
MAX_BYTES = 24 << 20
MAX_VALUES = 1_500_000
#: Sentinels of T5's training; the vocabulary ends with them.
EXTRA_IDS = 100
MAX_EXTRA_IDS = 10_000
EOS, PAD, UNK = "</s>", "<pad>", "<unk>"
SPACE = "\u2581"


class T5Tokenizer:
    """Text to token ids, as transformers' T5Tokenizer gives them.

    model_max_length: tokens in a row, the end included. eos_id, pad_id: of the end and of padding.
    size: one more than the largest id, so the rows that the embedding must have.
    """

    def __init__(self, tokenizer: Any, model_max_length: int, where: str):
        self._tokenizer = tokenizer
        self.model_max_length = model_max_length
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        missing = [token for token in (EOS, PAD) if token not in vocabulary]
        if missing:
            raise ConfigError(
                f"{where}: expected {EOS} and {PAD} among its tokens, found neither"
                if len(missing) == 2
                else f"{where}: expected {missing[0]} among its tokens, found none"
            )
        self.eos_id, self.pad_id = vocabulary[EOS], vocabulary[PAD]
        self.size = 1 + max(vocabulary.values())

    @classmethod
    def from_files(cls, files: Mapping[str, Path], where: str = "tokenizer") -> "T5Tokenizer":
        """files: name -> path: tokenizer.json or spiece.model, and tokenizer_config.json, if there
        is one. where: for messages.

        Raises CheckpointError where both are missing, ConfigError for what is no such tokenizer.
        """
        name = "tokenizer_config.json"
        config = load_json(files[name]) if name in files else {}
        if "tokenizer.json" in files:
            tokenizer = _from_json(files["tokenizer.json"])
        elif "spiece.model" in files:
            tokenizer = _from_sentencepieces(files["spiece.model"], _extra_ids(config, where))
        else:
            raise CheckpointError(f"{where}: expected tokenizer.json or spiece.model")
        return cls(
            tokenizer, read_max_length({"model_max_length": MAX_LENGTH, **config}, where), where
        )

    def equals(self, other: "T5Tokenizer") -> bool:
        """Whether the other one is made alike, and so gives the same ids."""
        return self is other or (
            self.model_max_length == other.model_max_length
            and self._tokenizer.to_str() == other._tokenizer.to_str()
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text` and the end token; neither cut nor padded."""
        check_text(text)
        return [*self._tokenizer.encode(text, add_special_tokens=False).ids, self.eos_id]

    def __call__(
        self, texts: Sequence[str], length: int
    ) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """(rows, masks, cut): rows of exactly `length` ids, 1 for every one that is no padding, and
        what was cut off each text ("" where nothing was).
        """
        rows, masks, cut = [], [], []
        for text in texts:
            ids = self.encode(text)
            cut.append(self.decode(ids[length - 1 : -1]) if len(ids) > length else "")
            if len(ids) > length:
                ids = [*ids[: length - 1], self.eos_id]
            padding = length - len(ids)
            rows.append(ids + [self.pad_id] * padding)
            masks.append([1] * len(ids) + [0] * padding)
        return rows, masks, cut

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


def _extra_ids(config: Mapping[str, Any], where: str) -> int:
    count = config.get("extra_ids", EXTRA_IDS)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_EXTRA_IDS:
        raise ConfigError(f"{where}: extra_ids: expected 0 to {MAX_EXTRA_IDS}, found {show(count)}")
    return count


def _from_sentencepieces(path: Path, extra: int) -> Any:
    """The tokenizer of a spiece.model, as transformers makes it."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import Unigram

    model = read_sentencepieces(path)
    # The sentinels lie behind the vocabulary, the last number first.
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(extra))]
    present = {piece for piece, _ in model.pieces}
    pieces = [*model.pieces, *((token, 0.0) for token in sentinels if token not in present)]
    tokenizer = Tokenizer(Unigram(pieces, model.unknown, byte_fallback=False))
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    special = {PAD, EOS, UNK, *sentinels}
    for (piece, _), kind in zip(model.pieces, model.types, strict=True):
        if kind in (CONTROL, USER_DEFINED) and piece not in special:
            tokenizer.add_tokens([AddedToken(piece, normalized=False, special=kind == CONTROL)])
    known = [token for token in (PAD, EOS, UNK) if token in present]
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (*known, *sentinels)]
    )
    return tokenizer


def _from_json(path: Path) -> Any:
    """The `tokenizers` library over a checked tokenizer.json."""
    from tokenizers import Tokenizer

    data = read_small(path, MAX_BYTES)
    parsed = parse_object(data, str(path), max_values=MAX_VALUES)
    model = parsed.get("model")
    if not isinstance(model, dict) or model.get("type") != "Unigram":
        kind = model.get("type") if isinstance(model, dict) else model
        raise ConfigError(f"{path}: model: expected a Unigram model, found {show(kind)}")
    vocabulary, unknown = model.get("vocab"), model.get("unk_id")
    if not isinstance(vocabulary, list) or not 0 < len(vocabulary) <= MAX_IDS:
        raise ConfigError(
            f"{path}: model.vocab: expected a list of 1 to {MAX_IDS} pieces, found"
            f" {show(vocabulary, 100)}"
        )
    for i, item in enumerate(vocabulary):
        pair = isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)
        if not pair or isinstance(item[1], bool) or not isinstance(item[1], int | float):
            raise ConfigError(
                f"{path}: model.vocab[{i}]: expected a piece and its score, found {show(item)}"
            )
    if (
        isinstance(unknown, bool)
        or not isinstance(unknown, int)
        or not 0 <= unknown < len(vocabulary)
    ):
        raise ConfigError(
            f"{path}: model.unk_id: expected 0 to {len(vocabulary) - 1}, found {show(unknown)}"
        )
    _check_maps(parsed.get("normalizer"), f"{path}: normalizer")
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
    except Exception as e:  # the library raises plain Exceptions
        raise ConfigError(f"{path}: cannot be used: {show(str(e), 300)}") from None
    return tokenizer


def _check_maps(normalizer: Any, where: str) -> None:
    """Checks the precompiled character maps of a normalizer and of those within it."""
    if not isinstance(normalizer, dict):
        return
    if normalizer.get("precompiled_charsmap") is not None:
        place = f"{where}.precompiled_charsmap"
        try:
            charsmap = base64.b64decode(normalizer["precompiled_charsmap"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ConfigError(f"{place}: expected base64") from None
        check_charsmap(charsmap, place)
    within = normalizer.get("normalizers")
    for i, inner in enumerate(within if isinstance(within, list) else ()):
        _check_maps(inner, f"{where}.normalizers[{i}]")
