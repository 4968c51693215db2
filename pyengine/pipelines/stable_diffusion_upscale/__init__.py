"""Stable Diffusion's x4 upscaler: larger pictures of small ones and texts."""
