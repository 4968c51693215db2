"""Text to picture, pixel by pixel, with a shipped model's text encoder."""
