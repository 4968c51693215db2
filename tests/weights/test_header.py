"""The safetensors reader against the library's own, and against random damage."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pyengine.errors import CheckpointError
from pyengine.weights import TensorSource, load_module, open_weights
from pyengine.weights.header import ITEM_SIZES, STORED_SIZES, SafetensorsFile
from pyengine.weights.source import STORED_DTYPES, TORCH_DTYPES

QUICK = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


PIECES = (
    b"",
    b"-1",
    b"1e3",
    b"[]",
    b"{}",
    b'"',
    b"9" * 18,
    b"0",
    b",",
    b'"F64"',
    b"null",
    b"\xff",
    b"\\ud800",
)
NUMBERS = st.one_of(
    st.integers(0, 9), st.sampled_from([-1, 2**31, 2**63, 2**64, 1.5, True, None, "1"])
)


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    save_file(net().state_dict(), path, {"format": "pt"})
    return path.read_bytes()


def test_item_sizes_are_torchs():
    assert {k: v.itemsize for k, v in TORCH_DTYPES.items()} == ITEM_SIZES
    assert {k: v.itemsize for k, v in STORED_DTYPES.items()} == STORED_SIZES


@pytest.mark.parametrize("dtype", STORED_DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (2, 3, 4)])
def test_reads_types_that_torch_only_stores(dtype, shape, tmp_path):
    torch.manual_seed(1)
    a = torch.randint(0, 100, shape).to(dtype)
    save_file({"a": a, "odd": torch.ones(3, dtype=torch.uint8)}, tmp_path / "x.safetensors")
    with TensorSource([SafetensorsFile(tmp_path / "x.safetensors")], "x") as source:
        assert source.spec("a") == (dtype, shape)
        read = source.read("a")
        assert read.dtype == dtype
        assert read.tolist() == a.tolist()


@pytest.mark.parametrize("dtype", TORCH_DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (2, 3, 4)])
def test_reads_what_the_library_writes(dtype, shape, tmp_path):
    torch.manual_seed(1)
    a = (10 * torch.randn(shape)).to(dtype)
    b = torch.arange(7, dtype=torch.uint8)  # leaves the next one at an odd offset
    save_file(
        {"b": b, "a": a, "c": a + a if dtype != torch.bool else ~a}, tmp_path / "x.safetensors"
    )
    source = TensorSource([SafetensorsFile(tmp_path / "x.safetensors")], "x")
    want = load_file(tmp_path / "x.safetensors")
    assert source.keys() == sorted(want)
    for name, tensor in want.items():
        assert source.spec(name) == (tensor.dtype, tuple(tensor.shape))
        read = source.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
    source.close()


def test_what_is_read_owns_its_memory(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(4)}, path)
    with open_weights(tmp_path) as source:
        a = source.read("a")
        a.add_(1)
        assert torch.equal(source.read("a"), torch.ones(4))
    path.write_bytes(b"")
    assert torch.equal(a, torch.full((4,), 2.0))


def test_a_file_that_shrinks_while_open_is_an_error_and_no_crash(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100_000)}, path)
    source = open_weights(tmp_path)
    with open(path, "r+b") as f:
        f.truncate(1000)
    with pytest.raises(CheckpointError, match=r"'a': ends at byte 1000, expected 39\d+ more"):
        source.read("a")


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def compare_with_library(path, data: bytes) -> None:
    """Whatever we accept, the library accepts too and reads alike; else we raise our own error."""
    path.write_bytes(data)
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    source = TensorSource([file], "x")
    with safe_open(path, "pt") as library:
        assert sorted(library.keys()) == source.keys()
        for name in source:
            read = library.get_tensor(name)
            ours = source.read(name)
            assert ours.dtype == read.dtype
            assert ours.shape == read.shape
            assert ours.numpy(force=True).tobytes() if ours.dtype != torch.bfloat16 else True
            assert torch.equal(
                ours.reshape(-1).view(torch.uint8), read.reshape(-1).view(torch.uint8)
            )
    source.close()


@QUICK
@given(data=st.data())
def test_flipped_bytes(data, good, tmp_path):
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    compare_with_library(tmp_path / "x.safetensors", bytes(damaged))


@QUICK
@given(data=st.data())
def test_edited_headers(data, good, tmp_path):
    """Pieces of the header cut out, doubled or replaced, with its length kept right."""
    (n,) = struct.unpack("<Q", good[:8])
    header, body = good[8 : 8 + n], good[8 + n :]
    begin = data.draw(st.integers(0, n))
    end = data.draw(st.integers(begin, min(n, begin + 40)))
    piece = data.draw(st.sampled_from([*PIECES, header[begin:end] * 2]))
    header = header[:begin] + piece + header[end:]
    compare_with_library(tmp_path / "x.safetensors", struct.pack("<Q", len(header)) + header + body)


@QUICK
@given(data=st.data())
def test_invented_headers(data, tmp_path):
    entry = st.fixed_dictionaries({
        "dtype": st.sampled_from(["F32", "U8", "BF16", "F8_E4M3", "f32", "", 4]),
        "shape": st.one_of(st.lists(NUMBERS, max_size=3), NUMBERS),
        "data_offsets": st.one_of(st.lists(NUMBERS, min_size=2, max_size=2), NUMBERS),
    })  # fmt: skip
    table = data.draw(st.dictionaries(st.text(max_size=3), st.one_of(entry, NUMBERS), max_size=3))
    header = json.dumps(table).encode()
    body = data.draw(st.binary(max_size=40))
    compare_with_library(tmp_path / "x.safetensors", struct.pack("<Q", len(header)) + header + body)


@QUICK
@given(data=st.binary(max_size=300))
def test_noise(data, tmp_path):
    compare_with_library(tmp_path / "x.safetensors", data)


@QUICK
@given(cut=st.integers(0, 400), data=st.data())
def test_damage_while_loading_a_module(cut, data, good, tmp_path):
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good[: len(good) - cut] if data.draw(st.booleans()) else good)
    if at < len(damaged):
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "model.safetensors").write_bytes(damaged)
    with torch.device("meta"):
        module = net()
    try:
        with open_weights(tmp_path) as source:
            load_module(module, source)
    except CheckpointError:
        return
    assert not any(p.is_meta for p in module.parameters())


def test_the_library_refuses_what_we_call_damaged(good, tmp_path):
    """A reminder that the comparison above is with a reader that refuses things as well."""
    (tmp_path / "x.safetensors").write_bytes(good[:-1])
    with pytest.raises(SafetensorError), safe_open(tmp_path / "x.safetensors", "pt"):
        pass
