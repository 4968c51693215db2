"""A small unCLIP: a text to the embedding of a picture, and that to latents."""
