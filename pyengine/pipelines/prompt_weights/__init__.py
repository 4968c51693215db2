"""Weights of words within prompts, and prompts longer than a text encoder reads at once."""

from .encoding import Weighted, chunk_counts, encode_weighted

#: The syntaxes; held equal to pipelines.arguments.PROMPT_WEIGHTINGS by a test.
SYNTAXES = ("a1111", "compel")

__all__ = ["SYNTAXES", "Weighted", "chunk_counts", "encode_weighted"]
