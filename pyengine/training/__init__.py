"""Training of the small text-to-image model that ships with the package.

The modules here need the extra ``train`` (torch, diffusers, transformers,
tokenizers); nothing outside this folder imports them.
"""
