"""Tiny Kandinsky 2.2 checkpoints, as diffusers saves them."""

from __future__ import annotations

import shutil
from pathlib import Path

import tiny

#: Of an embedding; of the tests' CLIP, both towers.
WIDTH = 32
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 32,
    "attention_head_dim": 16,
    "resnet_time_scale_shift": "scale_shift",
    "encoder_hid_dim": WIDTH,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
}
HINTED = {"in_channels": 8, "addition_embed_type": "image_hint"}
MOVQ = {
    "norm_type": "spatial",
    "norm_num_groups": 32,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "latent_channels": 4,
    "vq_embed_dim": 4,
    "num_vq_embeddings": 29,
}
#: As kandinsky-community/kandinsky-2-2-decoder has it.
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
#: As kandinsky-community/kandinsky-2-2-prior has it.
PRIOR_SCHEDULER = {
    "variance_type": "fixed_small_log",
    "prediction_type": "sample",
    "clip_sample_range": 5.0,
}


def write(folder, *, unet=None, movq=None, scheduler=None, gain: float = 0.1, kind=""):
    """A decoder's folder, of pictures of multiples of 4 pixels. gain: of the U-Net's last layer, at
    whose full size a random network's outputs are chaotic. kind: "Img2Img", "Inpaint",
    "Controlnet" or "ControlnetImg2Img".
    """
    import diffusers

    own = {
        "Inpaint": {"in_channels": 9},
        "Controlnet": HINTED,
        "ControlnetImg2Img": HINTED,
    }.get(kind, {})
    net = tiny.make_unet(13, **{**UNET, **own, **(unet or {})})
    for p in net.conv_out.parameters():
        p.data.mul_(gain)
    cls = getattr(diffusers, f"KandinskyV22{kind}Pipeline")
    pipe = cls(
        unet=net,
        movq=tiny.make_vq(**{**MOVQ, **(movq or {})}),
        scheduler=scheduler or diffusers.DDPMScheduler(**SCHEDULER),
    )
    pipe.save_pretrained(folder)
    return Path(folder)


def write_prior(folder, *, prior=None, image=None, text=None):
    """A prior's folder."""
    import diffusers
    from transformers import CLIPImageProcessor, CLIPTokenizer

    folder = Path(folder)
    words = tiny.write_tokenizer(folder / "words")
    keys = {
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
        "embedding_dim": WIDTH, "num_embeddings": 77, "additional_embeddings": 4,
    }  # fmt: skip
    pipe = diffusers.KandinskyV22PriorPipeline(
        # What a prior begins with at zero (positions, clip_std, clip_mean) is drawn.
        prior=tiny.randomise(diffusers.PriorTransformer(**{**keys, **(prior or {})}), 7),
        image_encoder=tiny.make_image_encoder(**{"projection_dim": WIDTH, **(image or {})}),
        text_encoder=tiny.make_text_encoder(5, projection=True, **(text or {})),
        tokenizer=CLIPTokenizer.from_pretrained(words),
        scheduler=diffusers.UnCLIPScheduler(**PRIOR_SCHEDULER),
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    )
    shutil.rmtree(words)
    pipe.save_pretrained(folder)
    return folder
