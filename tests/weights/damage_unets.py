"""U-Nets of other families in a Stable Diffusion checkpoint."""

from __future__ import annotations

from damage_configs import config_case

from pyengine.errors import CheckpointError


@config_case("missing: .*add_embedding", error=CheckpointError)
def unet_that_embeds_a_text_beside_the_time(config):
    config.update(addition_embed_type="text", addition_embed_type_num_heads=2)


@config_case("2 missing: 'encoder_hid_proj.weight', 'encoder_hid_proj.bias'", error=CheckpointError)
def unet_that_projects_its_text(config):
    config["encoder_hid_dim"] = 32


@config_case('addition_embed_type "image" needs encoder_hid_dim')
def unet_of_pictures_without_their_width(config):
    config["addition_embed_type"] = "image"


@config_case("is no multiple of 3, the width of its heads")
def unet_of_heads_that_do_not_divide(config):
    config["down_block_types"] = ["SimpleCrossAttnDownBlock2D", "DownBlock2D"]
    config["attention_head_dim"] = [3, 1]


@config_case(
    "[1-9][0-9]* missing: .*time_emb_proj|misshapen: .*time_emb_proj", error=CheckpointError
)
def unet_of_wider_times(config):
    config["resnet_time_scale_shift"] = "scale_shift"


@config_case("missing: .*add_k_proj", error=CheckpointError)
def unet_of_added_keys(config):
    config["mid_block_type"] = "UNetMidBlock2DSimpleCrossAttn"


@config_case("addition_embed_type_num_heads is 1099511627776")
def unet_of_absurd_heads(config):
    config["addition_embed_type_num_heads"] = 1 << 40
