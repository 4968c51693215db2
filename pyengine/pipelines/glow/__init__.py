"""A normalising flow of texts: emoji-flow."""
