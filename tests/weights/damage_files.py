"""Damaged weights: the file as a whole, and its header; see damage.py."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import torch
from damage import UNET, case, edit_entry, edit_header, read_raw, replace, write_raw
from safetensors.torch import load_file

# --- the weights' file ----------------------------------------------------------------------------


@case("no weights: expected diffusion_pytorch_model.safetensors")
def weights_missing(folder):
    (folder / UNET).unlink()


@case("only pickles, 'diffusion_pytorch_model.bin': .* can run code .*convert it")
def weights_only_a_pickle(folder):
    torch.save(load_file(folder / UNET), folder / "unet/diffusion_pytorch_model.bin")
    (folder / UNET).unlink()


@case("not a safetensors file .*begins like a pickle")
def weights_are_a_renamed_zip(folder):
    torch.save({"a": torch.zeros(3)}, folder / UNET)


@case("not a safetensors file .*begins like a pickle")
def weights_are_a_renamed_pickle(folder):
    torch.save({"a": torch.zeros(3)}, folder / UNET, _use_new_zipfile_serialization=False)


@case("there are weights for variant='fp16'")
def weights_only_of_a_variant(folder):
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.fp16.safetensors")


@case("0 bytes, too short")
def file_empty(folder):
    replace(folder / UNET, b"")


@case("5 bytes, too short")
def file_of_five_bytes(folder):
    replace(folder / UNET, b"\1\0\0\0\0")


@case("truncated, or no safetensors file")
def file_cut_in_the_header(folder):
    os.truncate(folder / UNET, 500)


@case("truncated or its header is wrong")
def file_cut_in_the_data(folder):
    os.truncate(folder / UNET, (folder / UNET).stat().st_size // 2)


@case("truncated or its header is wrong")
def file_cut_by_a_byte(folder):
    os.truncate(folder / UNET, (folder / UNET).stat().st_size - 1)


@case("1 bytes belong to no tensor")
def file_with_a_byte_more(folder):
    with open(folder / UNET, "ab") as f:
        f.write(b"\0")


@case("bytes belong to no tensor")
def file_with_a_terabyte_more(folder):
    os.truncate(folder / UNET, 1 << 40)


@case("expected a regular file, found a folder")
def file_is_a_folder(folder):
    (folder / UNET).unlink()
    (folder / UNET).mkdir()


@case("expected a regular file, found a fifo")
def file_is_a_fifo(folder):
    (folder / UNET).unlink()
    os.mkfifo(folder / UNET)


@case("expected a regular file, found a socket")
def file_is_a_socket(folder):
    (folder / UNET).unlink()
    here = Path.cwd()
    os.chdir(folder / "unet")  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(Path(UNET).name)
    finally:
        os.chdir(here)


@case("leads outside the checkpoint, to '/dev/zero'")
def file_links_to_a_device(folder):
    (folder / UNET).unlink()
    (folder / UNET).symlink_to("/dev/zero")


@case("leads outside the checkpoint")
def file_links_outside(folder):
    (folder / UNET).rename(folder.parent / "elsewhere.safetensors")
    (folder / UNET).symlink_to(folder.parent / "elsewhere.safetensors")


@case("no such file|cannot be opened|leads outside")
def file_links_to_itself(folder):
    (folder / UNET).unlink()
    (folder / UNET).symlink_to(folder / UNET)


@case("no such file")
def file_links_to_nothing(folder):
    (folder / UNET).unlink()
    (folder / UNET).symlink_to(folder / "unet" / "nothing")


# --- the header -----------------------------------------------------------------------------------


def set_length(folder, n):
    data = (folder / UNET).read_bytes()
    replace(folder / UNET, struct.pack("<Q", n) + data[8:])


@case("header should take 9223372036854775808 bytes")
def header_of_2_to_63_bytes(folder):
    set_length(folder, 1 << 63)


@case("header takes 5000000000 bytes, at most 4194304 are read")
def header_of_5_gigabytes(folder):
    set_length(folder, 5_000_000_000)
    os.truncate(folder / UNET, 6_000_000_000)  # sparse: the bytes are there, and all zero


@case("header: not JSON")
def header_shorter_than_its_json(folder):
    set_length(folder, 100)


@case("header is no JSON object")
def header_is_a_list(folder):
    write_raw(folder / UNET, b"[]", b"")


@case("header is no JSON object")
def header_of_no_bytes(folder):
    write_raw(folder / UNET, b"", bytes(100))


@case("header: not JSON")
def header_is_noise(folder):
    write_raw(folder / UNET, b"{" + bytes(range(1, 128)), b"")


@case("header: not UTF-8")
def header_not_utf8(folder):
    write_raw(folder / UNET, b'{"\xff\xfe": {}}', b"")


@case("half a character")
def header_with_half_a_character(folder):
    entry = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    write_raw(folder / UNET, b'{"a\\uD800":' + entry + b"}", b"\0")


@case("header: the key 'a' comes twice")
def header_with_a_tensor_twice(folder):
    entry = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    write_raw(folder / UNET, b'{"a":' + entry + b',"a":' + entry + b"}", b"\0")


@case("header: the key 'dtype' comes twice")
def header_with_a_field_twice(folder):
    entry = b'{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}'
    write_raw(folder / UNET, b'{"a":' + entry + b"}", b"\0")


@case("header: nested more than 8 levels")
def header_nested_deeply(folder):
    write_raw(folder / UNET, b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}", b"")


@case("header: about .* JSON values")
def header_of_many_values(folder):
    write_raw(folder / UNET, b'{"a":[' + b"[]," * 1_000_000 + b"[]]}", b"")


@case("dtype, shape and data_offsets, found")
def header_of_many_small_lies(folder):
    body = b",".join(b'"%x":{}' % i for i in range(48_000))
    write_raw(folder / UNET, b"{" + body + b"}", b"")


@case("__metadata__ should map strings to strings")
def metadata_nested(folder):
    edit_header(folder, lambda h: h.update(__metadata__={"a": {"b": "c"}}))


@case("__metadata__ should map strings to strings")
def metadata_is_false(folder):
    edit_header(folder, lambda h: h.update(__metadata__=False))


@case("__metadata__ should map strings to strings")
def metadata_is_a_text(folder):
    edit_header(folder, lambda h: h.update(__metadata__="format"))


@case("tensor 'conv_in.bias': expected dtype, shape and data_offsets")
def entry_without_shape(folder):
    edit_entry(folder, lambda e: e.pop("shape"))


@case("expected dtype, shape and data_offsets")
def entry_with_more_fields(folder):
    edit_entry(folder, lambda e: e.update(code="print()"))


@case("expected dtype, shape and data_offsets, found 7")
def entry_is_a_number(folder):
    edit_header(folder, lambda h: h.update({"conv_in.bias": 7}))


@case("dtype 'F4' .4-bit floats. is none of F64, F32")
def dtype_of_four_bits(folder):
    edit_entry(folder, lambda e: e.update(dtype="F4", shape=[128]))


@case("dtype 'F8_E8M0' .scales of blocks. is none of")
def dtype_of_block_scales(folder):
    edit_entry(folder, lambda e: e.update(dtype="F8_E8M0", shape=[64]))


@case(r"F8_E4M3 \[16\] takes 16 bytes, data_offsets give 64")
def dtype_of_eight_bits_in_a_float32s_bytes(folder):
    edit_entry(folder, lambda e: e.update(dtype="F8_E4M3"))


@case(r"'conv_in.bias' is .64., expected .16.")
def dtype_of_eight_bits_and_another_shape(folder):
    edit_entry(folder, lambda e: e.update(dtype="F8_E5M2", shape=[64]))


@case("dtype 'F128' is none of F64, F32")
def dtype_unknown(folder):
    edit_entry(folder, lambda e: e.update(dtype="F128"))


@case(r"dtype \['F32'\] is none of")
def dtype_is_a_list(folder):
    edit_entry(folder, lambda e: e.update(dtype=["F32"]))


@case(r"F16 \[16\] takes 32 bytes, data_offsets give 64")
def dtype_of_another_size(folder):
    edit_entry(folder, lambda e: e.update(dtype="F16"))


@case(r"shape \[-16\] should be")
def shape_negative(folder):
    edit_entry(folder, lambda e: e.update(shape=[-16]))


@case(r"shape \[-4, -4\] should be")
def shape_of_two_negatives(folder):
    edit_entry(folder, lambda e: e.update(shape=[-4, -4]))


@case(r"shape \[16.0\] should be")
def shape_of_a_fraction(folder):
    edit_entry(folder, lambda e: e.update(shape=[16.0]))


@case(r"shape \[True, 16\] should be")
def shape_of_a_bool(folder):
    edit_entry(folder, lambda e: e.update(shape=[True, 16]))


@case("shape a list of 50000 items should be at most 8")
def shape_of_absurd_rank(folder):
    edit_entry(folder, lambda e: e.update(shape=[1] * 50_000))


@case("takes 73786976294838206528 bytes, data_offsets give 64")
def shape_that_overflows(folder):
    # 2**66 + 64 bytes: in 64 bits that would be the 64 that are there.
    edit_entry(folder, lambda e: e.update(shape=[(1 << 62) + 4, 4]))


@case("absurd shape")
def shape_of_nothing_times_everything(folder):
    edit_header(
        folder,
        lambda h: h.update(x={"dtype": "F32", "shape": [0, 1 << 60], "data_offsets": [0, 0]}),
    )


@case("an integer of 30 digits")
def shape_beyond_integers(folder):
    edit_entry(folder, lambda e: e.update(shape=[10**29]))


@case("lie outside")
def offsets_reversed(folder):
    edit_entry(folder, lambda e: e["data_offsets"].reverse())


@case("lie outside")
def offsets_beyond_the_file(folder):
    edit_entry(folder, lambda e: e.update(data_offsets=[1 << 40, (1 << 40) + 64]))


@case("should be two numbers from 0")
def offsets_negative(folder):
    edit_entry(folder, lambda e: e.update(data_offsets=[-64, 0]))


@case("should be two numbers from 0")
def offsets_of_three(folder):
    edit_entry(folder, lambda e: e["data_offsets"].append(0))


@case("overlaps")
def offsets_overlap(folder):
    header, _ = read_raw(folder / UNET)
    end = max(e["data_offsets"][1] for e in header.values() if "data_offsets" in e)
    edit_header(
        folder,
        lambda h: h.update(x={"dtype": "U8", "shape": [9], "data_offsets": [end - 9, end]}),
    )


@case("leaves [0-9]+ bytes after")
def offsets_leave_a_hole(folder):
    edit_header(folder, lambda h: h.pop("conv_in.bias"))


@case("a name has 1 to 512 characters")
def name_of_a_megabyte(folder):
    edit_header(folder, lambda h: h.update({"x" * (1 << 20): h.pop("conv_in.bias")}))
