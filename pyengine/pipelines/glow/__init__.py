"""A normalising flow of texts."""
