"""Stable Diffusion 1.x, 2.x and XL, its refiner, and latent consistency models."""
