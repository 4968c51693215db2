"""T5's tokenizer against transformers', from spiece.model and tokenizer.json; damage to either."""

import base64
import json
import random
import struct

import pytest
import spiece
from hypothesis import given
from hypothesis import strategies as st

from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.pipelines.sentencepiece import check_charsmap, read_sentencepieces
from pyengine.pipelines.t5_tokenizer import T5Tokenizer

TEXTS = [
    "a photo of the red cat",
    "  unseen   dogs \t and\n cats. ",
    "",
    " ",
    "\u65e5\u672c a \u2603\u2603 q qq caf\u00e9 \ufb01",
    "ABBA sees a CAB. Dd",
    "</s> <extra_id_7> <pad> a<extra_id_99>cat <mark>",
    "x" * 300,
]


def theirs(charsmap: bytes = b""):
    from transformers import T5Tokenizer as Theirs

    scores = [(text, score) for text, score, _ in spiece.PIECES]
    scores += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    made = Theirs(vocab=scores, _spm_precompiled_charsmap=charsmap or None)
    made.add_tokens(["<mark>"])
    return made


@pytest.fixture(scope="module", params=["plain", "mapped"])
def pair(request, tmp_path_factory):
    charsmap = spiece.lowering() if request.param == "mapped" else b""
    folder = spiece.write(tmp_path_factory.mktemp("spiece"), charsmap=charsmap)
    return theirs(charsmap), T5Tokenizer.from_files(spiece.files(folder))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_spiece_model(pair, text):
    want, ours = pair
    assert ours.encode(text) == want(text).input_ids
    assert ours.size == len(spiece.PIECES) + 100


def test_random_texts(pair):
    want, ours = pair
    draw = random.Random(3)
    for _ in range(200):
        text = "".join(draw.choice("aAbBcd eghinopst.\u00e9q \u2581<") for _ in range(30))
        assert ours.encode(text) == want(text).input_ids, text


def test_rows_are_padded_and_cut(pair):
    want, ours = pair
    rows, masks, cut = ours(["a cat", "the dog and the cat of the photo"], 6)
    both = want(
        ["a cat", "the dog and the cat of the photo"],
        padding="max_length",
        max_length=6,
        truncation=True,
    )
    assert rows == both.input_ids
    assert masks == both.attention_mask
    assert cut == ["", "of the photo"]


@pytest.mark.parametrize("charsmap", [b"", spiece.lowering()], ids=["plain", "mapped"])
def test_ids_of_tokenizer_json(charsmap, tmp_path):
    want = theirs(charsmap)
    want.save_pretrained(tmp_path)
    ours = T5Tokenizer.from_files(spiece.files(tmp_path))
    for text in TEXTS:
        assert ours.encode(text) == want(text).input_ids, text


def test_no_end_or_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"^here: expected tokenizer.json or spiece.model"):
        T5Tokenizer.from_files({}, "here")
    pieces = [p for p in spiece.PIECES if p[0] != "</s>"]
    with pytest.raises(ConfigError, match="expected </s> among its tokens"):
        T5Tokenizer.from_files(spiece.files(spiece.write(tmp_path, pieces=pieces)))
    with pytest.raises(RequestError, match="lone surrogate"):
        T5Tokenizer.from_files(spiece.files(spiece.write(tmp_path))).encode("\ud800")


GOOD = spiece.model(charsmap=spiece.lowering())
DAMAGED = {
    "nothing": (b"", "expected one of type UNKNOWN among them, found 0 of 0"),
    "text": (b"#version: 0.2\nlow er", "no protocol buffer|expected .* bytes, found"),
    "cut": (GOOD[:-7], r"expected \d+ bytes, found \d+"),
    "endless number": (b"\xff" * 12, "a number at byte 0 does not end"),
    "field 0": (b"\x02\x00", "field 0"),
    "group": (b"\x0b", "type 3 at byte"),
    "pieces are numbers": (spiece.field(1, 7), "pieces: expected bytes, found a number"),
    "huge field": (b"\x0a" + b"\xff" * 8 + b"\x01", "field 1: expected"),
    "no unknown": (spiece.model([p for p in spiece.PIECES if p[2] != 2]), "found 0 of"),
    "two unknown": (spiece.model([*spiece.PIECES, ("<u>", 0.0, 2)]), "found 2 of"),
    "twice": (spiece.model([*spiece.PIECES, ("a", 0.0, 1)]), "expected no piece twice"),
    "bytes": (spiece.model([*spiece.PIECES, ("<0x00>", 0.0, 6)]), "found BYTE, of a model that"),
    "no such type": (spiece.model([*spiece.PIECES, ("zz", 0.0, 9)]), r"type: expected .* found 9"),
    "no such score": (spiece.model([*spiece.PIECES, ("zz", float("nan"), 1)]), "finite number"),
    "no text": (spiece.model([*spiece.PIECES, ("", 0.0, 1)]), "piece: expected 1 to 4096 bytes"),
    "not utf-8": (spiece.model([*spiece.PIECES, (b"\xc3", 0.0, 1)]), "not UTF-8 at byte 0"),
    "bpe": (spiece.model(trainer=spiece.field(3, 2)), "model_type: expected 1"),
    "falls back": (spiece.model(trainer=spiece.field(35, 1)), "byte_fallback: expected false"),
    "keeps spaces": (spiece.model(spaces=0), "remove_extra_whitespaces: expected true"),
    "map": (spiece.model(charsmap=b"\xff\xff\xff\xff1234"), "expected a trie of 4 to 4 bytes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(name, tmp_path):
    data, message = DAMAGED[name]
    (tmp_path / "spiece.model").write_bytes(data)
    with pytest.raises(ConfigError, match=message) as e:
        T5Tokenizer.from_files(spiece.files(tmp_path))
    assert str(e.value).startswith(str(tmp_path / "spiece.model"))


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_any_byte_may_be_wrong(at, byte, tmp_path_factory):
    data = bytearray(GOOD)
    data[at] = byte
    path = tmp_path_factory.mktemp("byte") / "spiece.model"
    path.write_bytes(data)
    try:
        ids = T5Tokenizer.from_files({"spiece.model": path}).encode("A CAB of cats")
    except ConfigError:
        return
    assert ids[-1] == [piece for piece, _ in read_sentencepieces(path).pieces].index("</s>")


def mapped(change) -> bytes:
    """lowering() with its units (512 of them) changed."""
    data = spiece.lowering()
    units = list(struct.unpack_from("<512I", data, 4))
    change(units)
    return data[:4] + struct.pack("<512I", *units) + data[4 + 2048 :]


def test_maps_that_lead_outside():
    check_charsmap(spiece.lowering(), "map")
    node = 256 ^ ord("A")

    def outside(units):
        units[0] = 512 << 10

    def far(units):
        units[node] |= 1 << 9  # its offset counts 256 times

    def beyond(units):
        units[node ^ 128] = 1 << 31 | 10_000

    for change in (outside, far):
        with pytest.raises(ConfigError, match=r"map: trie: expected units that lead to 0 to 511"):
            check_charsmap(mapped(change), "map")
    with pytest.raises(ConfigError, match="map: trie: expected values that begin a character"):
        check_charsmap(mapped(beyond), "map")
    with pytest.raises(ConfigError, match="map: texts: not UTF-8 at byte 0"):
        check_charsmap(spiece.lowering()[: 4 + 2048] + b"\xff\0", "map")

    def within_a_character(units):
        units[node ^ 128] = 1 << 31 | 1

    data = mapped(within_a_character)[: 4 + 2048] + "\u00e9".encode() * 6
    with pytest.raises(ConfigError, match="begin a character of 12 bytes"):
        check_charsmap(data, "map")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["model"].update(type="BPE"), "model: expected a Unigram model, found 'BPE'"),
        (lambda d: d.update(model=3), "expected a Unigram model, found 3"),
        (lambda d: d["model"].update(vocab={}), "model.vocab: expected a list of 1 to"),
        (lambda d: d["model"]["vocab"].append(["zz"]), r"model.vocab\[\d+\]: expected a piece"),
        (lambda d: d["model"]["vocab"].append(["zz", "1"]), "expected a piece and its score"),
        (lambda d: d["model"].update(unk_id=10**6), "model.unk_id: expected 0 to"),
        (lambda d: d["model"].update(unk_id=None), "model.unk_id: expected 0 to"),
        (lambda d: d.update(pre_tokenizer={"type": "Nothing"}), "cannot be used"),
        (
            lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "$"}),
            "normalizer.precompiled_charsmap: expected base64",
        ),
        (
            lambda d: d.update(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [
                        {
                            "type": "Precompiled",
                            "precompiled_charsmap": base64.b64encode(b"\4\0\0\0" * 2).decode(),
                        }
                    ],
                }
            ),
            r"normalizers\[0\].precompiled_charsmap: trie",
        ),
    ],
)
def test_damaged_tokenizer_json(change, message, tmp_path):
    theirs().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message):
        T5Tokenizer.from_files(spiece.files(tmp_path))


@pytest.mark.parametrize("count", [-1, "100", True, 10**9])
def test_a_wrong_number_of_sentinels(count, tmp_path):
    spiece.write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": count}))
    with pytest.raises(ConfigError, match="extra_ids: expected 0 to 10000"):
        T5Tokenizer.from_files(spiece.files(tmp_path), "here")
