"""Textual inversion: every format, the tokens and pictures of diffusers, and the bits of before."""

import json
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_pairs import draw, psnr
from safetensors.torch import save_file
from test_formats import LEAST_PSNR

import pyengine
from pyengine.adapters import open_lora
from pyengine.adapters.textual_inversion import read_file
from pyengine.errors import CheckpointError, RequestError

#: With the published LoRA: cloneofsimo/lora's example_loras/lora_disney as .safetensors.
PUBLISHED = Path(
    os.environ.get(
        "PYENGINE_PUBLISHED", str(Path(__file__).parents[2].parent / "shared/data/published")
    )
)


def vectors(width, count=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (width,) if count is None else (count, width)
    return torch.randn(shape, generator=g)


@pytest.fixture
def sd1(opened):
    one = opened("sd1")
    yield one
    one.own.unload_textual_inversion()


@pytest.fixture
def sdxl(opened):
    one = opened("sdxl")
    yield one
    one.own.unload_textual_inversion()


def width(pipe, part="text_encoder"):
    return getattr(pipe, part).config.hidden_size


def file_of(tmp_path, tensors, name="learned_embeds.safetensors", metadata=None):
    path = tmp_path / name
    save_file(tensors, path, metadata)
    return path


PROMPTS = (
    "a <s1> heart", "a red heart,<s1>.", "(<s1>)", "<s1><s1> red", "a <S1> heart", "red<s1>heart",
    "nothing of it",
)  # fmt: skip


@pytest.mark.parametrize("count", [None, 1, 3])
def test_ids_are_those_of_transformers(sd1, tmp_path, count):
    path = file_of(tmp_path, {"<s1>": vectors(width(sd1.own), count)})
    theirs = sd1.theirs()
    theirs.load_textual_inversion(str(path))
    assert sd1.own.load_textual_inversion(path) == ["<s1>"]
    for prompt in PROMPTS:
        if prompt == "a <S1> heart" and count == 3:
            continue  # diffusers replaces <s1> in the text as it is spelled, and finds none
        told = theirs.maybe_convert_prompt(prompt, theirs.tokenizer)
        assert sd1.own.parts.tokenizers[0].encode(prompt) == theirs.tokenizer(told).input_ids


FORMATS = {
    "token": lambda w: ({"<cat>": vectors(w)}, None),
    "several": lambda w: ({"<cat>": vectors(w, 4)}, None),
    "another name": lambda w: ({"<cat>": vectors(w, 2)}, "<s1>"),
    "emb_params": lambda w: ({"emb_params": vectors(w, 2)}, None),
    "string_to_param": lambda w: ({"string_to_param.*": vectors(w, 3)}, "<s1>"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_are_those_of_diffusers(sd1, tmp_path, kind):
    tensors, token = FORMATS[kind](width(sd1.own))
    path = file_of(tmp_path, tensors, "cat-toy.safetensors")
    (name,) = sd1.own.load_textual_inversion(path, token=token)
    assert name == (token or {"emb_params": "cat-toy"}.get(kind, "<cat>"))
    theirs = sd1.theirs()
    theirs.load_textual_inversion({name: next(iter(tensors.values()))})
    call = {"prompt": f"a red heart, {name}", "negative_prompt": f"{name}, green"}
    got, want = draw(sd1.own, **call), draw(theirs, **call)
    assert psnr(want, got) >= LEAST_PSNR
    sd1.own.unload_textual_inversion(name)
    assert psnr(want, draw(sd1.own, **call)) < 60


def test_clip_l_and_clip_g_are_for_both_encoders(sdxl, tmp_path):
    own = sdxl.own
    tensors = {
        "clip_l": vectors(width(own), 2, 1),
        "clip_g": vectors(width(own, "text_encoder_2"), 2, 2),
    }
    own.load_textual_inversion(file_of(tmp_path, tensors), token="<s1>")
    theirs = sdxl.theirs()
    for key, end in (("clip_l", ""), ("clip_g", "_2")):
        theirs.load_textual_inversion(
            {"<s1>": tensors[key]},
            text_encoder=getattr(theirs, f"text_encoder{end}"),
            tokenizer=getattr(theirs, f"tokenizer{end}"),
        )
    call = {"prompt": "a <s1> heart", "negative_prompt": "<s1>"}
    want = draw(theirs, **call)
    assert psnr(want, draw(own, **call)) >= LEAST_PSNR
    # And by diffusers' two calls, one encoder each.
    own.unload_textual_inversion("<s1>")
    for key, end in (("clip_l", ""), ("clip_g", "_2")):
        own.load_textual_inversion(
            tensors[key],
            token="<s1>",
            text_encoder=getattr(own, f"text_encoder{end}"),
            tokenizer=getattr(own, f"tokenizer{end}"),
        )
    assert psnr(want, draw(own, **call)) >= LEAST_PSNR


def test_a_list_and_a_name_for_each_vector(sd1, tmp_path):
    own, w = sd1.own, width(sd1.own)
    one = file_of(tmp_path, {"<a>": vectors(w)}, "a.safetensors")
    two = file_of(tmp_path, {"emb_params": vectors(w, 2)}, "ink.safetensors")
    assert own.load_textual_inversion([one, str(two)]) == ["<a>", "ink"]
    assert own.load_textual_inversion(vectors(w, 2, 5), token=["<p>", "<q>"]) == ["<p>", "<q>"]
    learnt = own.parts.tokenizers[0].learnt
    assert torch.equal(learnt["<q>"].vectors[0], vectors(w, 2, 5)[1])
    with pytest.raises(RequestError, match="'<a>' is loaded already"):
        own.load_textual_inversion(one)
    with pytest.raises(RequestError, match="tokens: '<x>' is not loaded"):
        own.unload_textual_inversion(["<a>", "<x>"])
    own.unload_textual_inversion(["<a>", "<p>"])
    assert list(learnt) != list(own.parts.tokenizers[0].learnt) == ["ink", "<q>"]
    # The ids are others now, the vectors are not.
    assert own.parts.tokenizers[0].ids("<q>") == [own.parts.tokenizers[0].size + 2]


def test_unloading_leaves_the_bits_of_before(sd1, tmp_path):
    own = sd1.own
    before = draw(own, "a <s1> heart")
    own.load_textual_inversion(file_of(tmp_path, {"<s1>": vectors(width(own), 2)}))
    assert not np.array_equal(before, draw(own, "a <s1> heart"))
    plain = draw(own, "a red heart")
    own.unload_textual_inversion("<s1>")
    assert np.array_equal(before, draw(own, "a <s1> heart"))
    assert np.array_equal(plain, draw(own, "a red heart"))


def test_alone_and_in_a_batch_the_bits_are_the_same(sd1, tmp_path):
    own = sd1.own
    own.load_textual_inversion(file_of(tmp_path, {"<s1>": vectors(width(own), 2)}))
    prompts = ["a <s1> heart", "a red heart", "<s1>"]
    call = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "np"}
    together = own(prompts, seed=[1, 2, 3], **call).images
    for i, prompt in enumerate(prompts):
        assert np.array_equal(own(prompt, seed=i + 1, **call).images[0], together[i])


def test_cloneofsimos_tokens_beside_a_lora(sd1, tmp_path):
    own, w = sd1.own, width(sd1.own)
    tensors = {
        "<s1>": vectors(w),
        "<s2>": vectors(w, None, 1),
        "unet:0:down": torch.zeros(1, 4),
        "unet:0:up": torch.zeros(4, 1),
    }
    told = {"<s1>": "<embed>", "<s2>": "<embed>", "unet": '["CrossAttention"]'}
    path = file_of(tmp_path, tensors, "lora.safetensors", told)
    assert own.load_textual_inversion(path) == ["<s1>", "<s2>"]
    own.unload_textual_inversion()
    assert own.load_textual_inversion(path, token="<s2>") == ["<s2>"]
    assert own.load_textual_inversion(path, token=["<p>", "<q>"]) == ["<p>", "<q>"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_dtypes_draw_nearly_the_same(opened, sd1, tmp_path, dtype):
    path = file_of(tmp_path, {"<s1>": vectors(width(sd1.own), 2)})
    sd1.own.load_textual_inversion(path)
    want = draw(sd1.own, "a <s1> heart")
    other = pyengine.from_pretrained(sd1.folder, device="cpu", dtype=dtype)
    other.load_textual_inversion(path)
    got = draw(other, "a <s1> heart")
    assert psnr(want, got) > 35
    other.to("float32")
    assert np.array_equal(draw(other, "a <s1> heart"), want)


def test_a_published_lora_with_two_tokens():
    path = PUBLISHED / "lora_disney.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not here; PYENGINE_PUBLISHED names its folder")
    with open_lora(path) as file:
        learnt = read_file(file, None, {"text_encoder": 768})
    assert [(one.token, one.vectors["text_encoder"].shape) for one in learnt] == [
        ("<s1>", (1, 768)),
        ("<s2>", (1, 768)),
    ]


def test_a_folder_of_them_and_what_pictures_remember(sd1, tmp_path):
    from pyengine.pipelines.remembered import settings_of

    w = width(sd1.own)
    file_of(tmp_path, {"emb_params": vectors(w)}, "ugly.safetensors")
    file_of(tmp_path, {"<other>": vectors(w + 1)}, "wide.safetensors")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe = pyengine.from_pretrained(sd1.folder, device="cpu", embeddings_dir=tmp_path)
    assert any("left out" in str(w.message) and "'<other>'" in str(w.message) for w in caught)
    call = {"prompt": "a heart", "negative_prompt": "ugly"}
    out = pipe(**call, seed=1, num_inference_steps=1, height=32, width=32)
    settings = settings_of(pipe, call, out, model="x", hashes={})
    ((name, sha256),) = settings.files_of_embeddings
    assert name == "ugly"
    assert f'TI hashes: "ugly: {sha256[:10]}"' in settings.to_a1111()
    again = type(settings).from_dict(json.loads(settings.to_json()))
    assert again.embeddings == settings.embeddings
    pipe.embeddings_dir = None
    assert pipe.parts.tokenizers[0].learnt == {}


REFUSED = {
    "width": (lambda w: {"<s1>": vectors(w + 1)}, r"'<s1>': expected vectors of {w} numbers"
              r" \(text_encoder\), found {more} numbers"),
    "second encoder": (lambda w: {"clip_l": vectors(w), "clip_g": vectors(w)},
                       "'clip_g'.* text_encoder_2"),
    "integers": (lambda w: {"<s1>": torch.ones(w, dtype=torch.int64)}, "'<s1>': expected floats"),
    "dimensions": (lambda w: {"<s1>": torch.zeros(1, 1, w)}, r"'<s1>': .*\[1, 1, {w}\]"),
    "nothing": (lambda w: {"<s1>": torch.zeros(0, w)}, "'<s1>'"),
    "too many": (lambda w: {"<s1>": torch.zeros(257, w)}, "'<s1>': expected at most 256 vectors"),
    "NaN": (lambda w: {"<s1>": torch.full((w,), float("nan"))}, "'<s1>': expected finite"),
    "beside others": (lambda w: {"emb_params": vectors(w), "<s1>": vectors(w)}, "'emb_params'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_files_that_do_not_fit_are_refused(sd1, tmp_path, kind):
    make, message = REFUSED[kind]
    w = width(sd1.own)
    path = file_of(tmp_path, make(w))
    with pytest.raises(CheckpointError, match=message.format(w=w, more=w + 1)):
        sd1.own.load_textual_inversion(path, token="<s1>" if kind == "second encoder" else None)
    assert sd1.own.parts.tokenizers[0].learnt == {}


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "1 to 200"), (" a", "without spaces"), ("a\nb", "printable"), (3, "token"),
     ("b", "in the vocabulary"), ("heart</w>", "in the vocabulary")],
)  # fmt: skip
def test_names_that_cannot_be_tokens_are_refused(sd1, tmp_path, token, message):
    path = file_of(tmp_path, {"<s1>": vectors(width(sd1.own))})
    with pytest.raises(RequestError, match=message):
        sd1.own.load_textual_inversion(path, token=token)


def saved_as(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HOSTILE = {
    "empty": b"",
    "no header": b"\x08",
    "huge header": struct.pack("<Q", 1 << 60) + b"{}",
    "no JSON": saved_as(b"{]"),
    "nothing in it": saved_as({}),
    "beyond the end": saved_as(
        {"<s1>": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}
    ),
    "other bytes": saved_as(
        {"<s1>": {"dtype": "F32", "shape": [32], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "a pickle": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(sd1, tmp_path, kind):
    path = tmp_path / "learned_embeds.safetensors"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(CheckpointError):
        sd1.own.load_textual_inversion(path)
    assert sd1.own.parts.tokenizers[0].learnt == {}


def test_a_folders_files_lie_in_it(sd1, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    file_of(outside, {"emb_params": vectors(width(sd1.own))}, "ink.safetensors")
    (folder / "ink.safetensors").symlink_to(outside / "ink.safetensors")
    with pytest.warns(UserWarning, match="embeddings_dir: left out"):
        sd1.own.embeddings_dir = folder
    assert sd1.own.parts.tokenizers[0].learnt == {}
    sd1.own.embeddings_dir = None


def test_pickles_are_refused_with_how_to_convert_them(sd1, tmp_path):
    path = tmp_path / "learned_embeds.bin"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"safetensors.torch.save_file"):
        sd1.own.load_textual_inversion(path)
    with pytest.raises(CheckpointError, match=r"safetensors.torch.save_file"):
        sd1.own.load_textual_inversion(tmp_path, weight_name="learned_embeds.bin")
