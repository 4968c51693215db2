"""Diffusers folders: whole, sharded, variants, half precision; and loading into modules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from whole import CLASSES, load, load_parts

from pyengine import layers
from pyengine.errors import CheckpointError
from pyengine.models.blocks import clip, transformer
from pyengine.weights import TensorSource, load_module, open_weights, resolve

MODELS = ("unet", "vae", "text_encoder")
FUSED = (transformer.SelfAttention, transformer.CrossAttention, clip._Attention)


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model's folder, through the safetensors library."""
    return {n: t for f in folder.glob("*.safetensors") for n, t in load_file(f).items()}


def same(state: dict, want: dict, dtype=None) -> bool:
    want = {n.removeprefix("text_model."): t for n, t in want.items()}
    state = {n.removeprefix("text_model."): t for n, t in state.items()}
    return state.keys() == want.keys() and all(
        torch.equal(state[n], want[n].to(dtype or want[n].dtype)) for n in want
    )


as_loaded = pytest.mark.usefixtures("unpacked")


@pytest.fixture
def unpacked(monkeypatch):
    """Weights as loaded, before the layers arrange them for their ops."""
    for layer in (layers.Linear, layers.Conv2d, *FUSED):
        monkeypatch.setattr(layer, "pack", lambda self: None)


@as_loaded
@pytest.mark.parametrize("shape", ["whole", "sharded"])
@pytest.mark.parametrize("variant", [None, "fp16", "ema"])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
def test_round_trip(shape, variant, dtype, tmp_path):
    options = {"variant": variant, "dtype": dtype}
    if shape == "sharded":
        options["max_shard_size"] = "100KB"
    folder = tiny.write_sd1(tmp_path / "c", **options)
    if shape == "sharded":
        assert len(list((folder / "unet").glob("*.safetensors"))) > 2
    parts = load(folder, variant=variant)
    for name in MODELS:
        assert same(parts[name].state_dict(), saved(folder / name)), name
        assert {p.dtype for p in parts[name].parameters()} == {dtype or torch.float32}
        assert not any(p.requires_grad for p in parts[name].parameters())


@as_loaded
@pytest.mark.parametrize("write", [tiny.write_sd2, tiny.write_sdxl], ids=["sd2", "sdxl"])
def test_other_families(write, tmp_path):
    folder = write(tmp_path / "c")
    parts = load(folder)
    for name in set(parts) & set(CLASSES):
        assert same(parts[name].state_dict(), saved(folder / name)), name


@as_loaded
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtype_is_converted(stored, wanted, sd1, tmp_path):
    shutil.copytree(sd1 / "unet", tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({n: t.to(stored) for n, t in load_file(file).items()}, file)
    unet = CLASSES["unet"].from_pretrained(tmp_path, subfolder="unet", dtype=wanted)
    assert unet.dtype == wanted
    state = unet.state_dict()
    if wanted == torch.float32:  # a weight that its layer widens stays as it was stored
        assert {n for n, t in state.items() if t.dtype != wanted} == (
            {n for n, t in state.items() if t.dim() > 1} if stored != wanted else set()
        )
    else:
        assert {t.dtype for t in state.values()} == {wanted}
    state = {n: t.to(wanted) for n, t in state.items()}
    assert same(state, saved(tmp_path / "unet"), wanted)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_weights_that_stay_narrow_make_no_difference(stored, sd1, tmp_path):
    shutil.copytree(sd1 / "unet", tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({n: t.to(stored) for n, t in load_file(file).items()}, file)
    narrow = CLASSES["unet"].from_pretrained(tmp_path, subfolder="unet")
    wide = CLASSES["unet"].from_config(narrow.config)
    load_module(
        wide, open_weights(tmp_path, subfolder="unet"), dtype=torch.float32, keep_narrow=False
    )
    sizes = [sum(p.nbytes for p in m.parameters()) for m in (narrow, wide)]
    assert sizes[0] < 0.55 * sizes[1]
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, narrow.config.cross_attention_dim)
    results = [m(x, 500, text).sample for m in (narrow, wide)]
    assert torch.equal(*results)
    assert results[0].dtype == torch.float32


def test_every_layer_is_packed_when_its_last_tensor_comes(sd1, monkeypatch):
    """Innermost first, and before the next layer is read, so that the peak is one layer's."""
    unpacked = []
    order = []
    read = TensorSource.read

    def counted(self, name, dtype=None, into=None):
        order.append(name)
        begun = {n.rpartition(".")[0] for n in order}
        left = {path for path, m in unet.named_modules() if not getattr(m, "packed", True)}
        unpacked.append(len(begun & left))
        return read(self, name, dtype, into)

    monkeypatch.setattr(TensorSource, "read", counted)
    with open_weights(sd1, subfolder="unet") as source:
        config = CLASSES["unet"].config_class.from_dict(resolve(sd1).config("unet"))
        unet = CLASSES["unet"].from_config(config)
        load_module(unet, source)
    assert len(order) > 100
    assert max(unpacked) <= 1
    assert not [path for path, m in unet.named_modules() if not getattr(m, "packed", True)]
    assert all(m.to_qkv is not None for m in unet.modules() if isinstance(m, FUSED[0]))


def test_double_precision_becomes_single(tmp_path):
    tensors = {"weight": torch.randn(2, 3).double(), "bias": torch.zeros(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    with torch.device("meta"):
        module = torch.nn.Linear(3, 2)
    load_module(module, open_weights(tmp_path))
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, tensors["weight"].float())


def test_a_part_without_the_variant_gives_its_plain_weights(sd1, tmp_path):
    folder = tiny.write_sd1(tmp_path / "c", variant="fp16", dtype=torch.float16)
    plain = sd1 / "vae" / "diffusion_pytorch_model.safetensors"
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    shutil.copy(plain, folder / "vae" / plain.name)
    parts = load(folder, variant="fp16")
    assert parts["vae"].dtype == torch.float32
    assert parts["unet"].dtype == torch.float16
    with pytest.raises(CheckpointError, match="there are weights for variant='fp16'"):
        load(folder)


def test_plain_and_variant_side_by_side(sd1, tmp_path):
    folder = Path(shutil.copytree(sd1, tmp_path / "c"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    half = {n: t.half() for n, t in load_file(file).items()}
    save_file(half, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert load(folder)["unet"].dtype == torch.float32
    assert load(folder, variant="fp16")["unet"].dtype == torch.float16


@as_loaded
def test_old_names_of_the_autoencoders_attention(sd1, tmp_path):
    """SD 1.5's own folder has them."""
    folder = Path(shutil.copytree(sd1, tmp_path / "c"))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(file).items():
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        tensors[name] = tensor
    assert sum(".query." in n or ".proj_attn." in n for n in tensors) == 8
    save_file(tensors, file)
    assert same(load(folder)["vae"].state_dict(), saved(sd1 / "vae"))


@as_loaded
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoder_with_and_without_its_prefix(prefix, sd1, tmp_path):
    """transformers 4 saves `text_model.` before every name, newer ones may not."""
    folder = Path(shutil.copytree(sd1, tmp_path / "c"))
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {prefix + n.removeprefix("text_model."): t for n, t in load_file(file).items()}
    tensors[prefix + "embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, file)
    assert same(load(folder)["text_encoder"].state_dict(), saved(sd1 / "text_encoder"))


def test_two_names_for_one_tensor_are_refused(sd1, tmp_path):
    folder = Path(shutil.copytree(sd1, tmp_path / "c"))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    old = "decoder.mid_block.attentions.0.query.bias"
    tensors[old] = tensors["decoder.mid_block.attentions.0.to_q.bias"].clone()
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"query\.bias' and .*to_q\.bias' are both"):
        load(folder)


def test_harmless_tensors_may_be_left_over(tmp_path):
    save_file(
        {
            "weight": torch.ones(2, 3),
            "bias": torch.zeros(2),
            "model_ema.weight": torch.ones(1),
            "mine.scale": torch.ones(1),
        },
        tmp_path / "model.safetensors",
    )

    def module():
        with torch.device("meta"):
            return torch.nn.Linear(3, 2)

    with pytest.raises(CheckpointError, match=r"1 extra: 'mine.scale'$"):
        load_module(module(), open_weights(tmp_path))
    load_module(module(), open_weights(tmp_path), harmless=("mine.*",))
    named = module()
    named.harmless_extra = ("mine.*",)
    load_module(named, open_weights(tmp_path))


@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 3])
def test_pieces_are_converted_as_the_whole(size, wanted, tmp_path):
    tensor = torch.randn(size).half()
    save_file({"a": tensor.reshape(1, size)}, tmp_path / "model.safetensors")
    with open_weights(tmp_path) as source:
        assert torch.equal(source.read("a", wanted), tensor.reshape(1, size).to(wanted))


def test_rename_pack_and_device(tmp_path):
    save_file({"w": torch.ones(2, 3), "b": torch.zeros(2)}, tmp_path / "model.safetensors")

    class Packed(torch.nn.Linear):
        packed = 0

        def pack(self):
            assert not self.weight.is_meta
            self.packed += 1

    with torch.device("meta"):
        module = Packed(3, 2)
    names = {"w": "weight", "b": "bias"}
    assert load_module(module, open_weights(tmp_path), rename=names.get, device="cpu") is module
    assert module.packed == 1


def test_a_module_larger_than_the_machine_is_refused(tmp_path):
    """Sizes that agree with the config, in a sparse file."""
    side = 1 << 20
    header = {"weight": {"dtype": "F32", "shape": [side, side], "data_offsets": [0, 4 * side**2]}}
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    try:
        with open(path, "r+b") as f:
            f.truncate(8 + len(text) + 4 * side**2)
    except OSError:
        pytest.skip("this file system has no sparse files of 4 TB")
    with torch.device("meta"):
        module = torch.nn.Linear(side, side, bias=False)
    with pytest.raises(CheckpointError, match=r"takes 4398\.0 GB, this machine has"):
        load_module(module, open_weights(tmp_path))


MEASURE = """
import re, sys, torch
from pathlib import Path
from pyengine.weights import load_module, open_weights
def memory(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
with torch.device("meta"):
    layers = [torch.nn.Linear(2048, 2048, bias=False) for _ in range(16)]
before = memory("VmHWM")
load_module(torch.nn.Sequential(*layers), open_weights(sys.argv[1]), dtype=torch.float32)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_peak_memory_is_the_modules(tmp_path):
    """256 MB of float32 from 128 MB of half precision, which never are in memory as well."""
    tensors = {f"{i}.weight": torch.ones(2048, 2048, dtype=torch.float16) for i in range(16)}
    save_file(tensors, tmp_path / "model.safetensors")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 256 << 20 <= int(run.stdout) < (256 + 64) << 20


def test_model_hash(sd1, tmp_path):
    """The same for the whole file, its shards, and after other configs; not for other weights."""
    digest = resolve(sd1).model_hash
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert resolve(sd1).model_hash == digest
    assert resolve(tiny.write_sd1(tmp_path / "s", max_shard_size="100KB")).model_hash == digest
    assert resolve(tiny.write_sd1(tmp_path / "h", dtype=torch.float16)).model_hash != digest
    folder = Path(shutil.copytree(sd1, tmp_path / "c"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert resolve(folder).model_hash != digest


def test_model_hash_of_a_large_model_samples_each_tensor(tmp_path, monkeypatch):
    from pyengine.weights import digest

    monkeypatch.setattr(digest, "FULL_BYTES", 1000)
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(10_000), "b": torch.zeros(10_000)}, path)
    start = path.read_bytes()
    begin = len(start) - 80_000

    def after_flipping(offset):
        data = bytearray(start)
        data[begin + offset] ^= 1
        path.write_bytes(data)
        with open_weights(tmp_path) as source:
            return digest.model_hash({"unet": source})

    path.write_bytes(start)
    with open_weights(tmp_path) as source:
        good = digest.model_hash({"unet": source})
    for seen in (0, 4095, 40_000 - 4096, 39_999, 40_000, 79_999):
        assert after_flipping(seen) != good, seen
    assert after_flipping(20_000) == good  # as documented: the middle of a tensor is not read


def test_parts_and_options(sd1):
    checkpoint = resolve(sd1)
    assert checkpoint.pipeline_class == "StableDiffusionPipeline"
    assert set(checkpoint.components) == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert checkpoint.options == {"requires_safety_checker": False}
    assert set(checkpoint.tokenizer_files("tokenizer")) == {
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
    assert checkpoint.tokenizer_pad("tokenizer") is None
    with pytest.raises(CheckpointError, match="no 'text_encoder_2'; it has"):
        checkpoint.component("text_encoder_2")
    with pytest.raises(CheckpointError, match="no 'tokenizer'"):
        checkpoint.tensors("tokenizer")


def test_a_folder_reached_through_a_link(sd1, tmp_path):
    (tmp_path / "link").symlink_to(sd1)
    load(tmp_path / "link")


def test_nothing_of_the_checkpoint_is_imported(sd1, tmp_path):
    folder = Path(shutil.copytree(sd1, tmp_path / "c"))
    for name in ("model_index.py", "pipeline.py", "unet/unet.py", "__init__.py", "json.py"):
        (folder / name).write_text("raise SystemExit('ran')")
    assert load_parts(resolve(folder))
