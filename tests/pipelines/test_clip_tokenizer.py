"""Token ids against transformers' CLIPTokenizer, and tokenizer files that must be refused."""

import json
import random
import shutil

import pytest
import tiny
from transformers import CLIPTokenizer

from pyengine.errors import CheckpointError, RequestError
from pyengine.tokenizer import ClipTokenizer

TEXTS = [
    "",
    " ",
    "\n",
    "a red heart",
    "A RED HEART!",
    "  two   cats\t\nhere  ",
    "don't can't we'll I'm",
    "'S 'T 'LL ''s",
    "123 4567 ½ ²",
    "!",
    "!!",
    "a!b ! c",
    "e-mail: x@y.z; #tag %d \\n",
    "foo_bar-baz.qux (1.5)",
    "❤️ 🧑\u200d🚀 👩🏽\u200d💻 🇫🇷",
    "漢字 かな カナ 한국어",
    "مرحبا नमस्ते",
    "ÀÉÎ e\u0301 ﬁ ǅ İstanbul ẞ Σίσυφος ΣΑΣ ŉ",
    "x\u00a0y\u2003z\u3000\u200b\ufeff",
    "\x00\x01\x7f\x1b[31m",
    "<|endoftext|> x <|startoftext|>",
    "<|ENDOFTEXT|> </w> the</w> cat",
    "a" * 500,
    "😀" * 60,
    "red heart " * 100,
    "\u0301\u0301a",
    "\U0010ffff\ue000",
]


def odd_texts(count: int = 400, seed: int = 0) -> list[str]:
    r = random.Random(seed)
    pieces = ["a", "Z", " ", "!", "'s", "é", "\u0301", "1", "\n", "漢", "😀", "-", "LL", "red",
              "<|endoftext|>", "</w>", "\x00"]  # fmt: skip

    def piece() -> str:
        kind = r.random()
        if kind < 0.7:
            return r.choice(pieces)
        return chr(r.randrange(1, 0xD800) if kind < 0.9 else r.randrange(0xE000, 0x110000))

    return ["".join(piece() for _ in range(r.randrange(1, 30))) for _ in range(count)]


def added_tokens(path):
    """tokenizer_config.json as transformers 4.40 wrote it, with a table of added tokens."""
    config = json.loads((path / "tokenizer_config.json").read_text())
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
    config["added_tokens_decoder"] = {
        str(i): {"content": token, "normalized": i != 0, **plain}
        for i, token in [
            (0, "!"),
            (tiny.VOCAB_SIZE - 2, tiny.START),
            (tiny.VOCAB_SIZE - 1, tiny.END),
        ]
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def old_tokens(path):
    """As SD 1's own files have it: whole AddedToken objects."""
    config = json.loads((path / "tokenizer_config.json").read_text())
    for name in ("bos_token", "eos_token", "unk_token"):
        config[name] = {
            "__type": "AddedToken",
            "content": config[name],
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def as_transformers_saves(path):
    tokenizer = CLIPTokenizer.from_pretrained(path)
    shutil.rmtree(path)
    tokenizer.save_pretrained(path)


LAYOUTS = {
    "transformers 4": lambda path: None,
    "SD 1": old_tokens,
    "added_tokens_decoder": added_tokens,
    "tokenizer.json": as_transformers_saves,
}


@pytest.fixture(params=[tiny.END, "!"], ids=["pads with the end token", "pads with !"])
def pad(request):
    return request.param


def load(folder, **options) -> ClipTokenizer:
    return ClipTokenizer.from_files({p.name: p for p in folder.iterdir()}, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_are_transformers(tmp_path, pad, layout):
    folder = tiny.write_tokenizer(tmp_path / "tokenizer", pad_token=pad)
    LAYOUTS[layout](folder)
    reference = CLIPTokenizer.from_pretrained(folder)
    own = load(folder)
    texts = TEXTS + odd_texts()
    assert [own.encode(t) for t in texts] == reference(texts).input_ids
    call = {"padding": "max_length", "truncation": True}
    for length in (77, 24, 3):
        rows, cut = own(texts, length)
        assert rows == reference(texts, max_length=length, **call).input_ids
        assert [bool(c) for c in cut] == [len(own.encode(t)) > length for t in texts]
    assert (own.bos_id, own.eos_id, own.pad_id) == (
        reference.bos_token_id,
        reference.eos_token_id,
        reference.pad_token_id,
    )
    assert own.size == len(reference)
    assert own.model_max_length == 77


def test_the_pad_token_can_be_another_models(tmp_path):
    folder = tiny.write_tokenizer(tmp_path / "tokenizer")
    own = load(folder, pad_token="!")
    reference = load(tiny.write_tokenizer(tmp_path / "other", pad_token="!"))
    assert own(TEXTS, 77) == reference(TEXTS, 77)


def test_what_is_cut_can_be_read(tmp_path):
    own = load(tiny.write_tokenizer(tmp_path / "tokenizer"))
    rows, cut = own(["a red heart and two cats", "a cat"], 6)
    assert cut == ["two cats", ""]
    assert rows[0][-1] == own.eos_id
    assert len(rows[0]) == len(rows[1]) == 6


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "x" * 100_001])
def test_texts_that_are_none(tmp_path, text):
    own = load(tiny.write_tokenizer(tmp_path / "tokenizer"))
    with pytest.raises(RequestError, match="prompt"):
        own.encode(text)


# --- damaged files --------------------------------------------------------------------------------


def damaged(folder, file, change):
    path = folder / file
    data = json.loads(path.read_text())
    changed = change(data)
    path.write_text(json.dumps(data if changed is None else changed))


def set_key(key, value):
    return lambda data: data.__setitem__(key, value)


JSON_DAMAGE = {
    "vocab is a list": ("vocab.json", lambda d: list(d)),
    "vocab has a huge id": ("vocab.json", set_key("a", 1 << 40)),
    "vocab has a negative id": ("vocab.json", set_key("a", -1)),
    "vocab has a string id": ("vocab.json", set_key("a", "1")),
    "vocab has true for an id": ("vocab.json", set_key("a", True)),
    "vocab has an id twice": ("vocab.json", set_key("a", 1)),
    "vocab lacks the end token": ("vocab.json", lambda d: d.pop(tiny.END) and None),
    "vocab lacks a merge's part": ("vocab.json", lambda d: d.pop("he") and None),
    "max length is a word": ("tokenizer_config.json", set_key("model_max_length", "77")),
    "max length is two": ("tokenizer_config.json", set_key("model_max_length", 2)),
    "pad token is a number": ("special_tokens_map.json", set_key("pad_token", 3)),
    "pad token is empty": ("special_tokens_map.json", set_key("pad_token", "")),
    "a token has a stray flag": (
        "special_tokens_map.json", set_key("pad_token", {"content": "x", "code": "y"})
    ),
    "a flag is no bool": (
        "special_tokens_map.json", set_key("pad_token", {"content": "x", "lstrip": 1})
    ),
    "added tokens are a list": ("tokenizer_config.json", set_key("added_tokens_decoder", [])),
    "an added id is a word": (
        "tokenizer_config.json", set_key("added_tokens_decoder", {"x": {"content": "y"}})
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_DAMAGE)
def test_damaged_json(tmp_path, name):
    folder = tiny.write_tokenizer(tmp_path / "tokenizer")
    file, change = JSON_DAMAGE[name]
    damaged(folder, file, change)
    with pytest.raises(CheckpointError, match=r"tokenizer|vocab"):
        load(folder)


@pytest.mark.parametrize(
    "merges", [b"a b c\n", b"a\n", b"a  b\n", b"\xff\xfe\n", b"zz yy\n", b"a\tb\n"]
)
def test_damaged_merges(tmp_path, merges):
    folder = tiny.write_tokenizer(tmp_path / "tokenizer")
    with open(folder / "merges.txt", "ab") as f:
        f.write(merges)
    with pytest.raises(CheckpointError, match="merge"):
        load(folder)


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(tmp_path, missing):
    folder = tiny.write_tokenizer(tmp_path / "tokenizer")
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        set_key("model", {"type": "Unigram", "vocab": []}),
        set_key("model", None),
        set_key("added_tokens", [3]),
        lambda d: d["model"].__setitem__("vocab", []),
        lambda d: d["model"].__setitem__("merges", {"a": "b"}),
        lambda d: d["model"].__setitem__("merges", [["a"]]),
        lambda d: d["model"].__setitem__("merges", [[1, 2]]),
    ],
)
def test_damaged_tokenizer_json(tmp_path, change):
    folder = tiny.write_tokenizer(tmp_path / "tokenizer")
    as_transformers_saves(folder)
    damaged(folder, "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load(folder)
