"""Names that differ between checkpoints for no reason, and tensors that do not matter."""

import fnmatch
import re
from collections.abc import Iterable

# Tensors that may come on top of a model's own: none takes part in inference.
HARMLESS = (
    "*.position_ids",  # 0, 1, 2...: a buffer that older transformers saved
    "position_ids",
    "model_ema.*",  # training's moving average, kept beside the weights
    "ema.*",
    "logit_scale",  # CLIP's training temperature
    "*.num_batches_tracked",
)

# The same for files of the original code: its diffusion tables and training's leftovers.
ORIGINAL_HARMLESS = (
    "alphas_cumprod*",
    "betas",
    "log_one_minus_alphas_cumprod",
    "lvlb_weights",
    "posterior_*",
    "sqrt_*alphas_cumprod",
    "sqrt_recip*_alphas_cumprod",
    "denoiser.sigmas",
    "logvar",
    "scale_factor",
    "global_step",
    "v_pred",  # markers of some SDXL fine-tunes: v prediction, zero-terminal SNR
    "ztsnr",
    "*.logit_scale",
    "*.attn_mask",
    "cond_stage_model.transformer.text_projection.weight",
    "cond_stage_model.text_projection",
)

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


def matcher(patterns: Iterable[str]) -> re.Pattern:
    """A compiled pattern whose fullmatch says whether a name fits any of the fnmatch `patterns`."""
    joined = "|".join(fnmatch.translate(p) for p in patterns)
    return re.compile(joined or r"(?!)")
