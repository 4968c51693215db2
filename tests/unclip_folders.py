"""Tiny unCLIP checkpoints in Karlo's layout, as diffusers saves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tiny

#: Of an embedding; of the tests' CLIP, both towers.
WIDTH = 32
#: Of the decoder's pictures, and of those that come out.
SMALL, SIDE = 8, 16
DECODER = {
    "sample_size": SMALL,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": (32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 24,
    "attention_head_dim": 16,
    "resnet_time_scale_shift": "scale_shift",
    "class_embed_type": "identity",
}
TEXT_PROJ = {
    "clip_embeddings_dim": WIDTH,
    "time_embed_dim": 128,
    "cross_attention_dim": 24,
}
SUPER_RES = {
    "sample_size": SIDE,
    "in_channels": 6,
    "out_channels": 3,
    "block_out_channels": (16, 32),
    "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
    "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
}
PRIOR = {
    "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
    "embedding_dim": WIDTH, "num_embeddings": 77, "additional_embeddings": 4,
}  # fmt: skip
#: As kakaobrain/karlo-v1-alpha has them.
SCHEDULERS = {
    "prior": {
        "prediction_type": "sample",
        "variance_type": "fixed_small_log",
        "clip_sample_range": 5.0,
    },
    "decoder": {"prediction_type": "epsilon", "variance_type": "learned_range"},
    "super_res": {"prediction_type": "epsilon", "variance_type": "fixed_small_log"},
}


def make_text_proj(seed: int = 9, **overrides):
    """A diffusers UnCLIPTextProjModel; the embedding that begins at zero is drawn."""
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    return tiny.randomise(UnCLIPTextProjModel(**{**TEXT_PROJ, **overrides}), seed)


def _gained(net, gain: float):
    """The network with a last layer of less weight, at whose full size its outputs are chaotic."""
    for p in net.conv_out.parameters():
        p.data.mul_(gain)
    return net


def parts(folder: Path, gain: float = 0.1) -> dict:
    """What both pipelines have."""
    import diffusers
    from transformers import CLIPTokenizer

    words = tiny.write_tokenizer(folder / "words")
    schedulers = {
        f"{name}_scheduler": diffusers.UnCLIPScheduler(**SCHEDULERS[name])
        for name in ("decoder", "super_res")
    }
    made = {
        "decoder": _gained(tiny.make_unet(13, **DECODER), gain),
        "text_encoder": tiny.make_text_encoder(5, projection=True, projection_dim=WIDTH),
        "tokenizer": CLIPTokenizer.from_pretrained(words),
        "text_proj": make_text_proj(),
        "super_res_first": _gained(tiny.make_unet2d(14, **SUPER_RES), gain),
        "super_res_last": _gained(tiny.make_unet2d(15, **SUPER_RES), gain),
        **schedulers,
    }
    shutil.rmtree(words)
    return made


def pipeline(folder, gain: float = 0.1):
    """diffusers' UnCLIPPipeline, which cannot read back the folders that it saves."""
    import diffusers

    prior = tiny.randomise(diffusers.PriorTransformer(**PRIOR), 7)
    scheduler = diffusers.UnCLIPScheduler(**SCHEDULERS["prior"])
    made = diffusers.UnCLIPPipeline(
        prior=prior, prior_scheduler=scheduler, **parts(Path(folder), gain)
    )
    made.set_progress_bar_config(disable=True)
    return made


def variation_pipeline(folder, gain: float = 0.1):
    """diffusers' UnCLIPImageVariationPipeline."""
    import diffusers
    from transformers import CLIPImageProcessor

    made = diffusers.UnCLIPImageVariationPipeline(
        image_encoder=tiny.make_image_encoder(projection_dim=WIDTH),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        **parts(Path(folder), gain),
    )
    made.set_progress_bar_config(disable=True)
    return made


def write(folder, *, variation: bool = False, karlo: bool = False) -> Path:
    """A folder. karlo: its index calls text_proj's library as kakaobrain/karlo-v1-alpha has it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = (variation_pipeline if variation else pipeline)(folder)
    made.save_pretrained(folder)
    if karlo:
        index = json.loads((folder / "model_index.json").read_text())
        index["text_proj"] = ["unclip", "UnCLIPTextProjModel"]
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder
