"""PictureGPT, the project's own text to picture by tokens."""
