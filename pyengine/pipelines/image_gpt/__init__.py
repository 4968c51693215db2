"""ImageGPT."""
