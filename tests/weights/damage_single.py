"""Damaged single files in the original layout; see damage.py. `file` is the copy's path."""

from __future__ import annotations

import os

import torch
from damage import case, read_raw, write_raw
from safetensors.torch import load_file, save_file

from pyengine.errors import ConfigError

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."


def single(message, base="sd1", **options):
    """Registers a function that changes the tensors of a single file."""

    def register(change):
        def damage(file):
            tensors = load_file(file)
            changed = change(tensors)
            save_file(tensors if changed is None else changed, file)

        damage.__name__ = change.__name__
        return case(message, base=base, **options)(damage)

    return register


def drop(tensors, prefix):
    for name in [n for n in tensors if n.startswith(prefix)]:
        del tensors[name]


@case("can run code .*convert it", base="sd1")
def single_is_a_ckpt(file):
    file = file.rename(file.with_suffix(".ckpt"))
    return file


@case("can run code", base="sd1")
def single_ckpt_that_does_not_exist(file):
    return file.with_suffix(".ckpt")


@case("no such file or folder", base="sd1")
def single_does_not_exist(file):
    return file.with_name("other.safetensors")


@case("begins like a pickle", base="sd1")
def single_is_a_renamed_ckpt(file):
    torch.save({"a": torch.zeros(2)}, file)


@case("expected a regular file, found a fifo", base="sd1")
def single_is_a_fifo(file):
    file.unlink()
    os.mkfifo(file)


@case("expected a regular file, found a device", base="sd1")
def single_is_a_device(file):
    return "/dev/zero"


@case("truncated", base="sd1")
def single_cut_short(file):
    os.truncate(file, file.stat().st_size - 4)


@case("variant is for folders", base="sd1", variant="fp16")
def single_with_a_variant(file):
    pass


@single("it looks like a LoRA")
def single_is_a_lora(tensors):
    return {"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(2, 2)}


@single("it looks like Flux")
def single_is_flux(tensors):
    return {"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(2)}


@single("it looks like one model in diffusers' layout")
def single_is_a_diffusers_unet(tensors):
    return {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(2)}


@single("not a Stable Diffusion")
def single_is_something_else(tensors):
    return {"bert.embeddings.weight": torch.zeros(2)}


@single("no autoencoder")
def single_without_vae(tensors):
    drop(tensors, VAE)


@single("no text encoder")
def single_without_text_encoder(tensors):
    drop(tensors, TEXT)


@single("refiner is not supported", base="sdxl_file")
def single_is_the_refiner(tensors):
    drop(tensors, "conditioner.embedders.0.")
    for name in [n for n in tensors if n.startswith("conditioner.embedders.1.")]:
        tensors[name.replace("embedders.1", "embedders.0")] = tensors.pop(name)


@single("2 tensors belong to no part .*'adapter.a', 'model.diffusion_model.more.weight'")
def single_with_extra_tensors(tensors):
    tensors["adapter.a"] = torch.zeros(1)
    tensors[UNET + "more.weight"] = torch.zeros(1)


@single("conv_in.weight' is missing, and with it the model's size")
def single_without_a_size(tensors):
    del tensors[VAE + "encoder.conv_in.weight"]


@single("input_blocks.1 is missing|input and .* output blocks|levels")
def single_without_a_block(tensors):
    drop(tensors, UNET + "input_blocks.1.")


@single("1 missing: 'mid_block.resnets.1.conv2.bias'")
def single_without_a_bias(tensors):
    del tensors[UNET + "middle_block.2.out_layers.3.bias"]


@single("1 misshapen: 'mid_block.resnets.1.conv2.bias' is .65., expected .64.")
def single_with_a_longer_bias(tensors):
    tensors[UNET + "middle_block.2.out_layers.3.bias"] = torch.zeros(65)


@single("is .32, 3., expected 4 dimensions above 0")
def single_with_a_flat_convolution(tensors):
    tensors[VAE + "encoder.conv_in.weight"] = torch.zeros(32, 3)


@single("dimensions above 0")
def single_with_an_empty_convolution(tensors):
    tensors[VAE + "encoder.conv_in.weight"] = torch.zeros(0, 3, 3, 3)


@single("mid.attn_1.q.weight' is .64, 64, 3, 3., expected a 1x1 convolution")
def single_with_a_wide_attention(tensors):
    tensors[VAE + "encoder.mid.attn_1.q.weight"] = torch.zeros(64, 64, 3, 3)


@single("expected rows for queries, keys and values", base="sdxl_file")
def single_with_uneven_in_proj(tensors):
    name = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias"
    tensors[name] = torch.zeros(100)


@single("label_emb.0.0.weight takes .* six sizes", base="sdxl_file")
def single_with_another_conditioning(tensors):
    tensors[UNET + "label_emb.0.0.weight"] = torch.zeros(256, 128 + 5)


@single("two tensors are text_encoder's")
def single_with_two_of_a_kind(tensors):
    name = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
    tensors[name.replace("text_model.", "")] = tensors[name].clone()


@single("transformer layers")
def single_with_deeper_middle(tensors):
    old = UNET + "middle_block.1.transformer_blocks.0."
    for name in [n for n in tensors if n.startswith(old)]:
        tensors[name.replace("_blocks.0.", "_blocks.1.")] = tensors[name].clone()
    for name in [n for n in tensors if n.startswith(UNET + "input_blocks.1.1.")]:
        deepest = name.replace("input_blocks.1.1.", "input_blocks.4.1.")
        tensors[deepest] = tensors[name].clone()
        tensors[name.replace("input_blocks.1.1.", "input_blocks.5.1.")] = tensors[name].clone()


@case("num_hidden_layers is 2000", base="sd1", error=ConfigError)
def single_of_a_thousand_layers(file):
    header, data = read_raw(file)
    stem = "cond_stage_model.transformer.text_model.encoder.layers.{}.mlp.fc1.weight"
    end = len(data)
    for i in range(3, 2000):
        header[stem.format(i)] = {"dtype": "U8", "shape": [1], "data_offsets": [end, end + 1]}
        end += 1
    write_raw(file, header, data + bytes(1997))
