"""A U-Net of another family in a Stable Diffusion checkpoint: refused before it is read."""

from types import SimpleNamespace

import pytest

from pyengine.errors import ConfigError
from pyengine.models import UNet2DConditionConfig
from pyengine.pipelines.stable_diffusion.parts import check_text_width

TEXT = SimpleNamespace(hidden_size=32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"addition_embed_type": "text", "addition_embed_type_num_heads": 2},
            "unet: addition_embed_type 'text' does not fit a StableDiffusionPipeline",
        ),
        (
            {"encoder_hid_dim": 32},
            "unet: encoder_hid_dim_type 'text_proj' does not fit a StableDiffusionPipeline",
        ),
        (
            {"encoder_hid_dim": 32, "encoder_hid_dim_type": "image_proj"},
            "unet: encoder_hid_dim_type 'image_proj' does not fit a StableDiffusionPipeline",
        ),
    ],
)
def test_what_it_is_told_does_not_fit(change, message):
    unet = UNet2DConditionConfig.from_dict({"cross_attention_dim": 32, **change})
    configs = {"unet": unet, "text_encoder": TEXT}
    with pytest.raises(ConfigError, match=message):
        check_text_width(configs, "folder", "StableDiffusionPipeline", {})
