"""A small byte-level BPE vocabulary in the files of CLIP's tokenizer.

Every byte is a token of its own, with and without the end-of-word mark, so
that any prompt encodes; merges make the words of the captions single tokens.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import RequestError

END = "</w>"
START_OF_TEXT, END_OF_TEXT = "<|startoftext|>", "<|endoftext|>"
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


def byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, in the order of its vocabulary."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in kept}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(kept))
    return letters


def words(text: str) -> list[str]:
    """A caption as CLIP's pre-tokenizer sees it: NFC, lower case, split at kinds of characters."""
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


def learn_merges(counts: Mapping[str, int], number: int) -> list[tuple[str, str]]:
    """Byte-pair encoding: the most frequent pair first, ties in alphabetical order."""
    letters = byte_letters()
    spelled: Counter[tuple[str, ...]] = Counter()
    for word, count in counts.items():
        spelling = [letters[byte] for byte in word.encode()]
        if spelling:
            spelled[(*spelling[:-1], spelling[-1] + END)] += count
    pairs: Counter[tuple[str, str]] = Counter()
    for parts, count in spelled.items():
        _count(pairs, parts, count)
    merges: list[tuple[str, str]] = []
    while len(merges) < number and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in [parts for parts in spelled if best[0] in parts and best[1] in parts]:
            count = spelled.pop(parts)
            _count(pairs, parts, -count)
            parts = _join(parts, best)
            spelled[parts] += count
            _count(pairs, parts, count)
        pairs = +pairs
    return merges


def _count(pairs: Counter[tuple[str, str]], parts: tuple[str, ...], count: int) -> None:
    for pair in pairwise(parts):
        pairs[pair] += count


def _join(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    if pair[0] not in parts:
        return parts
    joined: list[str] = []
    for part in parts:
        if joined and joined[-1] == pair[0] and part == pair[1]:
            joined[-1] = pair[0] + pair[1]
        else:
            joined.append(part)
    return tuple(joined)


def write(folder: Path, counts: Mapping[str, int], size: int, length: int) -> int:
    """Learn at most `size` tokens from word counts and write the files; returns their number."""
    letters = list(byte_letters().values())
    base = [*letters, *(letter + END for letter in letters)]
    if size < len(base) + 2:
        raise RequestError(f"vocabulary: expected at least {len(base) + 2} tokens, given {size}")
    merges = learn_merges(counts, size - len(base) - 2)
    tokens = [*base, *("".join(pair) for pair in merges), START_OF_TEXT, END_OF_TEXT]
    tokens = list(dict.fromkeys(tokens))
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {
        "bos_token": START_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
    }
    config = special | {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
        "errors": "replace",
        "add_prefix_space": False,
    }
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", config)
    return len(tokens)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Any:
    """transformers' CLIPTokenizer of a folder."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder))


def encode(tokenizer: Any, prompts: list[str]) -> Any:
    """Token numbers int64 [N, length], padded and cut to the tokenizer's length."""
    return tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
