"""Damaged checkpoints of what lies beside a pipeline's networks: tiny and asymmetric autoencoders,
and the CLIP that guides; and weights that are no numbers in networks that would hide it.
"""

from __future__ import annotations

import json

import torch
from damage import case, edit_json, edit_tensors
from damage_cascades import config_case, tensor_case
from safetensors.torch import load_file, save_file

from pyengine.errors import ConfigError

TINY, ASYMMETRIC, CLIP = "tiny_folder", "asymmetric_folder", "clip_folder"
WEIGHTS, OF_CLIP = "diffusion_pytorch_model.safetensors", "model.safetensors"

# --- AutoencoderTiny ------------------------------------------------------------------------------


@config_case("encoder_block_out_channels is 1000000000", TINY, "config.json")
def tiny_wider_than_memory(config):
    config["encoder_block_out_channels"] = [10**9] * 4


@config_case("num_decoder_blocks", TINY, "config.json")
def tiny_of_a_million_blocks(config):
    config["num_decoder_blocks"] = [10**6] * 4


@config_case("latent_channels", TINY, "config.json")
def tiny_of_no_latents(config):
    config["latent_channels"] = 0


@config_case("act_fn", TINY, "config.json")
def tiny_of_another_activation(config):
    config["act_fn"] = "__import__('os')"


@config_case("scaling_factor", TINY, "config.json")
def tiny_of_a_scale_of_zero(config):
    config["scaling_factor"] = 0


@config_case("unknown keys 'auto_map'", TINY, "config.json")
def tiny_with_code(config):
    config["auto_map"] = {"AutoModel": "evil.Model"}


@tensor_case("missing: 'decoder.layers.0.bias'", TINY, WEIGHTS)
def tiny_without_a_tensor(tensors):
    del tensors["decoder.layers.0.bias"]


@tensor_case("misshapen: 'decoder.layers.0.weight' is", TINY, WEIGHTS)
def tiny_of_other_latents(tensors):
    tensors["decoder.layers.0.weight"] = torch.zeros(8, 5, 3, 3)


@tensor_case("1 extra: 'decoder.layers.999.weight'", TINY, WEIGHTS)
def tiny_with_a_layer_more(tensors):
    tensors["decoder.layers.999.weight"] = torch.zeros(3)


@case("only pickles", base=TINY)
def tiny_of_pickles(folder):
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


# --- AsymmetricAutoencoderKL ----------------------------------------------------------------------


@config_case("up_block_out_channels is 1000000000", ASYMMETRIC, "config.json")
def asymmetric_wider_than_memory(config):
    config["up_block_out_channels"] = [10**9] * 4


@config_case("layers_per_up_block", ASYMMETRIC, "config.json")
def asymmetric_of_a_million_layers(config):
    config["layers_per_up_block"] = 10**6


@config_case("down_block_types", ASYMMETRIC, "config.json")
def asymmetric_of_other_blocks(config):
    config["down_block_types"] = ["AttnDownBlock2D"] * 4


@config_case("norm_num_groups", ASYMMETRIC, "config.json")
def asymmetric_of_negative_groups(config):
    config["norm_num_groups"] = -4


@tensor_case("missing: .*condition_encoder.layers.0.bias", ASYMMETRIC, WEIGHTS)
def asymmetric_without_a_tensor(tensors):
    del tensors["decoder.condition_encoder.layers.0.bias"]


@tensor_case("misshapen.*'post_quant_conv.weight' is", ASYMMETRIC, WEIGHTS)
def asymmetric_of_other_latents(tensors):
    tensors["post_quant_conv.weight"] = torch.zeros(5, 5, 1, 1)


# --- the CLIP that guides -------------------------------------------------------------------------


@config_case("expected a whole CLIP's, with text_config and vision_config", CLIP, "config.json")
def clip_without_a_tower(config):
    del config["vision_config"]


@config_case("expected a whole CLIP's", CLIP, "config.json")
def clip_whose_text_config_is_a_list(config):
    config["text_config"] = []


@config_case("projection_dim is 1000000000", CLIP, "config.json")
def clip_of_endless_embeddings(config):
    config["projection_dim"] = 10**9


@config_case("hidden_size is 1000000000", CLIP, "config.json")
def clip_wider_than_memory(config):
    config["vision_config"]["hidden_size"] = 10**9


@config_case("image_size", CLIP, "config.json")
def clip_of_endless_pictures(config):
    config["vision_config"]["image_size"] = 10**9


@config_case("num_hidden_layers", CLIP, "config.json")
def clip_of_no_layers(config):
    config["text_config"]["num_hidden_layers"] = -1


@config_case("text_encoder: expected emoji, found '../../etc'", CLIP, "config.json")
def clip_that_borrows_from_anywhere(config):
    config["text_encoder"] = "../../etc"


@tensor_case("missing: .*visual_projection", CLIP, OF_CLIP)
def clip_without_its_projection(tensors):
    del tensors["visual_projection.weight"]


@tensor_case("misshapen.*'text_projection.weight' is", CLIP, OF_CLIP)
def clip_of_other_embeddings(tensors):
    tensors["text_projection.weight"] = torch.zeros(3, 3)


@tensor_case("1 extra: 'stranger'", CLIP, OF_CLIP)
def clip_with_a_stranger(tensors):
    tensors["stranger"] = torch.zeros(1)


@case("only pickles", base=CLIP)
def clip_of_pickles(folder):
    (folder / OF_CLIP).rename(folder / "pytorch_model.bin")


@case("leads outside the checkpoint", base=CLIP)
def clip_whose_weights_lie_elsewhere(folder):
    place = folder.parent / "elsewhere.safetensors"
    (folder / OF_CLIP).rename(place)
    (folder / OF_CLIP).symlink_to(place)


@case("leads outside the checkpoint", base=CLIP)
def clip_whose_words_lie_elsewhere(folder):
    place = folder.parent / "vocab.json"
    (folder / "vocab.json").rename(place)
    (folder / "vocab.json").symlink_to(place)


@case("image_mean|crop_size|size", base=CLIP, error=ConfigError)
def clip_of_absurd_pixels(folder):
    data = {"size": {"shortest_edge": 10**9}, "crop_size": 10**9, "image_mean": ["x"] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(data))


@case("no such file", base=CLIP)
def clip_without_a_config(folder):
    (folder / "config.json").unlink()


# --- weights that are no numbers ------------------------------------------------------------------


def hidden(title, base, file, name, value):
    """Registers a case where one tensor is filled with a number that is none: an activation or a
    folded norm would make finite pictures of it, which are wrong.
    """

    def damage(place):
        path = place / file if file else place
        tensors = load_file(path)
        tensors[name] = torch.full_like(tensors[name], value)
        save_file(tensors, path)

    damage.__name__ = title
    case(f"tensor '{name}': expected finite numbers, found NaN or infinity", base=base)(damage)


INF, NAN = float("inf"), float("nan")
hidden("dcgan_of_infinite_means", "dcgan", "", "main.1.running_mean", INF)
hidden("dcgan_of_infinite_spread", "dcgan_folder", OF_CLIP, "main.4.running_var", INF)
hidden("dcgan_of_nothing", "dcgan_folder", OF_CLIP, "main.7.bias", -INF)
hidden("biggan_of_infinite_means", "biggan_folder", OF_CLIP,
       "generator.layers.4.bn_3.running_means", INF)  # fmt: skip
hidden("biggan_of_an_infinite_norm", "biggan_folder", OF_CLIP,
       "generator.layers.4.conv_2.weight_u", INF)  # fmt: skip
hidden("rrdb_of_no_numbers", "rrdb_folder", OF_CLIP, "conv_first.bias", NAN)
hidden("compact_of_infinite_slopes", "compact", "", "body.1.weight", INF)
hidden("tiny_of_nothing", TINY, WEIGHTS, "decoder.layers.0.bias", -INF)
hidden("asymmetric_of_nothing", ASYMMETRIC, WEIGHTS, "decoder.condition_encoder.layers.0.bias",
       -INF)  # fmt: skip


@case("tensor 'decoder.conv_in.weight': expected finite numbers", base=ASYMMETRIC)
def asymmetric_of_no_numbers(folder):
    edit_tensors(folder, lambda t: t["decoder.conv_in.weight"].fill_(NAN), WEIGHTS)


@case("unknown keys 'flux'", base=TINY, error=ConfigError)
def tiny_with_an_unknown_key(folder):
    edit_json(folder / "config.json", lambda d: d.update(flux=1))
