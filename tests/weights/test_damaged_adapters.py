"""Files of LoRAs, ControlNets, adapters and learnt tokens that lie about themselves are refused: by
our own errors, that name the file's tensor or field, within a second, without taking memory.
"""

import functools
import json
import time

import control_networks
import image_prompt_files
import pytest
import tiny
import torch
from damage import read_raw, write_raw
from safetensors.torch import load_file, save_file
from test_damaged import MEMORY, SECONDS, peak_memory

import pyengine
from pyengine.errors import CheckpointError, ConfigError

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
KINDS = ("kohya", "peft", "loha", "lokr", "full", "controlnet", "t2i", "ip", "token")
LORAS = KINDS[:5]


def lora_of(kind, unet):
    """A LoRA of one layer of 32 to 32."""
    kohya = {"lora_down.weight": (4, 32), "lora_up.weight": (32, 4), "alpha": ()}
    leaves = {
        "kohya": kohya,
        "loha": {
            "hada_w1_a": (32, 2),
            "hada_w1_b": (2, 32),
            "hada_w2_a": (32, 2),
            "hada_w2_b": (2, 32),
            "alpha": (),
        },
        "lokr": {"lokr_w1": (4, 4), "lokr_w2": (8, 8), "alpha": ()},
        "full": {"diff": (32, 32)},
    }
    if kind == "peft":
        layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        return {
            f"{layer}.lora_A.weight": torch.ones(4, 32),
            f"{layer}.lora_B.weight": torch.ones(32, 4),
        }
    return {f"{Q}.{leaf}": torch.ones(shape) for leaf, shape in leaves[kind].items()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(the pipeline, its folder, {kind: a sound file's tensors})."""
    from diffusers import UNet2DConditionModel

    folder = tiny.write_sd1(tmp_path_factory.mktemp("hostile") / "sd")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    width = unet.config.cross_attention_dim
    made = {kind: lora_of(kind, unet) for kind in LORAS}
    made["controlnet"] = control_networks.original_names(control_networks.make_controlnet(unet))
    made["t2i"] = control_networks.make_adapter().state_dict()
    made["ip"] = image_prompt_files.tensors_of("base", unet)
    made["token"] = {"<cat>": torch.ones(width)}
    tensors = {k: {n: t.contiguous() for n, t in own.items()} for k, own in made.items()}
    return pyengine.from_pretrained(folder, device="cpu"), folder, tensors


def load(opened, kind, file):
    pipe = opened[0]
    if kind in ("controlnet", "t2i"):
        from pyengine.adapters.controlnet import load_controlnet
        from pyengine.adapters.t2i import load_t2i_adapter

        device, dtype = pipe.unet.device, pipe.unet.dtype
        if kind == "t2i":
            return load_t2i_adapter(file, device, dtype)
        return load_controlnet(file, pipe.unet.config, device, dtype)
    if kind == "ip":
        return pipe.load_ip_adapter(file, image_encoder_folder=None)
    if kind == "token":
        return pipe.load_textual_inversion(file)
    return pipe.load_lora(file)


def on_header(change):
    """A damage of the header's JSON: change(header, name of the file's first matrix)."""

    def damage(file):
        header, data = read_raw(file)
        names = [n for n in header if n != "__metadata__"]
        change(header, next((n for n in names if len(header[n]["shape"]) > 1), names[0]))
        write_raw(file, header, data)

    return damage


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def header_of_an_exabyte(file):
    file.write_bytes((1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])


def named_twice(file):
    header, data = read_raw(file)
    text, name = json.dumps(header), next(n for n in header if n != "__metadata__")
    again = f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[name])}}}"
    write_raw(file, again.encode(), data)


@on_header
def absurd(header, name):
    header[name]["shape"] = [1 << 40, 1 << 40]


@on_header
def of_terabytes_that_are_not_there(header, name):
    header[name]["shape"] = [1 << 20, 1 << 20]
    header[name]["data_offsets"] = [0, 1 << 42]


@on_header
def negative(header, name):
    header[name]["shape"] = [-1, *header[name]["shape"][1:]]


@on_header
def of_no_dtype(header, name):
    header[name]["dtype"] = "F33"


@on_header
def overlapping(header, name):
    size = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
    header["another"] = {**header[name], "data_offsets": [0, size]}
    header["and another"] = {**header[name], "data_offsets": [0, size]}


@on_header
def metadata_of_numbers(header, name):
    header["__metadata__"] = {"format": 1}


@on_header
def metadata_of_lists(header, name):
    header["__metadata__"] = {"format": ["pt"]}


@on_header
def metadata_that_is_a_text(header, name):
    header["__metadata__"] = "pt"


def on_tensors(change, file):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def matrix(tensors):
    return next((n for n, t in tensors.items() if t.ndim > 1), next(iter(tensors)))


def integers(tensors):
    tensors[matrix(tensors)] = tensors[matrix(tensors)].to(torch.int64)


def complex_numbers(tensors):
    tensors[matrix(tensors)] = tensors[matrix(tensors)].to(torch.complex64)


def empty(tensors):
    tensors[matrix(tensors)] = torch.ones(0, 32)


def of_five_dimensions(tensors):
    tensors[matrix(tensors)] = torch.ones(1, 1, 1, 1, 32)


FILES = (
    cut,
    header_of_an_exabyte,
    named_twice,
    absurd,
    of_terabytes_that_are_not_there,
    negative,
    of_no_dtype,
    overlapping,
    metadata_of_numbers,
    metadata_of_lists,
    metadata_that_is_a_text,
)
TENSORS = (integers, complex_numbers, empty, of_five_dimensions)
DAMAGES = {f.__name__: f for f in FILES} | {
    f.__name__: functools.partial(on_tensors, f) for f in TENSORS
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_sound_files_load(opened, tmp_path, kind):
    save_file(opened[2][kind], tmp_path / "sound.safetensors")
    load(opened, kind, tmp_path / "sound.safetensors")
    opened[0].unload_lora_weights()
    opened[0].unload_textual_inversion()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(opened, tmp_path, kind, damage):
    file = tmp_path / "bad.safetensors"
    save_file(opened[2][kind], file)
    DAMAGES[damage](file)
    before = peak_memory(reset=True)
    began = time.process_time()
    with pytest.raises((CheckpointError, ConfigError)) as raised:
        load(opened, kind, file)
    assert time.process_time() - began < SECONDS
    assert peak_memory() - before < MEMORY
    named = ["bad.safetensors", *opened[2][kind]]
    assert any(name in str(raised.value) for name in named)
    assert opened[0]._loras.loaded == {}


@pytest.mark.parametrize("kind", ["kohya", "loha", "lokr"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_alphas_that_are_no_numbers(opened, tmp_path, kind, value):
    file = tmp_path / "bad.safetensors"
    save_file(opened[2][kind] | {f"{Q}.alpha": torch.tensor(value)}, file)
    with pytest.raises(CheckpointError, match="alpha': expected finite"):
        opened[0].load_lora(file)


@pytest.mark.parametrize("kind", LORAS)
def test_numbers_that_are_none(opened, tmp_path, kind):
    tensors = dict(opened[2][kind])
    name = matrix(tensors)
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=f"{name}': expected finite"):
        opened[0].load_lora(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "token"])
@pytest.mark.parametrize("name", ["../../unet", "/etc/passwd", "a\x00b", "\x1b[2J"])
def test_names_that_lead_elsewhere_are_only_names(opened, tmp_path, kind, name):
    """Refused as a tensor of no such network; what is said holds no control characters."""
    save_file(opened[2][kind] | {name: torch.ones(2)}, tmp_path / "bad.safetensors")
    with pytest.raises((CheckpointError, ConfigError)) as raised:
        load(opened, kind, tmp_path / "bad.safetensors")
    said = str(raised.value)
    assert "\x1b" not in said
    assert "\x00" not in said
    assert ("unet" if "unet" in name else name[:1] if name[0] == "a" else "") in said


@pytest.mark.parametrize("rank", [4097, 1 << 16])
def test_ranks_beyond_all_layers(opened, tmp_path, rank):
    """A rank above a layer's width is what some trainers write for thin layers; one above 4096 is
    refused before it is read.
    """
    made = {
        f"{Q}.lora_down.weight": torch.ones(rank, 32),
        f"{Q}.lora_up.weight": torch.ones(32, rank),
    }
    save_file(made, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=r"lora_(down|up).weight': expected a rank from 1"):
        opened[0].load_lora(tmp_path / "bad.safetensors")
