"""What the networks share that denoise without reading a text."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import RequestError
from ..guard import inference
from .base import Model
from .blocks.embeddings import flat_timesteps
from .unet.context import TextContext, TimeEmbedding


class UnpromptedModel(Model):
    """Base of networks that are told times and perhaps classes, and no text.

    A subclass has `_embed` and `forward(sample, timestep, class_labels, ...)`.
    """

    def _embed(self, t: Tensor, labels: Tensor | None) -> TimeEmbedding:
        """t: [..., N or 1]; labels: class_labels."""
        raise NotImplementedError

    def encode_context(self, encoder_hidden_states: Tensor) -> TextContext:
        """Nothing: it reads no text."""
        return TextContext(())

    @inference
    def embed_timesteps(
        self,
        timesteps: Tensor | Sequence[float],
        *,
        timestep_cond: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> TimeEmbedding:
        """The embeddings of a whole schedule: pass `table[i]` as `timestep` in step i.

        timesteps: [T]. class_labels: as of `forward`, for N pictures or one; they must be given
        here, not to `forward`. The others: of other networks, refused.
        """
        for name, value in (
            ("timestep_cond", timestep_cond),
            ("added_cond_kwargs", added_cond_kwargs),
        ):
            if value is not None:
                raise RequestError(f"{name}: expected None for a {type(self).__name__}")
        return self._embed(flat_timesteps(timesteps, self.device)[:, None], class_labels)

    def _told(
        self, timestep: Tensor | float | TimeEmbedding, class_labels: Tensor | None
    ) -> TimeEmbedding:
        """What `forward` was given of time and classes, embedded."""
        if not isinstance(timestep, TimeEmbedding):
            return self._embed(flat_timesteps(timestep, self.device), class_labels)
        if class_labels is not None:
            raise RequestError("timestep: class_labels were to be given to embed_timesteps")
        return timestep

    def evaluate(self, sample: Tensor, times: TimeEmbedding, context: TextContext) -> Tensor:
        """`forward` with what was computed before: one tensor."""
        out: Tensor = self(sample, times, return_dict=False)[0]
        return out
