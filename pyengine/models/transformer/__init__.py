"""Transformers over patches of latents."""
