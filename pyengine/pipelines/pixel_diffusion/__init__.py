"""Pixel diffusion by text: small models of our own."""
