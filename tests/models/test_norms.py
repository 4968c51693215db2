"""The norms of pyengine.layers, with and without weights, against torch's."""

import pytest
import torch
import torch.nn.functional as F

from pyengine.layers import GroupNorm, LayerNorm, RMSNorm


def _filled(layer):
    for name, parameter in layer.named_parameters():
        setattr(layer, name, torch.nn.Parameter(torch.randn(parameter.shape), requires_grad=False))
    return layer


@pytest.mark.parametrize(("affine", "bias"), [(True, True), (True, False), (False, True)])
def test_layer_norm(affine, bias):
    layer, x = _filled(LayerNorm(20, 1e-6, affine, bias)), torch.randn(3, 5, 20)
    assert [layer.weight is not None, layer.bias is not None] == [affine, affine and bias]
    torch.testing.assert_close(layer(x), F.layer_norm(x, (20,), layer.weight, layer.bias, 1e-6))


@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(affine):
    layer, x = _filled(RMSNorm(20, 1e-6, affine)), torch.randn(3, 5, 20)
    torch.testing.assert_close(layer(x), F.rms_norm(x, (20,), layer.weight, 1e-6))


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm(affine):
    layer, x = _filled(GroupNorm(4, 20, 1e-6, affine)), torch.randn(3, 5, 6, 20)
    assert len(layer.state_dict()) == 2 * affine
    want = F.group_norm(x.permute(0, 3, 1, 2), 4, layer.weight, layer.bias, 1e-6)
    torch.testing.assert_close(layer(x).permute(0, 3, 1, 2), want)
    given = layer.scale_shift(x)
    scaled = x * given["scale"][:, None, None] + given["shift"][:, None, None]
    torch.testing.assert_close(scaled.permute(0, 3, 1, 2), want)
