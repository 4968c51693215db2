"""Between pictures and latents, or pictures and codebook tokens."""
