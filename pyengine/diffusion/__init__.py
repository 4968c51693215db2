"""The denoising step: what a model is told, its evaluation, the sampler's update, latents."""
