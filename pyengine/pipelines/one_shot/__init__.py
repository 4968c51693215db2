"""Text to all pixels at once, by regression: emoji-one-shot."""
