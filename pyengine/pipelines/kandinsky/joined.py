"""A decoder's checkpoint and a prior's as one, as diffusers' combined pipelines have them."""

from pathlib import Path
from typing import Any

from ...errors import RequestError
from ...weights import Checkpoint
from ...weights.source import MappedSource, TensorSource
from .family import JOINED, PRIOR

_PREFIX = "prior_"


class JoinedCheckpoint(Checkpoint):
    """The decoder's parts under their names, the prior's with prior_ before theirs."""

    def __init__(self, decoder: Checkpoint, prior: Checkpoint):
        self.decoder, self.prior = decoder, prior
        self.source = decoder.source
        self.pipeline_class = JOINED[decoder.pipeline_class]
        names = tuple(f"{_PREFIX}{name}" for name in prior.components)
        self.components = (*decoder.components, *names)
        self.options = {**prior.options, **decoder.options}
        self.ignored, self.data = decoder.ignored, {}
        self.folder = getattr(decoder, "folder", None)

    def _of(self, name: str) -> tuple[Checkpoint, str]:
        self._check_name(name)
        if name.startswith(_PREFIX):
            return self.prior, name.removeprefix(_PREFIX)
        return self.decoder, name

    def config(self, name: str) -> dict[str, Any]:
        checkpoint, own = self._of(name)
        return checkpoint.config(own)

    def where(self, name: str) -> str:
        checkpoint, own = self._of(name)
        return checkpoint.where(own)

    def tensors(self, name: str) -> TensorSource | MappedSource:
        checkpoint, own = self._of(name)
        return checkpoint.tensors(own)

    def tokenizer_files(self, name: str) -> dict[str, Path]:
        checkpoint, own = self._of(name)
        return checkpoint.tokenizer_files(own)

    def tokenizer_pad(self, name: str) -> str | None:
        checkpoint, own = self._of(name)
        return checkpoint.tokenizer_pad(own)

    def place(self, name: str) -> Path:
        """The folder that a part's files lie in."""
        checkpoint, own = self._of(name)
        return checkpoint.place(own)


def join(decoder: Checkpoint, prior: Checkpoint) -> Checkpoint:
    """The two as one. Raises RequestError where the second is no prior, or the first takes none."""
    if prior.pipeline_class not in PRIOR.classes:
        raise RequestError(
            f"prior: expected a {PRIOR.classes[0]}'s folder or Hub id, given a"
            f" {prior.pipeline_class}: {prior.source}"
        )
    if decoder.pipeline_class not in JOINED:
        raise RequestError(f"prior: a {decoder.pipeline_class} takes none")
    return JoinedCheckpoint(decoder, prior)
