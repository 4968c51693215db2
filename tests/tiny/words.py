"""The tokenizers of tiny checkpoints: some words, all letters and bytes."""

from __future__ import annotations

import json
from pathlib import Path

#: Words that are one token; every other text falls back to letters and bytes.
TEXT = """
a an the of in on and with red blue green yellow black white small big two three style smiling
heart cat dog house tree sun moon star apple car bird fish flower face photo painting picture
"""
WORDS = TEXT.split()
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> list[str]:
    """The 256 letters of byte-level BPE in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token -> id, merges): letters, letters ending a word, WORDS, start, end (the last id)."""
    letters = byte_letters()
    tokens = letters + [c + "</w>" for c in letters]
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.setdefault((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    tokens += [left + right for left, right in merges]
    tokens += [START, END]
    return {token: i for i, token in enumerate(tokens)}, list(merges)


VOCAB_SIZE = len(vocabulary()[0])


def write_tokenizer(folder: Path, *, pad_token: str = END, model_max_length: int = 77) -> Path:
    """vocab.json, merges.txt and their two config files, as transformers 4 writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, merges = vocabulary()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    special = {
        "bos_token": {"content": START, "lstrip": False, "normalized": True},
        "eos_token": {"content": END, "lstrip": False, "normalized": True},
        "unk_token": {"content": END, "lstrip": False, "normalized": True},
    }
    for token in special.values():
        token.update(rstrip=False, single_word=False)
    config = {
        "add_prefix_space": False,
        "bos_token": START,
        "do_lower_case": True,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": model_max_length,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    }
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(
        json.dumps({**special, "pad_token": pad_token}, indent=2)
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return folder


JANUS_SPECIALS = ("<bos>", "<eos>", "<pad>", "<begin_of_image>", "<|User|>", "<|Assistant|>")


def make_janus_tokenizer():
    """A byte-level BPE of WORDS as transformers wraps it; JANUS_SPECIALS have the last ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    ids = {letter: i for i, letter in enumerate(byte_letters())}
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        parts = list(word)
        while len(parts) > 1:
            merges.setdefault((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    for left, right in merges:
        ids.setdefault(left + right, len(ids))
    tokenizer = Tokenizer(BPE(vocab=ids, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in JANUS_SPECIALS])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        padding_side="left",
    )
