"""Damaged checkpoints of diffusion models that read no text: DDPM's, flat too, and DiT's."""

from __future__ import annotations

import os

import torch
from damage import case, edit_json, edit_tensors

from pyengine.errors import ConfigError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@case("unknown keys 'flux'", base="ddpm_folder", error=ConfigError)
def ddpm_with_an_unknown_key(folder):
    edit_json(folder / "unet/config.json", lambda d: d.update(flux=1))


@case("down_block_types", base="ddpm_folder", error=ConfigError)
def ddpm_of_score_matching(folder):
    edit_json(folder / "unet/config.json", lambda d: d.update(down_block_types=["SkipDownBlock2D"]))


@case("block_out_channels", base="ddpm_folder", error=ConfigError)
def ddpm_wider_than_memory(folder):
    edit_json(folder / "unet/config.json", lambda d: d.update(block_out_channels=[10**9, 16]))


@case("more than 256 residual blocks", base="ddpm_folder", error=ConfigError)
def ddpm_of_a_thousand_blocks(folder):
    def change(d):
        d.update(
            block_out_channels=[8] * 16,
            layers_per_block=32,
            norm_num_groups=1,
            down_block_types=["DownBlock2D"] * 16,
            up_block_types=["UpBlock2D"] * 16,
        )

    edit_json(folder / "unet/config.json", change)


@case("1 missing: 'conv_in.bias'", base="ddpm_folder")
def ddpm_without_a_tensor(folder):
    edit_tensors(folder, lambda t: t.pop("conv_in.bias"))


@case("misshapen.*'conv_out.weight' is", base="ddpm_folder")
def ddpm_with_another_last_layer(folder):
    edit_tensors(folder, lambda t: t.update({"conv_out.weight": torch.zeros(4, 16, 3, 3)}))


@case("_class_name is 'UNet2DConditionModel'", base="ddpm_folder", error=ConfigError)
def ddpm_whose_network_reads_texts(folder):
    edit_json(folder / "unet/config.json", lambda d: d.update(_class_name="UNet2DConditionModel"))


@case("beta_schedule", base="ddpm_folder", error=ConfigError)
def ddpm_with_unknown_betas(folder):
    edit_json(folder / "scheduler/scheduler_config.json", lambda d: d.update(beta_schedule="evil"))


@case("DDPMPipeline needs scheduler too", base="ddpm_folder")
def ddpm_without_a_scheduler(folder):
    edit_json(folder / "model_index.json", lambda d: d.pop("scheduler"))


@case("config.json: no such file", base="flat_folder")
def flat_without_a_config(folder):
    (folder / "config.json").unlink()


@case("expected diffusion_pytorch_model.safetensors", base="flat_folder")
def flat_without_weights(folder):
    (folder / WEIGHTS).rename(folder / "other.safetensors")


@case("only pickles", base="flat_folder")
def flat_of_pickles(folder):
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


@case("leads outside the checkpoint", base="flat_folder")
def flat_whose_weights_lie_elsewhere(folder):
    place = folder.parent / "elsewhere.safetensors"
    os.replace(folder / WEIGHTS, place)
    (folder / WEIGHTS).symlink_to(place)


@case("leads outside the checkpoint", base="flat_folder")
def flat_with_a_link_for_a_part(folder):
    place = folder.parent / "elsewhere"
    place.mkdir()
    (folder / "unet").symlink_to(place)


@case("no weights: expected", base="flat_folder")
def flat_with_an_empty_folder_for_a_part(folder):
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_bytes((folder / "config.json").read_bytes())


@case("would run code", base="flat_folder", error=ConfigError)
def flat_with_code(folder):
    edit_json(folder / "config.json", lambda d: d.update(auto_map={"AutoModel": "evil.Model"}))


@case("norm_type", base="dit_folder", error=ConfigError)
def dit_with_another_norm(folder):
    edit_json(folder / "transformer/config.json", lambda d: d.update(norm_type="ada_norm"))


@case("num_layers", base="dit_folder", error=ConfigError)
def dit_of_a_billion_layers(folder):
    edit_json(folder / "transformer/config.json", lambda d: d.update(num_layers=10**9))


@case("misshapen.*embedding_table", base="dit_folder")
def dit_of_fewer_classes(folder):
    edit_json(folder / "transformer/config.json", lambda d: d.update(num_embeds_ada_norm=9))
