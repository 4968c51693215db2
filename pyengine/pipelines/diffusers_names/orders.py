"""The orders in which diffusers' classes take the arguments of their calls."""

_EMBEDS = "prompt_embeds negative_prompt_embeds"
_XL_EMBEDS = f"{_EMBEDS} pooled_prompt_embeds negative_pooled_prompt_embeds"
_IP = "ip_adapter_image ip_adapter_image_embeds"
_OUT = "output_type return_dict cross_attention_kwargs"
_BACK = "callback_on_step_end callback_on_step_end_tensor_inputs"
_STEPS = "num_inference_steps timesteps sigmas"
_NEGATIVE = "guidance_scale negative_prompt num_images_per_prompt eta generator"
_XL_NEGATIVE = (
    "guidance_scale negative_prompt negative_prompt_2 num_images_per_prompt eta generator latents"
)
_XL_SIZES = (
    "original_size crops_coords_top_left target_size negative_original_size"
    " negative_crops_coords_top_left negative_target_size"
)
_XL_REST = f"{_XL_EMBEDS} {_IP} {_OUT} guidance_rescale {_XL_SIZES}"
_SCORES = "aesthetic_score negative_aesthetic_score"
_MASK = "mask_image masked_image_latents height width padding_mask_crop"
_LCM = "guidance_scale num_images_per_prompt generator latents prompt_embeds"
_AMUSED = "num_inference_steps guidance_scale negative_prompt num_images_per_prompt generator"
_AMUSED_REST = (
    "prompt_embeds encoder_hidden_states negative_prompt_embeds negative_encoder_hidden_states"
    " output_type return_dict callback callback_steps cross_attention_kwargs"
    " micro_conditioning_aesthetic_score micro_conditioning_crop_coord temperature"
)
_IF = (
    "num_inference_steps timesteps guidance_scale negative_prompt num_images_per_prompt eta"
    f" generator {_EMBEDS} output_type return_dict callback callback_steps"
)
#: By class: the arguments of its call, in the order in which diffusers 0.42 takes them.
ORDERS = {
    "StableDiffusionPipeline": f"prompt height width {_STEPS} {_NEGATIVE} latents {_EMBEDS} {_IP}"
    f" {_OUT} guidance_rescale clip_skip {_BACK}",
    "StableDiffusionImg2ImgPipeline": f"prompt image strength {_STEPS} {_NEGATIVE} {_EMBEDS} {_IP}"
    f" {_OUT} clip_skip {_BACK}",
    "StableDiffusionInpaintPipeline": f"prompt image {_MASK} strength {_STEPS} {_NEGATIVE} latents"
    f" {_EMBEDS} {_IP} {_OUT} clip_skip {_BACK}",
    "StableDiffusionXLPipeline": f"prompt prompt_2 height width {_STEPS} denoising_end"
    f" {_XL_NEGATIVE} {_XL_REST} clip_skip {_BACK}",
    "StableDiffusionXLImg2ImgPipeline": f"prompt prompt_2 image strength {_STEPS} denoising_start"
    f" denoising_end {_XL_NEGATIVE} {_XL_REST} {_SCORES} clip_skip {_BACK}",
    "StableDiffusionXLInpaintPipeline": f"prompt prompt_2 image {_MASK} strength {_STEPS}"
    f" denoising_start denoising_end {_XL_NEGATIVE} {_XL_REST} {_SCORES} clip_skip {_BACK}",
    "LatentConsistencyModelPipeline": "prompt height width num_inference_steps"
    f" original_inference_steps timesteps {_LCM} {_IP} {_OUT} clip_skip {_BACK}",
    "LatentConsistencyModelImg2ImgPipeline": "prompt image num_inference_steps strength"
    f" original_inference_steps timesteps {_LCM} {_IP} {_OUT} clip_skip {_BACK}",
    "AmusedPipeline": f"prompt height width {_AMUSED} latents {_AMUSED_REST}",
    "AmusedImg2ImgPipeline": f"prompt image strength {_AMUSED} {_AMUSED_REST}",
    "AmusedInpaintPipeline": f"prompt image mask_image strength {_AMUSED} {_AMUSED_REST}",
    "IFImg2ImgPipeline": f"prompt image strength {_IF} clean_caption cross_attention_kwargs",
    "IFInpaintingPipeline": f"prompt image mask_image strength {_IF} clean_caption"
    " cross_attention_kwargs",
    "IFImg2ImgSuperResolutionPipeline": f"image original_image strength prompt {_IF}"
    " cross_attention_kwargs noise_level clean_caption",
    "IFInpaintingSuperResolutionPipeline": "image original_image mask_image strength prompt"
    f" {_IF} cross_attention_kwargs noise_level clean_caption",
}
