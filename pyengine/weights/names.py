"""Names that differ between checkpoints for no reason, and tensors that do not matter."""

import fnmatch
import re
from collections.abc import Iterable


def _anywhere(*patterns: str) -> tuple[str, ...]:
    """The patterns, and the same below any prefix."""
    return tuple(p for pattern in patterns for p in (pattern, f"*.{pattern}"))


# Tensors that may come on top of a model's own: none takes part in inference. A tensor is compared
# with these only when no model has a place for it, so none of them can hide one that is needed.
HARMLESS = (
    *_anywhere(
        "position_ids",  # 0, 1, 2...: a buffer that older transformers saved
        "model_ema.*",  # training's moving average, kept beside the weights
        "loss.*",  # of an autoencoder's training: its discriminator, the LPIPS network
        "logit_scale",  # CLIP's training temperature
        "logit_bias",
        "num_batches_tracked",
        "epoch",  # how far training was
        "global_step",
        "scaled_fp8",  # says that ComfyUI's scaled fp8 follows; see quantised.py
        "alphas_cumprod*",  # tables of the diffusion process
        "betas",
        "log_one_minus_alphas_cumprod",
        "lvlb_weights",
        "posterior_*",
        "sqrt_*",
        "logvar",
        "scale_factor",
        "denoiser.*sigmas",
        "attn_mask",  # OpenCLIP's causal mask
        "vision_model.*",  # CLIP's other tower, for pictures, under its two names
        "visual.*",
        "visual_projection.*",
    ),
    "ema.*",
    "step",
    "optimizer*",
    "lr_scheduler*",
)

# The same by names that only files of the original code have.
ORIGINAL_HARMLESS = (
    "v_pred",  # markers of some fine-tunes: v prediction, zero-terminal SNR
    "ztsnr",
    # The projection of a text encoder that Stable Diffusion takes the hidden states of.
    "cond_stage_model.*text_projection*",
    "conditioner.embedders.0.*text_projection*",
    "embedding_manager.*",  # textual inversion's, with a copy of the text encoder
)

# What other tensors are a sign of, by how their names begin or what is in them.
OTHER_KINDS = {
    "a LoRA": ("lora_", ".lora_down", ".lora_A", "lora."),
    "a ControlNet": ("control_model.", "input_hint_block", "controlnet"),
    "depth-to-image": ("depth_model.",),
    "unCLIP": ("noise_augmentor.", "embedder.model."),
    "an upscaler": ("low_scale_model.",),
    "CosXL (EDM)": ("edm_vpred.",),
    "AnimateDiff": ("motion_modules.",),
    "GLIGEN": (".fuser.", "position_net."),
    "an IP-Adapter": ("ip_adapter.", "image_proj."),
}


def other_kind(names: Iterable[str]) -> str | None:
    """Which kind of model the names are a sign of, of OTHER_KINDS."""
    names = list(names)
    for kind, marks in OTHER_KINDS.items():
        if any(mark in name for name in names for mark in marks):
            return kind
    return None


# Before diffusers 0.12 the autoencoder's attention had other names; SD 1.5's is saved with them.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)")


def modern_names(name: str) -> tuple[str, ...]:
    """Today's names for a tensor that an older diffusers or another transformers saved as `name`.

    Tried in order, and only when `name` itself is none of the model's.
    """
    match = _OLD_NAME.fullmatch(name)
    if match:
        return (match[1] + _OLD_ATTENTION[match[2]] + match[3],)
    if name.startswith("text_model."):
        return (name.removeprefix("text_model."),)
    return (f"text_model.{name}",)


def matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """A compiled pattern whose fullmatch says whether a name fits any of the fnmatch `patterns`."""
    joined = "|".join(fnmatch.translate(p) for p in patterns)
    return re.compile(joined or r"(?!)")
