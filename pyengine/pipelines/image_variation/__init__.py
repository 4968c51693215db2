"""Variations of pictures: Stable Diffusion told a picture's embedding in place of a text."""
