"""Generators of pictures that are told a text by one vector."""
