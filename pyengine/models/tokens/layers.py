"""Layers that only token models have."""

from torch import Tensor, nn

from ...layers import Linear, PointwiseConv2d


class Pointwise(PointwiseConv2d):
    """A 1x1 convolution that may lack a bias."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels)
        if not bias:
            self.bias = None


class MLP(nn.Module):
    """gelu between linear layers: saved as fc1 and hidden_layers.*, as Janus's aligners are."""

    def __init__(self, in_features: int, width: int, depth: int):
        super().__init__()
        self.fc1 = Linear(in_features, width)
        self.hidden_layers = nn.ModuleList(Linear(width, width) for _ in range(1, depth))

    def forward(self, x: Tensor) -> Tensor:
        layers = [self.fc1, *self.hidden_layers]
        for layer in layers[:-1]:
            x = layer(x, activation="gelu")
        y: Tensor = layers[-1](x)
        return y
