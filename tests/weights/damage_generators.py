"""Damaged checkpoints of generators, in folders and in one file; see damage.py."""

from __future__ import annotations

import torch
from damage import case, edit_json, edit_tensors
from damage_single import single

from pyengine.errors import ConfigError

WEIGHTS = "model.safetensors"

# --- DCGAN ----------------------------------------------------------------------------------------


@case("block_out_channels.*4096", base="dcgan_folder", error=ConfigError)
def dcgan_with_too_many_layers(folder):
    edit_json(folder / "config.json", lambda d: d.update(block_out_channels=[8] * 4096))


@case("latent_channels", base="dcgan_folder", error=ConfigError)
def dcgan_of_no_latents(folder):
    edit_json(folder / "config.json", lambda d: d.update(latent_channels=-1))


@case("one model, not a whole checkpoint", base="dcgan_folder")
def dcgan_of_another_kind(folder):
    edit_json(folder / "config.json", lambda d: d.update(model_type="dcgan2"))


@case("misshapen.*'main.3.weight' is", base="dcgan_folder")
def dcgan_whose_config_is_wider(folder):
    edit_json(folder / "config.json", lambda d: d["block_out_channels"].__setitem__(1, 512))


@case("1 missing: 'main.4.running_var'", base="dcgan_folder")
def dcgan_without_statistics(folder):
    edit_tensors(folder, lambda t: t.pop("main.4.running_var"), WEIGHTS)


@case("would run code", base="dcgan_folder", error=ConfigError)
def dcgan_with_code(folder):
    edit_json(folder / "config.json", lambda d: d.update(auto_map={"AutoModel": "evil.Model"}))


@single("1 extra: 'main.99.weight'", base="dcgan")
def dcgan_file_with_another_layer(tensors):
    tensors["main.99.weight"] = torch.zeros(3, 3, 4, 4)


@single("block_out_channels", base="dcgan", error=ConfigError)
def dcgan_file_of_a_hundred_layers(tensors):
    tensors.update({f"main.{3 * i}.weight": torch.zeros(1, 1, 4, 4) for i in range(100)})


@single("out_channels", base="dcgan", error=ConfigError)
def dcgan_file_of_two_colours(tensors):
    tensors["main.9.weight"] = torch.zeros(9, 2, 4, 4)


@single("latent_channels", base="dcgan", error=ConfigError)
def dcgan_file_without_latents(tensors):
    tensors["main.0.weight"] = torch.zeros(0, 20, 4, 4)


@single("latent_channels is 0, expected 1 to 8192", base="dcgan", error=ConfigError)
def dcgan_file_whose_first_layer_is_a_number(tensors):
    tensors["main.0.weight"] = torch.tensor(1.0)


@single("misshapen.*'main.0.weight' is", base="dcgan")
def dcgan_file_of_other_kernels(tensors):
    tensors["main.0.weight"] = torch.zeros(7, 20, 5, 5)


@single("'main.1.weight' is torch.int64", base="dcgan")
def dcgan_file_of_whole_numbers(tensors):
    tensors["main.1.weight"] = torch.zeros(20, dtype=torch.int64)


# --- upscalers ------------------------------------------------------------------------------------


@case("num_block is 100000, expected 1 to 256", base="rrdb_folder", error=ConfigError)
def rrdb_of_endless_blocks(folder):
    edit_json(folder / "config.json", lambda d: d.update(num_block=100000))


@case("scale: expected 1, a half or a quarter", base="rrdb_folder", error=ConfigError)
def rrdb_of_a_scale_between(folder):
    edit_json(folder / "config.json", lambda d: d.update(scale=3))


@case("missing: .*'body.1.rdb2.conv3.bias'", base="rrdb_folder")
def rrdb_without_a_bias(folder):
    edit_tensors(folder, lambda t: t.pop("body.1.rdb2.conv3.bias"), WEIGHTS)


@single("num_block is 9999, expected 1 to 256", base="rrdb", error=ConfigError)
def rrdb_file_of_a_far_block(tensors):
    tensors["model.1.sub.9998.RDB1.conv1.0.weight"] = torch.zeros(1)


@single("are both 'body.0.rdb1.conv1.weight'", base="rrdb")
def rrdb_file_with_a_tensor_twice(tensors):
    tensors["body.0.rdb1.conv1.weight"] = torch.zeros(5, 12, 3, 3)


@single("num_feat is 0, expected 1 to 1024", base="rrdb", error=ConfigError)
def rrdb_file_of_no_features(tensors):
    tensors["model.0.weight"] = torch.zeros(0, 3, 3, 3)


@single("misshapen: .*'conv_first.weight' is", base="rrdb")
def rrdb_file_of_wide_kernels(tensors):
    tensors["model.0.weight"] = torch.zeros(12, 3, 9, 9)


@single("extra: .*'model.77.weight'", base="rrdb")
def rrdb_file_with_more(tensors):
    tensors["model.77.weight"] = torch.zeros(2)


@single("num_grow_ch is 0", base="rrdb", error=ConfigError)
def rrdb_file_whose_block_is_a_number(tensors):
    tensors["model.1.sub.0.RDB1.conv1.0.weight"] = torch.tensor(2.0)


@single("upscale is 0, expected 1 to 16", base="compact", error=ConfigError)
def compact_file_of_no_scale(tensors):
    tensors["body.8.weight"] = torch.zeros(2, 10, 3, 3)


@single("num_conv is 4998", base="compact", error=ConfigError)
def compact_file_of_a_far_layer(tensors):
    tensors["body.9999.weight"] = torch.zeros(48, 10, 3, 3)


@single("missing: 'body.3.weight'", base="compact")
def compact_file_without_a_slope(tensors):
    del tensors["body.3.weight"]


@single("num_feat is 0", base="compact", error=ConfigError)
def compact_file_of_numbers(tensors):
    tensors["body.0.weight"] = torch.tensor(1.0)


# --- BigGAN ---------------------------------------------------------------------------------------


@case("layers: 0 reads 999999 channels|layers", base="biggan_folder", error=ConfigError)
def biggan_of_wide_layers(folder):
    edit_json(folder / "config.json", lambda d: d.update(layers=[[True, 999999, 16]] * 6))


@case("layers", base="biggan_folder", error=ConfigError)
def biggan_of_endless_layers(folder):
    edit_json(folder / "config.json", lambda d: d.update(layers=[[True, 16, 16]] * 10000))


@case("n_stats is 1000000000, expected 2 to", base="biggan_folder", error=ConfigError)
def biggan_of_endless_statistics(folder):
    edit_json(folder / "config.json", lambda d: d.update(n_stats=10**9))


@case("num_classes", base="biggan_folder", error=ConfigError)
def biggan_of_no_classes(folder):
    edit_json(folder / "config.json", lambda d: d.update(num_classes=0))


@case("missing: 'generator.gen_z.weight_u'", base="biggan_folder")
def biggan_without_a_vector(folder):
    edit_tensors(folder, lambda t: t.pop("generator.gen_z.weight_u"), WEIGHTS)


@case("misshapen: 'generator.layers.0.bn_0.running_means' is", base="biggan_folder")
def biggan_of_other_statistics(folder):
    name = "generator.layers.0.bn_0.running_means"
    edit_tensors(folder, lambda t: t.update({name: torch.zeros(50, 64)}), WEIGHTS)


@case("one model, not a whole checkpoint", base="biggan_folder")
def biggan_without_attention(folder):
    edit_json(folder / "config.json", lambda d: d.pop("attention_layer_position"))
