"""Text to all pixels at once, by a network that was trained by regression."""

from ..text_generators import TextOnePassPipeline


class OneShotPipeline(TextOnePassPipeline):
    """Pictures of prompts, in one pass; see `__call__`."""
