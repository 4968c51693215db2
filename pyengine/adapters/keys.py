"""What a tensor of a LoRA file is, by its name: of which part of a pipeline, which module, what.

The spellings that are read, for a U-Net's "a.b.to_q":

    kohya            lora_unet_a_b_to_q.lora_down.weight, .alpha, .lora_mid.weight, .dora_scale
    LyCORIS          the same with .hada_w1_a, .lokr_w1, .diff, .diff_b, .w_norm, .b_norm...
    peft             unet.a.b.to_q.lora_A.weight, .lora_B.default.weight, .lora_magnitude_vector
    diffusers        unet.a.b.to_q.lora.down.weight, .lora_linear_layer.up.weight
    diffusers, old   unet.a.b.processor.to_q_lora.down.weight, with or without "unet."
"""

import re
from dataclasses import dataclass

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
PARTS = (UNET, TEXT, TEXT_2)


@dataclass(frozen=True)
class Key:
    """part: of PARTS. module: as the file spells it. flat: whether its dots are underscores.
    leaf: one of LEAVES.
    """

    part: str
    module: str
    flat: bool
    leaf: str


#: What a tensor is to its module, by the end of its name.
_ENDS = {
    r"lora_down\.weight": "down",
    r"lora_up\.weight": "up",
    r"lora_mid\.weight": "mid",
    r"lora_A(?:\.\w+)?\.weight": "down",
    r"lora_B(?:\.\w+)?\.weight": "up",
    r"lora_B(?:\.\w+)?\.bias": "up_bias",
    r"lora(?:_linear_layer)?\.down\.weight": "down",
    r"lora(?:_linear_layer)?\.up\.weight": "up",
    r"lora_magnitude_vector(?:\.\w+)*": "magnitude",
    "dora_scale": "dora_scale",
    "alpha": "alpha",
    r"(?:diff|w_norm)": "diff",
    r"(?:diff_b|b_norm)": "diff_b",
    **{name: name for name in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    )},
}  # fmt: skip
LEAVES = frozenset(_ENDS.values())
_LEAF = re.compile(r"(.+)\.(?:" + "|".join(f"({end})" for end in _ENDS) + ")")
_OLD = re.compile(r"(.+?)\.(?:processor\.)?to_(q|k|v|out)_lora\.(down|up)\.weight")
_FLAT = re.compile(r"(?:lora|lycoris)_(unet|te1|te2|te)_(.+)")
_FLAT_PARTS = {"unet": UNET, "te": TEXT, "te1": TEXT, "te2": TEXT_2}
_DOTTED = {
    "unet.": UNET,
    "text_encoder_2.": TEXT_2,
    "text_encoder.": TEXT,
    "model.diffusion_model.": UNET,
    "diffusion_model.": UNET,
    "clip_l.": TEXT,
    "clip_g.": TEXT_2,
}
_TEXT_LAYERS = ("text_model.", "encoder.layers.", "text_projection.")


def parse(name: str) -> Key | None:
    """What a tensor is; None for one that is of none of the spellings."""
    if (old := _OLD.fullmatch(name)) is not None:
        module, letter, leaf = old.groups()
        return _key(_attention(module, letter), leaf)
    if (found := _LEAF.fullmatch(name)) is None:
        return None
    module, *ends = found.groups()
    leaf = next(v for v, end in zip(_ENDS.values(), ends, strict=True) if end is not None)
    return _key(module.replace(".processor.", "."), leaf)


def _attention(module: str, letter: str) -> str:
    """The layer that an attention's to_q_lora, to_k_lora, to_v_lora or to_out_lora lies beside."""
    if module.endswith(("_proj", ".to_q", ".to_k", ".to_v", ".to_out.0")):
        return module  # named already: k_proj.to_k_lora
    if module.endswith("self_attn"):  # a text encoder's
        return f"{module}.{letter}_proj"
    return f"{module}.to_out.0" if letter == "out" else f"{module}.to_{letter}"


def _key(module: str, leaf: str) -> Key:
    if "." not in module and (flat := _FLAT.fullmatch(module)) is not None:
        return Key(_FLAT_PARTS[flat[1]], flat[2], True, leaf)
    module = module.removeprefix("base_model.model.")
    for prefix, part in _DOTTED.items():
        if module.startswith(prefix):
            return Key(part, module.removeprefix(prefix), False, leaf)
    return Key(TEXT if module.startswith(_TEXT_LAYERS) else UNET, module, False, leaf)
