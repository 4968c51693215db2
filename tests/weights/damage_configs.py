"""Damaged JSON files and folders; see damage.py."""

from __future__ import annotations

import os

from damage import case, edit_json, replace

from pyengine.errors import CheckpointError, ConfigError

# --- model_index.json -----------------------------------------------------------------------------


@case("no model_index.json")
def index_missing(folder):
    (folder / "model_index.json").unlink()


@case("not JSON", error=ConfigError)
def index_empty(folder):
    replace(folder / "model_index.json", b"")


@case("not JSON: .* line 1", error=ConfigError)
def index_cut_short(folder):
    path = folder / "model_index.json"
    replace(path, b" ".join(path.read_bytes().split())[:-1])


@case("expected a JSON object, found list", error=ConfigError)
def index_is_a_list(folder):
    replace(folder / "model_index.json", b"[1, 2]")


@case("not UTF-8 at byte 2", error=ConfigError)
def index_not_utf8(folder):
    replace(folder / "model_index.json", b'{"\xff": 1}')


@case("'unet' comes twice", error=ConfigError)
def index_duplicate_key(folder):
    replace(folder / "model_index.json", b'{"unet": 1, "unet": 2}')


@case("NaN is not JSON", error=ConfigError)
def index_nan(folder):
    replace(folder / "model_index.json", b'{"a": NaN}')


@case("out of range", error=ConfigError)
def index_infinite_number(folder):
    replace(folder / "model_index.json", b'{"a": 1e999}')


@case("an integer of 100000 digits", error=ConfigError)
def index_huge_integer(folder):
    replace(folder / "model_index.json", b'{"a": ' + b"9" * 100_000 + b"}")


@case("nested more than 32 levels", error=ConfigError)
def index_nested_deeply(folder):
    replace(folder / "model_index.json", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@case("nested more than 32 levels", error=ConfigError)
def index_nested_behind_quotes(folder):
    replace(folder / "model_index.json", b'{"\\\\":"\\"",' + b'"a":[' * 1000)


@case("about 500003 JSON values", error=ConfigError)
def index_of_many_values(folder):
    replace(folder / "model_index.json", b'{"a":[' + b"{}," * 250_000 + b"{}]}")


@case("at most 4194304 are read")
def index_too_long(folder):
    replace(folder / "model_index.json", b"{" + b" " * 5_000_000 + b"}")


@case("at most 4194304 are read")
def index_of_a_terabyte(folder):
    os.truncate(folder / "model_index.json", 1 << 40)


@case("expected a regular file, found a folder")
def index_is_a_folder(folder):
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").mkdir()


@case("expected a regular file, found a fifo")
def index_is_a_fifo(folder):
    (folder / "model_index.json").unlink()
    os.mkfifo(folder / "model_index.json")


@case("leads outside the checkpoint")
def index_links_outside(folder):
    other = folder.parent / "elsewhere.json"
    (folder / "model_index.json").rename(other)
    (folder / "model_index.json").symlink_to(other)


@case("_class_name is 'FluxPipeline', expected StableDiffusionPipeline")
def pipeline_of_another_kind(folder):
    edit_json(folder / "model_index.json", lambda d: d.update(_class_name="FluxPipeline"))


@case("custom pipeline, which would run code")
def pipeline_with_code(folder):
    (folder / "pipeline.py").write_text("raise SystemExit('ran')")
    edit_json(folder / "model_index.json", lambda d: d.update(_class_name=["pipeline", "Mine"]))


@case(r"unet is \['diffusers', 'UNet3DConditionModel'\], expected UNet2DConditionModel")
def part_of_another_class(folder):
    edit_json(
        folder / "model_index.json", lambda d: d.update(unet=["diffusers", "UNet3DConditionModel"])
    )


@case("vae is .* expected AutoencoderKL, .* of diffusers")
def part_from_another_library(folder):
    (folder / "my_vae.py").write_text("raise SystemExit('ran')")
    edit_json(folder / "model_index.json", lambda d: d.update(vae=["my_vae", "AutoencoderKL"]))


@case("'controlnet' .* is no part that pyengine knows")
def part_unknown(folder):
    edit_json(
        folder / "model_index.json", lambda d: d.update(controlnet=["diffusers", "ControlNetModel"])
    )


@case("needs vae, scheduler too")
def parts_missing(folder):
    def change(index):
        del index["vae"]
        index["scheduler"] = [None, None]

    edit_json(folder / "model_index.json", change)


@case(r"unet should be \[library, class\]")
def part_is_a_number(folder):
    edit_json(folder / "model_index.json", lambda d: d.update(unet=7))


# --- folders --------------------------------------------------------------------------------------


@case("vae: no such folder")
def folder_missing(folder):
    (folder / "vae").rename(folder.parent / "gone")


@case("vae: leads outside the checkpoint")
def folder_links_outside(folder):
    (folder / "vae").rename(folder.parent / "gone")
    (folder / "vae").symlink_to(folder.parent / "gone")


@case("one model, not a whole checkpoint")
def folder_of_one_model(folder):
    return folder / "unet"


@case("no such file or folder")
def path_missing(folder):
    return folder / "nothing" / "here"


@case("holds a NUL")
def path_with_nul(folder):
    return str(folder) + "\0"


@case(r"\(5000 characters\).*: no such file or folder")
def path_of_5000_characters(folder):
    return "x" * 5000


@case("no such file or folder")
def path_in_an_unknown_home(folder):
    return "~nobody_of_that_name/model"


@case("variant '../x' is no name", variant="../x")
def variant_is_a_path(folder):
    pass


@case("no weights of variant 'fp8'; it has none but the plain ones", variant="fp8")
def variant_missing(folder):
    pass


# --- config.json ----------------------------------------------------------------------------------


def config_case(message, part="unet", *, error=ConfigError):
    """Registers a function that changes the parsed config of `part`."""

    def register(change):
        def damage(folder):
            file = "scheduler_config.json" if part == "scheduler" else "config.json"
            edit_json(folder / part / file, change)

        damage.__name__ = change.__name__
        return case(message, error=error)(damage)

    return register


@case("config.json: no such file")
def config_missing(folder):
    (folder / "unet" / "config.json").unlink()


@case("leads outside the checkpoint")
def config_links_outside(folder):
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").symlink_to("/etc/hostname")


@config_case("unknown keys 'magic'")
def config_that_excuses_itself(config):
    config.update(magic=1, _ignore_config_keys=["magic"])


@config_case("layers_per_block must be a whole number or .*, found 1.5")
def config_of_half_a_layer(config):
    config["layers_per_block"] = 1.5


@config_case("layers_per_block is 1000000")
def config_of_a_large_float(config):
    config["layers_per_block"] = 1e300


@config_case("unknown keys 'magic', 'wand'")
def config_unknown_keys(config):
    config.update(magic=1, wand=2)


@config_case("in_channels must be a whole number, found '4'.*out_channels must be")
def config_wrong_types(config):
    config.update(in_channels="4", out_channels=None)


@config_case("layers_per_block must be .*, found True")
def config_bool_for_a_number(config):
    config["layers_per_block"] = True


@config_case("NaN is not JSON")
def config_nan(config):
    config["norm_eps"] = float("nan")


@config_case("block_out_channels is 1000000000, expected 1 to 8192")
def config_absurd_width(config):
    config["block_out_channels"] = [10**9, 10**9]


@config_case("block_out_channels is -16")
def config_negative_width(config):
    config["block_out_channels"] = [-16, 32]


@config_case("block_out_channels has 100000 items")
def config_absurd_depth(config):
    config["block_out_channels"] = [16] * 100_000


@config_case("down_block_types has 2 items, expected 3")
def config_lists_of_different_lengths(config):
    config["block_out_channels"] = [16, 32, 32]


@config_case("layers_per_block")
def config_absurd_layers(config):
    config["layers_per_block"] = 1_000_000


@config_case("transformer")
def config_absurd_transformers(config):
    config.update(transformer_layers_per_block=64, layers_per_block=32)


@config_case(r"norm_num_groups|groups")
def config_groups_do_not_divide(config):
    config["norm_num_groups"] = 7


@config_case("misshapen: .*'conv_in.bias' is .16., expected .24.", error=CheckpointError)
def config_disagrees_with_tensors(config):
    config["block_out_channels"] = [24, 32]


@config_case("[1-9][0-9]* extra: ", error=CheckpointError)
def config_of_fewer_layers(config):
    config["layers_per_block"] = 1


@config_case("[1-9][0-9]* missing: ", error=CheckpointError)
def config_of_more_layers(config):
    config["layers_per_block"] = 3


@config_case("misshapen", error=CheckpointError)
def config_as_wide_as_allowed(config):
    config["block_out_channels"] = [8192, 8192]


@config_case("_class_name is 'UNet3DConditionModel', expected UNet2DConditionModel")
def config_of_another_class(config):
    config["_class_name"] = "UNet3DConditionModel"


@config_case("auto_map would run code")
def config_with_code(config):
    config["auto_map"] = {"AutoModel": "evil.py--Model"}


@config_case("latent_channels", "vae")
def vae_config_without_channels(config):
    config["latent_channels"] = 0


@config_case("scaling_factor", "vae")
def vae_config_scale_is_text(config):
    config["scaling_factor"] = "big"


@config_case("down_block_types", "vae")
def vae_config_unknown_block(config):
    config["down_block_types"] = ["AttnDownEncoderBlock2D"] * 4


@config_case("model_type is 't5', expected 'clip_text_model'", "text_encoder")
def text_config_of_another_model(config):
    config["model_type"] = "t5"


@config_case("num_hidden_layers is 1000000", "text_encoder")
def text_config_absurd_layers(config):
    config["num_hidden_layers"] = 1_000_000


@config_case("hidden_act", "text_encoder")
def text_config_unknown_activation(config):
    config["hidden_act"] = "__import__('os')"


@config_case("num_attention_heads", "text_encoder")
def text_config_heads_do_not_divide(config):
    config["num_attention_heads"] = 3


@config_case("Scheduler", "scheduler")
def scheduler_of_another_class(config):
    config["_class_name"] = "os.system"


@config_case("beta_start", "scheduler")
def scheduler_beta_is_text(config):
    config["beta_start"] = "0.1"


@config_case("num_train_timesteps", "scheduler")
def scheduler_absurd_steps(config):
    config["num_train_timesteps"] = 10**12


@case("expected vocab.json and merges.txt")
def vocabulary_missing(folder):
    (folder / "tokenizer" / "vocab.json").unlink()


@case("id of 'a'", error=ConfigError)
def vocabulary_of_texts(folder):
    edit_json(folder / "tokenizer" / "vocab.json", lambda d: d.update(a="b"))


@case("merges.txt: line 2: expected two tokens", error=ConfigError)
def merges_of_three(folder):
    replace(folder / "tokenizer" / "merges.txt", b"#version: 0.2\na b c\n")


@case("leads outside the checkpoint, to '/etc/hostname'")
def vocabulary_links_outside(folder):
    (folder / "tokenizer" / "vocab.json").unlink()
    (folder / "tokenizer" / "vocab.json").symlink_to("/etc/hostname")
