"""DiT: latents of a class denoised by a transformer."""
