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
_KANDINSKY = "height width num_inference_steps guidance_scale"
_COMBINED = (
    "num_images_per_prompt height width prior_guidance_scale prior_num_inference_steps generator"
    " latents output_type"
)
_PRIOR_BACK = f"prior_callback_on_step_end prior_callback_on_step_end_tensor_inputs {_BACK}"
_CONTROL = "controlnet_conditioning_scale guess_mode control_guidance_start control_guidance_end"
_UNION = f"{_CONTROL} control_mode"
_SHOWN = "control_image height width strength num_inference_steps"
_XL_IP_FIRST = f"{_EMBEDS} {_IP} pooled_prompt_embeds negative_pooled_prompt_embeds"
_OLD_BACK = "callback callback_steps cross_attention_kwargs"
_CONTROL_INPAINT = (
    "mask_image control_image height width padding_mask_crop strength num_inference_steps"
)


def _xl_from(control: str) -> str:
    """Of image-to-image beside SDXL's ControlNets."""
    return (
        f"prompt prompt_2 image {_SHOWN} {_XL_NEGATIVE} {_XL_EMBEDS} {_IP} {_OUT} {control}"
        f" {_XL_SIZES} {_SCORES} clip_skip {_BACK}"
    )


def _xl_within(control: str) -> str:
    """Of inpainting beside SDXL's ControlNets."""
    return (
        f"prompt prompt_2 image {_CONTROL_INPAINT} denoising_start denoising_end {_XL_NEGATIVE}"
        f" {_XL_IP_FIRST} {_OUT} {control} guidance_rescale original_size crops_coords_top_left"
        f" target_size {_SCORES} clip_skip {_BACK}"
    )


def _xl_text(shown: str, control: str) -> str:
    """Of text-to-image beside SDXL's ControlNets."""
    return (
        f"prompt prompt_2 {shown} height width {_STEPS} denoising_end {_XL_NEGATIVE} {_XL_EMBEDS}"
        f" {_IP} {_OUT} {control} {_XL_SIZES} clip_skip {_BACK}"
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
    "StableDiffusionControlNetPipeline": f"prompt image height width {_STEPS} {_NEGATIVE} latents"
    f" {_EMBEDS} {_IP} {_OUT} {_CONTROL} clip_skip {_BACK}",
    "StableDiffusionControlNetImg2ImgPipeline": f"prompt image {_SHOWN} {_NEGATIVE} latents"
    f" {_EMBEDS} {_IP} {_OUT} {_CONTROL} clip_skip {_BACK}",
    "StableDiffusionControlNetInpaintPipeline": f"prompt image {_CONTROL_INPAINT} {_NEGATIVE}"
    f" latents {_EMBEDS} {_IP} {_OUT} {_CONTROL} clip_skip {_BACK}",
    "StableDiffusionXLControlNetPipeline": _xl_text("image", _CONTROL),
    "StableDiffusionXLControlNetImg2ImgPipeline": _xl_from(_CONTROL),
    "StableDiffusionXLControlNetInpaintPipeline": _xl_within(_CONTROL),
    "StableDiffusionXLControlNetUnionPipeline": _xl_text("control_image", _UNION),
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": _xl_from(_UNION),
    "StableDiffusionXLControlNetUnionInpaintPipeline": _xl_within(_UNION),
    "StableDiffusionAdapterPipeline": f"prompt image height width {_STEPS} {_NEGATIVE} latents"
    f" {_EMBEDS} output_type return_dict {_OLD_BACK} adapter_conditioning_scale clip_skip",
    "StableDiffusionXLAdapterPipeline": f"prompt prompt_2 image height width {_STEPS}"
    f" denoising_end {_XL_NEGATIVE} {_XL_EMBEDS} {_IP} output_type return_dict {_OLD_BACK}"
    f" guidance_rescale {_XL_SIZES} adapter_conditioning_scale adapter_conditioning_factor"
    " clip_skip",
    "AmusedPipeline": f"prompt height width {_AMUSED} latents {_AMUSED_REST}",
    "AmusedImg2ImgPipeline": f"prompt image strength {_AMUSED} {_AMUSED_REST}",
    "AmusedInpaintPipeline": f"prompt image mask_image strength {_AMUSED} {_AMUSED_REST}",
    "IFImg2ImgPipeline": f"prompt image strength {_IF} clean_caption cross_attention_kwargs",
    "IFInpaintingPipeline": f"prompt image mask_image strength {_IF} clean_caption"
    " cross_attention_kwargs",
    "IFImg2ImgSuperResolutionPipeline": f"image original_image strength prompt {_IF}"
    " cross_attention_kwargs noise_level clean_caption",
    "IFPipeline": "prompt num_inference_steps timesteps guidance_scale negative_prompt"
    f" num_images_per_prompt height width eta generator {_EMBEDS} output_type return_dict callback"
    " callback_steps clean_caption cross_attention_kwargs",
    "IFSuperResolutionPipeline": f"prompt height width image {_IF} cross_attention_kwargs"
    " noise_level clean_caption",
    "DDPMPipeline": "batch_size generator num_inference_steps output_type return_dict",
    "DDIMPipeline": "batch_size generator eta num_inference_steps use_clipped_model_output"
    " output_type return_dict",
    "DiTPipeline": "class_labels guidance_scale generator num_inference_steps output_type"
    " return_dict",
    "UnCLIPPipeline": "prompt num_images_per_prompt prior_num_inference_steps"
    " decoder_num_inference_steps super_res_num_inference_steps generator prior_latents"
    " decoder_latents super_res_latents text_model_output text_attention_mask prior_guidance_scale"
    " decoder_guidance_scale output_type return_dict",
    "UnCLIPImageVariationPipeline": "image num_images_per_prompt decoder_num_inference_steps"
    " super_res_num_inference_steps generator decoder_latents super_res_latents image_embeddings"
    " decoder_guidance_scale output_type return_dict",
    "KandinskyV22PriorPipeline": "prompt negative_prompt num_images_per_prompt num_inference_steps"
    f" generator latents guidance_scale output_type return_dict {_BACK}",
    "KandinskyV22Pipeline": f"image_embeds negative_image_embeds {_KANDINSKY} num_images_per_prompt"
    f" generator latents output_type return_dict {_BACK}",
    "KandinskyV22Img2ImgPipeline": f"image_embeds image negative_image_embeds {_KANDINSKY} strength"
    f" num_images_per_prompt generator output_type return_dict {_BACK}",
    "KandinskyV22InpaintPipeline": f"image_embeds image mask_image negative_image_embeds"
    f" {_KANDINSKY} num_images_per_prompt generator latents output_type return_dict {_BACK}",
    "KandinskyV22ControlnetPipeline": f"image_embeds negative_image_embeds hint {_KANDINSKY}"
    " num_images_per_prompt generator latents output_type callback callback_steps return_dict",
    "KandinskyV22ControlnetImg2ImgPipeline": "image_embeds image negative_image_embeds hint"
    f" {_KANDINSKY} strength num_images_per_prompt generator output_type callback callback_steps"
    " return_dict",
    "KandinskyV22CombinedPipeline": "prompt negative_prompt num_inference_steps guidance_scale"
    f" {_COMBINED} callback callback_steps return_dict {_PRIOR_BACK}",
    "KandinskyV22Img2ImgCombinedPipeline": "prompt image negative_prompt num_inference_steps"
    f" guidance_scale strength {_COMBINED} callback callback_steps return_dict {_PRIOR_BACK}",
    "KandinskyV22InpaintCombinedPipeline": "prompt image mask_image negative_prompt"
    f" num_inference_steps guidance_scale {_COMBINED} return_dict {_PRIOR_BACK}",
    "IFInpaintingSuperResolutionPipeline": "image original_image mask_image strength prompt"
    f" {_IF} cross_attention_kwargs noise_level clean_caption",
}
