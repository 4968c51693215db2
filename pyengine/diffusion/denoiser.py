"""What the denoising step asks of a network."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..models.unet import DeepFeatures, Residuals, TextContext, TimeEmbedding


class Encoder(Protocol):
    """A network's part that depends on the text alone, or on the schedule alone: computed once per
    run and handed to every evaluation.
    """

    @property
    def device(self) -> torch.device: ...

    def encode_context(self, encoder_hidden_states: Tensor, /) -> TextContext:
        """What each attention to the text reads, from text [R, L, C]. Networks whose texts have
        masks take attention_mask=[R, L], too, 1 for a token that is seen.
        """

    def embed_timesteps(
        self,
        timesteps: Tensor | Sequence[float],
        *,
        timestep_cond: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> TimeEmbedding:
        """The embeddings of timesteps [T], with what is added to them, for R rows or one."""


class Denoiser(Encoder, Protocol):
    """A network that predicts noise, v or the clean sample: UNet2DConditionModel, UNet2DModel. A
    row of a result does not depend on the other rows.
    """

    def evaluate(self, sample: Tensor, times: TimeEmbedding, context: TextContext) -> Tensor:
        """[R, ...] from sample [R, C, H, W], one timestep's embedding and the text, which is empty
        for a network that reads none.
        """


class ResidualDenoiser(Denoiser, Protocol):
    """A Denoiser whose activations something may be added to, by ControlNets and T2I-Adapters, and
    whose deep layers' results may be kept from one evaluation for the next ones.
    """

    def evaluate(
        self,
        sample: Tensor,
        times: TimeEmbedding,
        context: TextContext,
        residuals: Residuals | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor: ...
