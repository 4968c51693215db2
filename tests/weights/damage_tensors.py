"""Damaged weights: sound files with the wrong tensors, or wrong shards; see damage.py."""

from __future__ import annotations

import os

import torch
from damage import SHARDS, UNET, case, edit_header, edit_json, edit_tensors, replace
from safetensors.torch import load_file, save_file

# --- the tensors ----------------------------------------------------------------------------------


@case("1 missing: 'conv_in.bias'$")
def tensor_missing(folder):
    edit_tensors(folder, lambda t: t.pop("conv_in.bias"))


@case("3 missing: .*'conv_in.bias'.*; 1 misshapen: 'conv_out.bias' is .5., expected .4.; 1 extra")
def tensors_wrong_in_every_way(folder):
    def change(tensors):
        del tensors["conv_in.bias"], tensors["conv_in.weight"]
        tensors["more"] = tensors.pop("conv_norm_out.bias")
        tensors["conv_out.bias"] = torch.zeros(5)

    edit_tensors(folder, change)


@case(r"'time_embedding.linear_1.weight' is \[64, 16\]|is \[16, 64\], expected \[64, 16\]")
def tensor_transposed(folder):
    name = "time_embedding.linear_1.weight"
    edit_tensors(folder, lambda t: t.update({name: t[name].T.contiguous()}))


@case(r"'conv_in.bias' is torch.int64, expected torch.float32")
def tensor_of_integers(folder):
    edit_tensors(folder, lambda t: t.update({"conv_in.bias": torch.arange(16)}))


@case("'conv_in.bias' is torch.complex64, expected torch.float32")
def tensor_of_complex_numbers(folder):
    edit_tensors(folder, lambda t: t.update({"conv_in.bias": torch.ones(16).to(torch.complex64)}))


@case("'conv_in.bias' is torch.uint64, expected torch.float32")
def tensor_of_unsigned_integers(folder):
    edit_tensors(folder, lambda t: t.update({"conv_in.bias": torch.ones(16).to(torch.uint64)}))


@case("'conv_in.bias' is torch.bool, expected")
def tensor_of_bools(folder):
    edit_tensors(folder, lambda t: t.update({"conv_in.bias": torch.ones(16).bool()}))


def beside_a_weight(tensors, name, value):
    """Puts a companion of 8-bit weights beside one, whose row count is not 3."""
    stem = "mid_block.resnets.0.time_emb_proj."
    tensors[stem + "weight"] = tensors[stem + "weight"].to(torch.float8_e4m3fn)
    tensors[stem + name] = value


@case(r"weight_scale' is torch.float32 .3., expected one floating-point number or")
def scale_of_blocks(folder):
    edit_tensors(folder, lambda t: beside_a_weight(t, "weight_scale", torch.ones(3)))


@case("scale_weight': expected finite scales")
def scale_of_infinity(folder):
    edit_tensors(folder, lambda t: beside_a_weight(t, "scale_weight", torch.tensor(float("inf"))))


@case("comfy_quant': format 'mxfp8', expected float8_e4m3fn, float8_e5m2")
def format_of_blocks(folder):
    said = torch.tensor(list(b'{"format": "mxfp8"}'), dtype=torch.uint8)
    edit_tensors(folder, lambda t: beside_a_weight(t, "comfy_quant", said))


@case("comfy_quant': nested more than 32 levels")
def format_nested_deeply(folder):
    said = torch.tensor(list(b'{"a":' + b"[" * 2000), dtype=torch.uint8)
    edit_tensors(folder, lambda t: beside_a_weight(t, "comfy_quant", said))


@case("comfy_quant' is torch.uint8 .100000000., expected at most 4096 bytes")
def format_of_100_megabytes(folder):
    def change(header):
        end = max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
        name = "mid_block.resnets.0.time_emb_proj.comfy_quant"
        header[name] = {"dtype": "U8", "shape": [10**8], "data_offsets": [end, end + 10**8]}

    edit_header(folder, change)
    os.truncate(folder / UNET, (folder / UNET).stat().st_size + 10**8)


@case("1 extra: 'adapter.weight'$")
def tensor_extra(folder):
    edit_tensors(folder, lambda t: t.update({"adapter.weight": torch.zeros(2)}))


@case("3000 extra: .* and 2980 more$")
def tensors_extra_by_thousands(folder):
    edit_tensors(folder, lambda t: t.update({f"x{i}": torch.zeros(1) for i in range(3000)}))


@case(r"1 extra: '.x1b\[2Jgone'$")
def tensor_named_with_terminal_escapes(folder):
    edit_tensors(folder, lambda t: t.update({"\x1b[2Jgone": torch.zeros(2)}))


@case("misshapen: 'conv_in.weight' is .16384, 16384, 100.")
def tensor_of_100_gigabytes(folder):
    def change(header):
        begin = max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
        size = 4 * 16384 * 16384 * 100
        old = header["conv_in.weight"]
        header["old"] = dict(old)
        old.update(shape=[16384, 16384, 100], data_offsets=[begin, begin + size])

    edit_header(folder, change)
    os.truncate(folder / UNET, (folder / UNET).stat().st_size + 4 * 16384 * 16384 * 100)


@case("vae.*misshapen|vae.*missing")
def weights_of_another_part(folder):
    replace(folder / "vae/diffusion_pytorch_model.safetensors", (folder / UNET).read_bytes())


@case("1 missing: '[a-z_.]*final_layer_norm.weight'", base="folder")
def text_tensor_missing(folder):
    file = "text_encoder/model.safetensors"

    def change(tensors):
        name = next(n for n in tensors if n.endswith("final_layer_norm.weight"))
        del tensors[name]

    edit_tensors(folder, change, file)


# --- shards ---------------------------------------------------------------------------------------


def shard_case(message):
    """Registers a function that changes the file named for one tensor; given its shard's path."""

    def register(function):
        def damage(folder):
            def change(index):
                name = next(n for n in index["weight_map"] if n == "conv_in.bias")
                shard = folder / "unet" / index["weight_map"][name]
                index["weight_map"][name] = function(shard)

            edit_json(folder / SHARDS, change)

        damage.__name__ = function.__name__
        return case(message, base="sharded")(damage)

    return register


@shard_case("file of 'conv_in.bias' should be the name of a .safetensors file in the same folder")
def index_names_an_absolute_path(shard):
    return str(shard)


@shard_case("in the same folder, found '../../")
def index_names_a_path_above(shard):
    shard.rename(shard.parent.parent.parent / "stolen.safetensors")
    return "../../stolen.safetensors"


@shard_case("in the same folder")
def index_names_a_path_with_backslashes(shard):
    return "..\\" + shard.name


@shard_case("in the same folder")
def index_names_a_subfolder(shard):
    return f"x/{shard.name}"


@shard_case("in the same folder, found 'a.x00.safetensors'")
def index_names_a_nul(shard):
    return "a\0.safetensors"


@shard_case("can run code")
def index_names_a_pickle(shard):
    return "pytorch_model.bin"


@shard_case("should be a name, found 7")
def index_names_a_number(shard):
    return 7


@shard_case("1 of [0-9]+ shards are missing: 'gone.safetensors'")
def index_names_no_file(shard):
    return "gone.safetensors"


@shard_case("expected a regular file, found a fifo")
def index_names_a_fifo(shard):
    os.mkfifo(shard.parent / "fifo.safetensors")
    return "fifo.safetensors"


@shard_case("leads outside the checkpoint")
def index_names_a_link_outside(shard):
    (shard.parent / "link.safetensors").symlink_to("/etc/hostname")
    return "link.safetensors"


@shard_case("1 tensors are not where it says: 'conv_in.bias'; 1 are not listed: 'conv_in.bias'")
def index_names_the_wrong_shard(shard):
    return next(p.name for p in sorted(shard.parent.glob("*.safetensors")) if p != shard)


@case("weight_map should map", base="sharded")
def index_without_weight_map(folder):
    edit_json(folder / SHARDS, lambda d: d.pop("weight_map"))


@case("weight_map should map", base="sharded")
def index_with_a_list(folder):
    edit_json(folder / SHARDS, lambda d: d.update(weight_map=["a"]))


@case("1000 shards, at most 256", base="sharded")
def index_of_a_thousand_shards(folder):
    names = {f"t{i}": f"s{i}.safetensors" for i in range(1000)}
    edit_json(folder / SHARDS, lambda d: d.update(weight_map=names))


@case("1 are not listed: 'conv_in.bias'", base="sharded")
def index_lacks_a_tensor(folder):
    edit_json(folder / SHARDS, lambda d: d["weight_map"].pop("conv_in.bias"))


@case("1 are not listed: 'conv_in.bias'", base="sharded")
def shards_with_the_same_tensor(folder):
    shards = sorted((folder / "unet").glob("*.safetensors"))
    other = next(s for s in shards if "conv_in.bias" not in load_file(s))
    save_file({**load_file(other), "conv_in.bias": torch.zeros(16)}, other)


@case("truncated", base="sharded")
def shard_cut_short(folder):
    shard = sorted((folder / "unet").glob("*.safetensors"))[-1]
    os.truncate(shard, shard.stat().st_size - 1)
