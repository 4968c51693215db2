"""Text and noise to a picture in one pass, by a generator that was trained against a discriminator.

Goodfellow et al. 2014, arXiv:1406.2661; Isola et al. 2017, arXiv:1611.07004.
"""

from ..text_generators import TextOnePassPipeline


class ConditionalGANPipeline(TextOnePassPipeline):
    """Pictures of prompts, in one pass; see `__call__`."""
