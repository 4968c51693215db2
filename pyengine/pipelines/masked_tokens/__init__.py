"""Text to picture by masked tokens, with shipped models' text encoder and VQ-VAE."""
