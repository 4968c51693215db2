"""A small cascade over pixels: a little picture, then a larger one beside it."""
