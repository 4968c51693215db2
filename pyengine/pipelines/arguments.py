"""One table of what calls of pipelines are asked: each argument's check, option and settings.

Requests are checked by it, the command line's options and a picture's settings are made from it,
and a pipeline that lacks an argument says so by it. Nothing here imports torch: `pyengine generate
--help` reads it. What the arguments mean is told where a pipeline's `__call__` declares them; a
test holds the table and those signatures together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .argument_kinds import (
    Argument,
    Choice,
    Data,
    Loaded,
    Picture,
    Real,
    Weighted,
    Whole,
    Words,
)

#: Held equal to pyengine.schedules.SAMPLER_NAMES by a test.
SAMPLERS = (
    "ddim", "ddpm", "deis", "dpm2", "dpm2_ancestral", "dpmpp_2m", "dpmpp_2m_karras",
    "dpmpp_2m_sde", "dpmpp_2m_sde_karras", "dpmpp_2s", "dpmpp_sde", "dpmpp_sde_karras",
    "edm_dpmpp_2m", "edm_euler", "euler", "euler_ancestral", "flow_euler", "heun", "ipndm", "lcm",
    "lms", "pndm", "sa_solver", "tcd", "unipc",
)  # fmt: skip
#: Held equal to pyengine.guidance.METHODS by a test.
GUIDANCE_METHODS = ("cfg", "cfg++", "perp-neg", "composed")
#: Held equal to pyengine.pipelines.prompt_weights.SYNTAXES by a test.
PROMPT_WEIGHTINGS = ("a1111", "compel")
#: Held equal to pyengine.decoding.request.DECODINGS by a test.
DECODINGS = ("sequential", "jacobi", "jacobi-gumbel")
EFFORTS = ("full", "fast")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_SIDE = Whole(1, 8192)
_SIZE_SHOWN = "the model's; 64 for emoji"

#: In the order of the command line's options.
ARGUMENTS: tuple[Argument, ...] = (
    Argument("prompt", Words(), setting="prompt"),
    Argument("num_images_per_prompt", Whole(1, 1024), everywhere=True),
    Argument(
        "num_inference_steps", Whole(1, 100_000), option="steps", setting="steps",
        usual=(1, 100), help="Denoising steps.", shown="the model's; 20 for emoji",
    ),
    Argument(
        "seed", Whole(0, 2**63 - 1), own=True, everywhere=True, option="seed", shown="random",
        help="Seed of the first picture; the next has one more.",
    ),
    Argument(
        "scheduler", Words("NAME", SAMPLERS), option="scheduler", setting="scheduler", asked=True,
        help=f"Sampler: {', '.join(SAMPLERS)}; other tools' names will do.", shown="the model's",
    ),
    Argument(
        "guidance_scale", Real(0, 1000), nothing=1, option="guidance", setting="guidance_scale",
        usual=(1, 15), help="Guidance scale; 1 turns it off.",
        shown="the model's; 2.5 for emoji, 2 for emoji-ar",
    ),
    Argument(
        "image_guidance_scale", Real(0, 1000), own=True, option="image_guidance",
        setting="image_guidance_scale", asked=True, shown="the model's; 1.5",
        help="InstructPix2Pix: how much the picture guides.",
    ),
    Argument(
        "guidance_rescale", Real(0, 1), nothing=0, option="guidance_rescale",
        setting="guidance_rescale", help="0 to 1: against overexposure.", shown="0",
    ),
    Argument(
        "guidance_start", Real(0, 1), nothing=0, option="guidance_start", setting="guidance_start",
        asked=True, help="Share of the steps before it guides.", shown="0",
    ),
    Argument(
        "guidance_end", Real(0, 1), nothing=1, option="guidance_end", setting="guidance_end",
        asked=True, help="Share of the steps after which it no longer guides.", shown="1",
    ),
    Argument(
        "effort", Choice(EFFORTS), nothing="full", option="effort", setting="effort", asked=True,
        help="Stable Diffusion: fast takes fewer steps where nothing else says how many.",
        shown="full",
    ),
    Argument(
        "cache_interval", Whole(1, 1000), nothing=1, option="cache_interval",
        setting="cache_interval", asked=True, usual=(1, 10), shown="1",
        help="Stable Diffusion: every so many evaluations compute the whole U-Net.",
    ),
    Argument(
        "cache_branch_id", Whole(0, 1000), nothing=0, option="cache_branch_id",
        setting="cache_branch_id", asked=True, usual=(0, 11), shown="0",
        help="The others its outermost layers, one more each way for each more.",
    ),
    Argument(
        "prior_num_inference_steps", Whole(2, 100_000), own=True, option="prior_steps",
        setting="prior_steps", asked=True, help="unCLIP, Kandinsky: of the prior.",
        shown="the model's; 25",
    ),
    Argument(
        "decoder_num_inference_steps", Whole(2, 100_000), own=True, option="decoder_steps",
        setting="decoder_steps", asked=True, help="unCLIP: of the decoder.",
        shown="the model's; 25",
    ),
    Argument(
        "super_res_num_inference_steps", Whole(2, 100_000), own=True, option="super_res_steps",
        setting="super_res_steps", asked=True, help="unCLIP: of the super-resolution.",
        shown="the model's; 7",
    ),
    Argument(
        "prior_guidance_scale", Real(0, 1000), own=True, option="prior_guidance",
        setting="prior_guidance_scale", asked=True, help="unCLIP, Kandinsky: of the prior.",
        shown="the model's; 4",
    ),
    Argument(
        "decoder_guidance_scale", Real(0, 1000), own=True, option="decoder_guidance",
        setting="decoder_guidance_scale", asked=True, help="unCLIP: of the decoder.",
        shown="the model's; 8",
    ),
    Argument(
        "guidance_method", Choice(GUIDANCE_METHODS), nothing="cfg", option="guidance_method",
        setting="guidance_method", asked=True, shown="cfg",
        help=f"How prompts guide: {', '.join(GUIDANCE_METHODS)}.",
    ),
    Argument(
        "negative_scale", Real(0, 1000), own=True, option="negative_scale",
        setting="negative_scale", asked=True, shown="1",
        help="How much the negative prompt counts in perp-neg and composed.",
    ),
    Argument(
        "negative_prompt", Words(), option="negative", setting="negative_prompt", asked=True,
        help="What the picture does not show.",
    ),
    Argument(
        "prompt_weighting", Choice(PROMPT_WEIGHTINGS), option="prompt_weighting",
        setting="prompt_weighting", asked=True, shown="none",
        help="Stable Diffusion: how prompts weigh their words: a1111 or compel.",
    ),
    Argument(
        "height", _SIDE, own=True, option="height", setting="height", usual=(64, 1024),
        help="Pixels.",
        shown=_SIZE_SHOWN,
    ),
    Argument(
        "width", _SIDE, own=True, option="width", setting="width", usual=(64, 1024),
        help="Pixels.",
        shown=_SIZE_SHOWN,
    ),
    Argument("image", Picture(), option="init_image", help="A picture to begin from."),
    Argument(
        "strength", Real(0, 1), own=True, option="strength", setting="strength",
        help="0 to 1: how much of it is made anew.", shown="the model's; 0.8, with --mask 1",
    ),
    Argument(
        "original_image", Picture(), option="original_image",
        help="DeepFloyd IF's further stages: what the picture was made of.",
    ),
    Argument(
        "noise_level", Whole(0, 999), option="noise_level", setting="noise_level", asked=True,
        help="DeepFloyd IF's further stages: of the noise on the picture.",
        shown="the model's; 250",
    ),
    Argument(
        "mask_image", Picture(), option="mask",
        help="White where it is made anew; black, transparent: kept.",
    ),
    Argument(
        "eta", Real(0, 1), nothing=0, option="eta", setting="eta", help="0 to 1: DDIM's noise.",
        shown="0",
    ),
    Argument(
        "clip_skip", Whole(0, 128), own=True, option="clip_skip", setting="clip_skip", asked=True,
        usual=(0, 4), help="Text encoder layers to leave out.", shown="0",
    ),
    Argument(
        "class_labels", Whole(0, 1_000_000), own=True, option="class_label",
        setting="class_labels", asked=True,
        help="Models of classes, and with a classifier: the picture's class.",
    ),
    Argument(
        "truncation", Real(0, 1), own=True, option="truncation", setting="truncation", asked=True,
        help="BigGAN: above 0, at most 1; less is more typical of its class.",
        shown="the model's; 0.4",
    ),
    Argument(
        "temperature", Real(0, 100), tokens=True, option="temperature", setting="temperature",
        asked=True, usual=(0, 2), help="Token models: 0 draws the likeliest every time.",
        shown="the model's; 1 for emoji-ar",
    ),
    Argument(
        "top_k", Whole(0, 1 << 20), nothing=0, tokens=True, option="top_k", setting="top_k",
        asked=True, usual=(0, 1000), help="Token models: so many may be drawn; 0: all.",
        shown="the model's; 200 for emoji-ar",
    ),
    Argument(
        "top_p", Real(0, 1), nothing=1, tokens=True, option="top_p", setting="top_p", asked=True,
        help="Token models: the likeliest up to that.", shown="the model's; 0.95 for emoji-ar",
    ),
    Argument(
        "min_p", Real(0, 1), nothing=0, tokens=True, option="min_p", setting="min_p", asked=True,
        help="Token models: this share of the likeliest.", shown="the model's; 0",
    ),
    Argument(
        "prefix", Picture(), tokens=True, option="prefix",
        help="Token models: a picture of the upper rows, to be completed.",
    ),
    Argument(
        "decoding", Choice(DECODINGS), tokens=True, option="decoding", setting="decoding",
        help=f"Models that draw token by token: {', '.join(DECODINGS)}.", shown="sequential",
    ),
    # Leaves the tokens as they are: no picture remembers it.
    Argument(
        "window", Whole(1, 1 << 16), tokens=True, option="window",
        usual=(1, 64), help="Tokens that a pass of jacobi reads.", shown="the model's",
    ),
    Argument(
        "stages", Words("JSON"), own=True, option="stages", setting="stages", asked=True,
        help="Cascades: JSON, a list of each stage's own arguments by their names in Python.",
        shown="as the options say",
    ),
    Argument(
        "upscaler", Loaded(), option="upscaler", shown="none",
        help="An upscaler's folder or .safetensors file: enlarges the pictures.",
    ),
    Argument(
        "classifier", Loaded(), option="classifier", shown="none",
        help="Diffusion: a folder of a classifier of noised pictures, whose gradient guides; slow.",
    ),
    Argument(
        "classifier_scale", Real(0, 1000), own=True, option="classifier_scale",
        setting="classifier_scale", asked=True, usual=(0, 20), shown="1",
        help="How much of that gradient.",
    ),
    Argument(
        "clip_model", Loaded(), option="clip_model", shown="none",
        help="Diffusion: a folder of a whole CLIP, whose gradient guides; slow.",
    ),
    Argument(
        "clip_prompt", Words(), own=True, option="clip_prompt", setting="clip_prompt", asked=True,
        help="The text that it guides to.", shown="the prompt, without --clip-image",
    ),
    Argument(
        "clip_image", Picture(), option="clip_image", help="A picture that it guides to.",
    ),
    Argument(
        "clip_guidance_scale", Real(0, 1_000_000), own=True, option="clip_guidance_scale",
        setting="clip_guidance_scale", asked=True, usual=(0, 1000), shown="100",
        help="How much of that gradient.",
    ),
    Argument(
        "lora", Weighted(-100, 100), own=True, option="lora", setting="lora", asked=True,
        shown="none", help="LoRAs of the folder --lora-dir, separated by commas.",
    ),
    Argument(
        "control_image", Picture(), option="control",
        help="With --controlnet or --t2i-adapter: the picture that is shown to it.",
    ),
    Argument(
        "controlnet_conditioning_scale", Real(-100, 100), own=True, nothing=1,
        option="control_scale", setting="control_scale", asked=True,
        help="How much a ControlNet counts.", shown="1",
    ),
    Argument(
        "control_guidance_start", Real(0, 1), own=True, nothing=0, option="control_start",
        setting="control_start", asked=True, help="Share of the steps before it acts.", shown="0",
    ),
    Argument(
        "control_guidance_end", Real(0, 1), own=True, nothing=1, option="control_end",
        setting="control_end", asked=True, help="Share of the steps after which it no longer acts.",
        shown="1",
    ),
    Argument(
        "control_mode", Whole(0, 63), own=True, option="control_mode", setting="control_mode",
        asked=True, help="Of a ControlNet for several kinds of pictures, the kind.",
    ),
    Argument("guess_mode", nothing=False),
    Argument(
        "ip_adapter_image", Picture(), option="ip_adapter_image",
        help="With --ip-adapter: a picture as a prompt beside the text.",
    ),
    Argument("ip_adapter_image_embeds", Data()),
    Argument(
        "ip_adapter_scale", Real(-100, 100), own=True, option="ip_adapter_scale",
        setting="ip_adapter_scale", asked=True, help="How much it counts.", shown="1",
    ),
    Argument(
        "adapter_conditioning_scale", Real(-100, 100), own=True, nothing=1, option="adapter_scale",
        setting="adapter_scale", asked=True, help="How much a T2I-Adapter counts.", shown="1",
    ),
    Argument(
        "adapter_conditioning_factor", Real(0, 1), own=True, nothing=1, option="adapter_share",
        setting="adapter_share", asked=True, help="In which share of the steps, from the first on.",
        shown="1",
    ),
    Argument("output_type", Choice(OUTPUT_TYPES), everywhere=True),
    *(Argument(name, Data()) for name in (
        "aesthetic_score", "crops_coords_top_left", "denoising_end", "denoising_start",
        "negative_aesthetic_score", "negative_crops_coords_top_left", "negative_original_size",
        "negative_prompt_2", "negative_target_size", "original_inference_steps", "original_size",
        "padding_mask_crop", "prompt_2", "sigmas", "target_size", "timestep_spacing", "timesteps",
    )),
    *map(Argument, (
        "decoder_latents", "depth_map", "hint", "image_embeddings", "image_embeds", "latents",
        "masked_image_latents",
        "negative_image_embeds", "negative_pooled_prompt_embeds", "negative_prompt_embeds",
        "pooled_prompt_embeds", "prior_latents", "prompt_embeds", "super_res_latents",
        "text_attention_mask", "text_model_output",
    )),
    *(Argument(name, everywhere=True) for name in (
        "callback_on_step_end", "callback_on_step_end_tensor_inputs", "generator", "progress",
        "return_dict", "run", "timeout",
    )),
    Argument("prior_callback_on_step_end"),
    Argument("prior_callback_on_step_end_tensor_inputs"),
    Argument("num_images", Whole(1, 1024), own=True),
    Argument("tile", Whole(1, 1 << 15), own=True),
    Argument("overlap", Whole(0, 1 << 15), own=True),
    Argument("batch_size", Whole(1, 1024), own=True, nothing=1),
    Argument("use_clipped_model_output", Data()),
    Argument("micro_conditioning_aesthetic_score", Real(0, 10), own=True),
    Argument("micro_conditioning_crop_coord", Data()),
)  # fmt: skip
BY_NAME: Mapping[str, Argument] = {argument.name: argument for argument in ARGUMENTS}
#: The command line's, in its order.
OPTIONS = tuple(argument for argument in ARGUMENTS if argument.option is not None)
#: Those that a picture's settings hold.
REMEMBERED = tuple(argument for argument in ARGUMENTS if argument.setting is not None)


def check(name: str, value: Any) -> Any:
    """`value` as the argument is used. Raises RequestError that says what was expected."""
    kind = BY_NAME[name].kind
    assert isinstance(kind, Whole | Real | Choice)
    return kind.check(name, value)


def checked(given: Mapping[str, Any], defaults: object) -> dict[str, Any]:
    """The given arguments, the simple ones checked; for None the field of that name of `defaults`,
    where it has one.
    """
    values = dict(given)
    for name, value in given.items():
        if value is None and hasattr(defaults, name):
            values[name] = getattr(defaults, name)
        elif name in BY_NAME and BY_NAME[name].simple:
            values[name] = check(name, value)
    return values


def bounds(names: Sequence[str]) -> dict[str, dict[str, float]]:
    """{name: {"min": ..., "max": ...}} of those that are numbers, as read_config takes them."""
    kinds = {name: BY_NAME[name].kind for name in names if name in BY_NAME}
    return {
        name: {"min": kind.low, "max": kind.high}
        for name, kind in kinds.items()
        if isinstance(kind, Whole | Real)
    }


def json_schema(call: Any) -> dict[str, Any]:
    """A JSON schema of the plain arguments of a pipeline's call: numbers, words and choices."""
    import inspect

    own = inspect.signature(call).parameters
    rows = [argument for argument in ARGUMENTS if argument.name in own]
    properties = {
        row.name: {**row.kind.schema(), **({"description": row.help} if row.help else {})}
        for row in rows
        if isinstance(row.kind, Whole | Real | Choice | Words | Weighted)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}
