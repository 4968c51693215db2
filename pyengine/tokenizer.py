"""CLIP's tokenizer: byte-level BPE over lower-cased words, built from a checkpoint's files.

Radford et al. 2021, arXiv:2103.00020; Sennrich et al. 2016, arXiv:1508.07909.
The BPE itself is the `tokenizers` library's; here are the files, the special tokens and padding.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, ConfigError, RequestError
from .weights.files import read_small
from .weights.jsonio import load_json
from .weights.text import show

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

#: Pieces that BPE works on, one after the other: CLIP's own pattern.
PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
END_OF_WORD = "</w>"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
           "mask_token")  # fmt: skip
DEFAULTS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")

MAX_IDS = 1_000_000  # CLIP has 49,408
MAX_MERGES_BYTES = 16 << 20
MAX_PROMPT = 100_000  # characters; 77 tokens hold a few hundred
MAX_LENGTH = 4096


#: (token -> id, merges, added tokens by id).
Vocabulary = tuple[dict[str, int], list[tuple[str, str]], dict[int, dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class LearntToken:
    """A token of textual inversion. vectors: [K, C] float32, on the CPU, which stand for it in the
    text encoder's table. sha256: of the file that it came from, "" for none.
    """

    vectors: "Tensor"
    sha256: str = ""


class ClipTokenizer:
    """Text to token ids, as transformers' CLIPTokenizer gives them.

    model_max_length: tokens in a padded row, start and end included.
    bos_id, eos_id, pad_id: ids of the start, end and padding tokens.
    size: one more than the largest id, so the rows that the embedding must have. Ids from there on
    are those of learnt tokens (`learn`).
    """

    def __init__(self, tokenizer: "Tokenizer", specials: Mapping[str, str], model_max_length: int):
        self._tokenizer = self._own = tokenizer
        self.learnt: dict[str, LearntToken] = {}
        #: By the first id of a learnt token all of its ids.
        self._ids: dict[int, tuple[int, ...]] = {}
        self.model_max_length = model_max_length
        self.bos_id, self.eos_id, self.pad_id = (
            _known_id(tokenizer, specials[name]) for name in ("bos_token", "eos_token", "pad_token")
        )
        self.size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())

    @classmethod
    def from_files(
        cls, files: Mapping[str, Path], where: str = "tokenizer", pad_token: str | None = None
    ) -> "ClipTokenizer":
        """files: name -> path: vocab.json and merges.txt, or tokenizer.json; and, if there are,
        tokenizer_config.json, special_tokens_map.json, added_tokens.json. where: for messages.
        pad_token: in place of the one that the files name.

        Raises ConfigError or CheckpointError for a missing, damaged or absurd file.
        """
        config = load_json(files["tokenizer_config.json"]) if has(files, "config") else {}
        if has(files, "tokenizer"):
            vocab, merges, added = read_tokenizer_json(files["tokenizer.json"])
        else:
            vocab, merges, added = read_vocab_and_merges(files, where)
        specials, tokens = read_special_tokens(files, config, added, where, pad_token)
        tokenizer = build(vocab, merges, specials, tokens, where)
        return cls(tokenizer, specials, read_max_length(config, where))

    @property
    def plain(self) -> "ClipTokenizer":
        """The same without learnt tokens, which other text encoders do not know."""
        if not self.learnt:
            return self
        found = copy.copy(self)
        found.learn({})
        return found

    def learn(self, tokens: Mapping[str, LearntToken]) -> None:
        """Knows these tokens in place of those before.

        They are found anywhere in a text, in lower and upper case, beside letters too, as tokens
        are that were added to one of transformers'. Their ids begin at `size`, in this order, one
        for each vector; where a text names one, all of its ids follow each other.
        Raises ConfigError where the vocabulary's ids have gaps.
        """
        if not tokens:
            self._tokenizer, self.learnt, self._ids = self._own, {}, {}
            return
        from tokenizers import AddedToken, Tokenizer

        tokenizer, next_id = Tokenizer.from_str(self._own.to_str()), self.size
        ids: dict[int, tuple[int, ...]] = {}
        for token, learnt in tokens.items():
            for name in vector_names(token, len(learnt.vectors)):
                tokenizer.add_tokens([AddedToken(name, normalized=True, special=False)])
            first = tokenizer.token_to_id(token)
            if first is None or first != next_id:
                raise ConfigError(
                    f"tokenizer: {show(token)} got the id {first}, expected {next_id}: the"
                    " vocabulary's ids have gaps"
                )
            next_id += len(learnt.vectors)
            ids[first] = tuple(range(first, next_id))
        self._tokenizer, self.learnt, self._ids = tokenizer, dict(tokens), ids

    def knows(self, token: str) -> bool:
        """Whether a token is in the vocabulary, learnt ones too. A word's own is "word</w>"."""
        return self._tokenizer.token_to_id(token) is not None

    def learnt_in(self, text: str) -> list[str]:
        """The learnt tokens that a text names."""
        if not self.learnt:
            return []
        ids = set(self.ids(text))
        return [
            token
            for token, own in zip(self.learnt, self._ids.values(), strict=True)
            if ids & set(own)
        ]

    def ids(self, text: str) -> list[int]:
        """Ids of `text` alone, without start and end, neither cut nor padded."""
        check_text(text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._ids:
            return ids
        return [one for i in ids for one in self._ids.get(i, (i,))]

    def encode(self, text: str) -> list[int]:
        """Ids of `text` between the start and the end token; neither cut nor padded."""
        return [self.bos_id, *self.ids(text), self.eos_id]

    def __call__(self, texts: Sequence[str], length: int) -> tuple[list[list[int]], list[str]]:
        """Rows of exactly `length` ids, and what was cut off each text ("" where nothing was)."""
        rows, cut = [], []
        for text in texts:
            ids = self.encode(text)
            cut.append(self.decode(ids[length - 1 : -1]) if len(ids) > length else "")
            if len(ids) > length:
                ids = [*ids[: length - 1], self.eos_id]
            rows.append(ids + [self.pad_id] * (length - len(ids)))
        return rows, cut

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text.replace(END_OF_WORD, " ").strip()


def _known_id(tokenizer: "Tokenizer", token: str) -> int:
    """The id of one of the special tokens, all of which `build` has added."""
    found: int | None = tokenizer.token_to_id(token)
    assert found is not None
    return found


def vector_names(token: str, count: int) -> list[str]:
    """The tokens that stand for the vectors of a learnt one, as diffusers names them."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def check_text(text: str) -> None:
    """Raises RequestError for what no tokenizer should be given."""
    if len(text) > MAX_PROMPT:
        raise RequestError(
            f"prompt: expected at most {MAX_PROMPT} characters, given {len(text)} characters"
        )
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise RequestError(
            f"prompt: expected Unicode text, given a lone surrogate at character {e.start}"
        ) from None


# --- files ----------------------------------------------------------------------------------------


def has(files: Mapping[str, Path], kind: str) -> bool:
    return {"config": "tokenizer_config.json", "tokenizer": "tokenizer.json"}[kind] in files


def read_max_length(config: dict[str, Any], where: str) -> int:
    # Absent, or the 1e30 that transformers writes for "no limit": the encoder's positions decide.
    value = config.get("model_max_length", MAX_LENGTH)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 3:
        raise ConfigError(
            f"{where}: model_max_length: expected an integer of at least 3, found {show(value)}"
        )
    return int(min(value, MAX_LENGTH))


def read_vocab_and_merges(files: Mapping[str, Path], where: str) -> Vocabulary:
    missing = [name for name in ("vocab.json", "merges.txt") if name not in files]
    if missing:
        raise CheckpointError(
            f"{where}: expected vocab.json and merges.txt, or tokenizer.json;"
            f" missing {' and '.join(missing)}"
        )
    vocab = check_vocab(load_json(files["vocab.json"]), str(files["vocab.json"]))
    path = files["merges.txt"]
    try:
        lines = read_small(path, MAX_MERGES_BYTES).decode("utf-8").split("\n")
    except UnicodeDecodeError as e:
        raise CheckpointError(f"{path}: not UTF-8 at byte {e.start}") from None
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if line and not line.startswith("#version"):
            merges.append(check_merge(line.split(" "), f"{path}: line {number}"))
    added = load_json(files["added_tokens.json"]) if "added_tokens.json" in files else {}
    ids = check_vocab(added, str(files.get("added_tokens.json")))
    return vocab, merges, {i: {"content": token} for token, i in ids.items()}


def read_tokenizer_json(path: Path) -> Vocabulary:
    data = load_json(path)
    model = data.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ConfigError(f"{path}: model: expected a BPE model, found {show(model)}")
    vocab = check_vocab(model.get("vocab"), f"{path}: model.vocab")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ConfigError(f"{path}: model.merges: expected a list, found {show(merges)}")
    pairs = [
        check_merge(m.split(" ") if isinstance(m, str) else m, f"{path}: merge {i}")
        for i, m in enumerate(merges)
    ]
    added = {}
    for token in data.get("added_tokens") or []:
        if not isinstance(token, dict) or not isinstance(token.get("id"), int):
            raise ConfigError(
                f"{path}: added_tokens: expected objects with an id, found {show(token)}"
            )
        added[token["id"]] = {k: v for k, v in token.items() if k != "id"}
    return vocab, pairs, added


def check_vocab(vocab: object, where: str) -> dict[str, int]:
    """A dict of token -> id with distinct ids below MAX_IDS, else ConfigError."""
    if not isinstance(vocab, dict):
        raise ConfigError(f"{where}: expected an object of token -> id, found {show(vocab)}")
    for token, i in vocab.items():
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < MAX_IDS:
            raise ConfigError(
                f"{where}: id of {show(token)}: expected an integer in 0..{MAX_IDS - 1},"
                f" found {show(i)}"
            )
    if len(set(vocab.values())) != len(vocab):
        raise ConfigError(f"{where}: two tokens have the same id")
    return vocab


def check_merge(parts: object, where: str) -> tuple[str, str]:
    if (
        not isinstance(parts, list)
        or len(parts) != 2
        or not all(isinstance(p, str) and p for p in parts)
    ):
        raise ConfigError(f"{where}: expected two tokens, found {show(parts)}")
    return parts[0], parts[1]


def read_special_tokens(
    files: Mapping[str, Path],
    config: dict[str, Any],
    added: dict[int, Any],
    where: str,
    pad_token: str | None,
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """(name -> content of the named special tokens, tokens to add in order of id).

    tokenizer_config.json's added_tokens_decoder, where there is one, replaces what the older
    special_tokens_map.json and the tokens in `added` say.
    """
    named = {name: config[name] for name in SPECIAL if config.get(name) is not None}
    decoder = config.get("added_tokens_decoder")
    if decoder is not None:
        if not isinstance(decoder, dict) or not all(str(k).isdecimal() for k in decoder):
            raise ConfigError(
                f"{where}: added_tokens_decoder: expected an object of id -> token,"
                f" found {show(decoder)}"
            )
        added = {int(i): token for i, token in decoder.items()}
    elif "special_tokens_map.json" in files:
        saved = load_json(files["special_tokens_map.json"])
        named.update({name: saved[name] for name in SPECIAL if saved.get(name) is not None})
    if pad_token is not None:
        named["pad_token"] = pad_token
    flags = {}
    for i in sorted(added):
        token = check_token(added[i], where)
        flags[token.pop("content")] = token
    specials, saved_flags = {}, dict(flags)
    for name in SPECIAL:
        value = named.get(name, DEFAULTS.get(name))
        if value is None:
            continue
        token = check_token(value, f"{where}: {name}", special=True)
        content = specials[name] = token.pop("content")
        # Flags from the list of added tokens win; else those of the last name with this content.
        flags[content] = {**saved_flags.get(content, token), "special": True}
    return specials, flags


def check_token(value: object, where: str, special: bool = False) -> dict[str, Any]:
    """{"content": str, flag: bool...} from a string or an AddedToken's JSON."""
    if isinstance(value, str):
        value = {"content": value, "special": special, "normalized": not special}
    if not isinstance(value, dict) or not value.get("content"):
        raise ConfigError(f"{where}: expected a token, found {show(value)}")
    token = {k: v for k, v in value.items() if k != "__type"}
    wrong = [
        k
        for k in token
        if k not in (*FLAGS, "content") or not isinstance(token[k], str if k == "content" else bool)
    ]
    if wrong:
        raise ConfigError(
            f"{where}: token {show(token['content'])}: {show(wrong[0])} is no flag of a token"
        )
    return token


# --- the tokenizers library -----------------------------------------------------------------------


def build(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    specials: Mapping[str, str],
    flags: Mapping[str, dict[str, Any]],
    where: str,
) -> "Tokenizer":
    """A tokenizers.Tokenizer that does what CLIP's own does before start, end and padding."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    for left, right in merges:
        for token in (left, right, left + right):
            if token not in vocab:
                raise ConfigError(
                    f"{where}: merge of {show(left)} and {show(right)}: {show(token)}"
                    " is not in the vocabulary"
                )
    missing = [specials[n] for n in ("bos_token", "eos_token") if specials[n] not in vocab]
    if missing:
        raise ConfigError(f"{where}: {show(missing[0])} is not in the vocabulary")
    tokenizer = Tokenizer(
        BPE(
            vocab=vocab,
            merges=merges,
            end_of_word_suffix=END_OF_WORD,
            unk_token=specials["unk_token"],
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for content, own in flags.items():
        tokenizer.add_tokens([AddedToken(content, **own)])
    return tokenizer
