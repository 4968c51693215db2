"""Stable Diffusion's x2 latent upscaler: latents twice as large of latents and a text."""
