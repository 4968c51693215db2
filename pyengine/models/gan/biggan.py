"""BigGAN-deep: a picture of a class from a vector.

Brock et al. 2018, arXiv:1809.11096; the layout is pytorch-pretrained-biggan's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ..base import Model, to_nchw
from .biggan_config import FIRST_SIDE, FIRST_WIDTH, BigGANConfig
from .biggan_layers import Attention, BatchNorm, Block, Position, Spectral, position_of


class _Generator(nn.Module):
    def __init__(self, c: BigGANConfig):
        super().__init__()
        width = c.channel_width
        self.gen_z = Spectral(2 * c.z_dim, FIRST_SIDE**2 * FIRST_WIDTH * width)
        layers: list[nn.Module] = []
        for i, (up, before, after) in enumerate(c.layers):
            if i == c.attention_layer_position:
                layers.append(Attention(width * before))
            layers.append(Block(c, up, width * before, width * after))
        self.layers = nn.ModuleList(layers)
        self.bn = BatchNorm(c, width, conditional=False)
        # It has as many outputs as inputs, of which three are the picture.
        self.conv_to_rgb = Spectral(width, width, 3, kept=3, normed=True)

    def forward(self, condition: Tensor, positions: Sequence[Position]) -> Tensor:
        """[N, 2 * z_dim] -> [N, H, W, 3], before tanh."""
        y = self.gen_z(condition).view(len(condition), FIRST_SIDE, FIRST_SIDE, -1)
        for layer in self.layers:
            y = layer(y) if isinstance(layer, Attention) else layer(y, condition, positions)
        made: Tensor = self.conv_to_rgb(y, **self.bn(condition, positions))
        return made


class _Embeddings(nn.Module):
    """A row of numbers for each class, saved as the weight [z_dim, num_classes] of a product."""

    def __init__(self, c: BigGANConfig):
        super().__init__()
        shape = c.z_dim, c.num_classes
        self.weight = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)

    def forward(self, classes: Tensor) -> Tensor:
        """classes: [N] integers, or [N, num_classes], shares of each -> [N, z_dim]."""
        if classes.dim() == 1:
            return self.weight[:, classes].T
        # A product for each picture: many at once would be added in an order of their number.
        return torch.stack([self.weight @ row for row in classes.to(self.weight.dtype)])


class BigGAN(Model):
    """Latents and classes to pictures.

    pictures = gan(z, classes, truncation)       # [N, z_dim], [N] -> [N, 3, H, W] in -1..1
    """

    config_class = BigGANConfig
    hides_infinity = True

    def __init__(self, config: BigGANConfig):
        super().__init__(config)
        self.embeddings = _Embeddings(config)
        self.generator = _Generator(config)

    @inference
    def forward(
        self, z: Tensor, class_label: Tensor, truncation: float | Sequence[float]
    ) -> Tensor:
        """Pictures of classes.

        Args:
            z: [N, z_dim], normal, cut at 2 and times the truncation.
            class_label: [N] integers, or [N, num_classes] shares.
            truncation: in (0, 1], for all or one each: by which the statistics of batch norm are
                chosen.

        Returns:
            [N, 3, H, W] in -1..1.

        Raises:
            RequestError: for another shape or number.
        """
        c = self.config
        if z.dim() != 2 or z.shape[1] != c.z_dim or not len(z):
            raise RequestError(f"z: expected [N, {c.z_dim}], given {list(z.shape)}")
        self._check_classes(class_label, len(z))
        given = [*truncation] if isinstance(truncation, Sequence) else [truncation] * len(z)
        if len(given) != len(z) or not all(0 < t <= 1 for t in given):
            raise RequestError(
                f"truncation: expected a number above 0 and at most 1, or {len(z)} of them, given"
                f" {truncation}"
            )
        positions = [position_of(t, c.n_stats) for t in given]
        embedded = self.embeddings(class_label.to(self.device)).to(self.dtype)
        condition = torch.cat([z.to(self.device, self.dtype), embedded], dim=1)
        with self.arena.use():
            return to_nchw(self.generator(condition, positions).tanh_())

    def _check_classes(self, classes: Tensor, count: int) -> None:
        most = self.config.num_classes
        if classes.dim() == 1 and not classes.is_floating_point():
            fits = len(classes) == count and bool(((classes >= 0) & (classes < most)).all())
        else:
            fits = tuple(classes.shape) == (count, most)
        if not fits:
            raise RequestError(
                f"class_label: expected [{count}] integers from 0 to {most - 1}, or [{count},"
                f" {most}], given {classes.dtype} {list(classes.shape)}"
            )
