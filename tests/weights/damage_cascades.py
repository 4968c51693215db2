"""Damaged checkpoints of DeepFloyd IF, Kandinsky's prior, unCLIP, and ADM's classifier."""

from __future__ import annotations

import json
import shutil

import torch
from damage import case, edit_json, edit_tensors, read_raw, write_raw

from pyengine.errors import CheckpointError, ConfigError

IF, PRIOR, UNCLIP, ADM = "if_folder", "prior_folder", "unclip_folder", "classifier_folder"
VARIATION = "variation_folder"
T5 = "text_encoder/model.safetensors"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def config_case(message, base, file, error=ConfigError):
    """Registers a case that changes a JSON file of a folder: the function gets it parsed."""

    def register(change):
        def damage(folder):
            edit_json(folder / file, change)

        damage.__name__ = change.__name__
        return case(message, base=base, error=error)(damage)

    return register


def tensor_case(message, base, file):
    """Registers a case that changes the tensors of a file."""

    def register(change):
        def damage(folder):
            edit_tensors(folder, change, file)

        damage.__name__ = change.__name__
        return case(message, base=base)(damage)

    return register


# --- DeepFloyd IF: T5, its tokenizer, the U-Net, the schedulers -----------------------------------


@config_case("d_model is 1000000000", IF, "text_encoder/config.json")
def t5_wider_than_memory(config):
    config["d_model"] = 10**9


@config_case("num_layers is 1000000", IF, "text_encoder/config.json")
def t5_deeper_than_memory(config):
    config["num_layers"] = 10**6


@config_case("relative_attention_max_distance 2 is too small", IF, "text_encoder/config.json")
def t5_of_distances_without_buckets(config):
    config["relative_attention_max_distance"] = 2


@config_case("feed_forward_proj is 'gated-magic', expected", IF, "text_encoder/config.json")
def t5_of_another_activation(config):
    config["feed_forward_proj"] = "gated-magic"


@config_case("vocab_size 50, but its tokenizer has ids up to", IF, "text_encoder/config.json")
def t5_of_fewer_words_than_its_tokenizer(config):
    config["vocab_size"] = 50


@config_case("model_type is 'mt9'", IF, "text_encoder/config.json")
def t5_that_is_none(config):
    config["model_type"] = "mt9"


@config_case("would run code", IF, "text_encoder/config.json")
def t5_with_code(config):
    config["auto_map"] = {"AutoModel": "evil.Model"}


@tensor_case("missing: .*relative_attention_bias", IF, T5)
def t5_without_its_distances(tensors):
    (name,) = (n for n in tensors if "relative_attention_bias" in n)
    del tensors[name]


@tensor_case("misshapen.*wi_0", IF, T5)
def t5_of_narrower_layers(tensors):
    name = next(n for n in tensors if "wi_0" in n)
    tensors[name] = tensors[name][:-1].contiguous()


@tensor_case("misshapen: .*is torch.int32, expected torch.float32", IF, T5)
def t5_of_integers(tensors):
    name = next(n for n in tensors if "final_layer_norm" in n)
    tensors[name] = tensors[name].to(torch.int32)


@case("tokenizer: expected tokenizer.json or spiece.model", base=IF)
def if_without_a_vocabulary(folder):
    (folder / "tokenizer" / "tokenizer.json").unlink()


@case("expected a Unigram model, found 'WordLevel'", base=IF, error=ConfigError)
def if_of_a_tokenizer_that_is_none(folder):
    (folder / "tokenizer" / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')


@case("no protocol buffer: field 0 at byte 1", base=IF, error=ConfigError)
def if_of_pieces_that_are_noise(folder):
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "spiece.model").write_bytes(bytes(range(1, 256)) * 5)


@config_case("in_channels 4, out_channels 6: expected 3", IF, "unet/config.json")
def if_of_four_channels(config):
    config["in_channels"] = 4


@config_case("expects texts of 28 channels", IF, "unet/config.json")
def if_of_wider_texts(config):
    config["encoder_hid_dim"] = 28


@config_case(
    "cross_attention_norm must be 'group_norm' or null, found 'batch_norm'", IF, "unet/config.json"
)
def if_of_another_norm(config):
    config["cross_attention_norm"] = "batch_norm"


@config_case("dynamic_thresholding_ratio is 1000000000.0", IF, "scheduler/scheduler_config.json")
def if_of_an_absurd_threshold(config):
    config["dynamic_thresholding_ratio"] = 1e9


@config_case("IFPipeline needs text_encoder too", IF, "model_index.json", CheckpointError)
def if_without_a_text_encoder(index):
    del index["text_encoder"]


# --- Kandinsky's prior: CLIP's towers, the transformer --------------------------------------------


@config_case("image_size is 10000000", PRIOR, "image_encoder/config.json")
def vision_of_absurd_pictures(config):
    config["image_size"] = 10**7


@config_case("patch_size is 0", PRIOR, "image_encoder/config.json")
def vision_of_no_patches(config):
    config["patch_size"] = 0


@tensor_case("missing: .*class_embedding", PRIOR, "image_encoder/model.safetensors")
def vision_without_its_class(tensors):
    (name,) = (n for n in tensors if n.endswith("class_embedding"))
    del tensors[name]


@tensor_case("misshapen.*position_embedding", PRIOR, "image_encoder/model.safetensors")
def vision_of_other_places(tensors):
    (name,) = (n for n in tensors if n.endswith("position_embedding.weight"))
    tensors[name] = torch.zeros(3, 3)


@config_case("num_layers is 100000", PRIOR, "prior/config.json")
def prior_deeper_than_memory(config):
    config["num_layers"] = 10**5


@config_case("num_embeddings is 1000000000000", PRIOR, "prior/config.json")
def prior_of_endless_texts(config):
    config["num_embeddings"] = 10**12


@tensor_case("missing: 'clip_mean'", PRIOR, f"prior/{WEIGHTS}")
def prior_without_its_mean(tensors):
    del tensors["clip_mean"]


@tensor_case("1 extra: 'stranger'", PRIOR, f"prior/{WEIGHTS}")
def prior_with_a_stranger(tensors):
    tensors["stranger"] = torch.zeros(3)


@config_case("num_train_timesteps", PRIOR, "scheduler/scheduler_config.json")
def prior_of_absurd_steps(config):
    config["num_train_timesteps"] = 10**9


@config_case(
    "image_mean has 2 items, expected 3", PRIOR, "image_processor/preprocessor_config.json"
)
def prior_of_colours_that_are_none(config):
    config["image_mean"] = [0.5, 0.5]


# --- unCLIP ---------------------------------------------------------------------------------------


@config_case("text_proj is .*'evil'", UNCLIP, "model_index.json", CheckpointError)
def unclip_of_a_foreign_module(index):
    index["text_proj"] = ["evil", "UnCLIPTextProjModel"]


@config_case("needs super_res_last too", UNCLIP, "model_index.json", CheckpointError)
def unclip_without_its_last_step(index):
    del index["super_res_last"]


@config_case("time_embed_dim is 1000000000000", UNCLIP, "text_proj/config.json")
def unclip_of_times_wider_than_memory(config):
    config["time_embed_dim"] = 10**12


@config_case("unknown key.*'code'", UNCLIP, "text_proj/config.json")
def unclip_of_an_unknown_key(config):
    config["code"] = "import os"


@tensor_case("missing: 'learned_classifier_free", UNCLIP, f"text_proj/{WEIGHTS}")
def unclip_without_its_empty_embedding(tensors):
    del tensors["learned_classifier_free_guidance_embeddings"]


@tensor_case("misshapen.*'encoder_hidden_states_proj.weight'", UNCLIP, f"text_proj/{WEIGHTS}")
def unclip_of_other_texts(tensors):
    tensors["encoder_hidden_states_proj.weight"] = torch.zeros(4, 4)


@config_case("sample_size is 1000000000", UNCLIP, "super_res_first/config.json")
def unclip_of_absurd_pictures(config):
    config["sample_size"] = 10**9


@config_case(
    "variance_type is .'learned_range'., expected",
    UNCLIP,
    "decoder_scheduler/scheduler_config.json",
)
def unclip_of_another_variance(config):
    config["variance_type"] = ["learned_range"]


@case(r"data_offsets \[.*lie outside", base=UNCLIP)
def unclip_of_half_a_decoder(folder):
    file = folder / "decoder" / WEIGHTS
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@case("only pickles, 'diffusion_pytorch_model.bin'", base=UNCLIP)
def unclip_of_a_pickled_prior(folder):
    (folder / "prior" / WEIGHTS).rename(folder / "prior" / "diffusion_pytorch_model.bin")


@case("text_proj: no such folder", base=UNCLIP)
def unclip_without_the_projections_folder(folder):
    shutil.rmtree(folder / "text_proj")


@config_case("crop_size 31x32, expected", VARIATION, "feature_extractor/preprocessor_config.json")
def variation_of_other_pictures(config):
    config["crop_size"] = {"height": 31, "width": 32}


@config_case("projection_dim is 16, expected 32", VARIATION, "image_encoder/config.json")
def variation_of_other_embeddings(config):
    config["projection_dim"] = 16


# --- ADM's classifier -----------------------------------------------------------------------------


@config_case("model_channels", ADM, "config.json")
def adm_wider_than_memory(config):
    config["model_channels"] = 10**9


@config_case("pool is 'magic', expected", ADM, "config.json")
def adm_of_another_pool(config):
    config["pool"] = "magic"


@config_case("out_channels is missing", ADM, "config.json")
def adm_without_classes(config):
    del config["out_channels"]


@tensor_case("1 missing: 'input_blocks.0.0.bias'", ADM, "model.safetensors")
def adm_without_a_tensor(tensors):
    del tensors[next(iter(sorted(tensors)))]


@tensor_case(r"misshapen: 'out.2.c_proj.bias' is \[7\]", ADM, "model.safetensors")
def adm_of_other_classes(tensors):
    (name,) = (n for n in tensors if n.endswith("c_proj.bias"))
    tensors[name] = torch.zeros(7)


@case("data_offsets .*lie outside the", base=ADM)
def adm_of_offsets_behind_the_end(folder):
    header, data = read_raw(folder / "model.safetensors")
    name = next(n for n in header if n != "__metadata__")
    header[name]["data_offsets"] = [0, 1 << 50]
    write_raw(folder / "model.safetensors", header, data)


@case("expected a JSON object, found list", base=ADM, error=ConfigError)
def adm_whose_config_is_a_list(folder):
    (folder / "config.json").write_text(json.dumps([1, 2]))
