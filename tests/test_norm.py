"""Norms give the same numbers, and sound gradients, in fp32 and in bf16."""

import pytest
import torch

from worldmodel.vqvae.layers import ChannelNorm, layer_norm


def gradients(x: torch.Tensor, incoming: torch.Tensor) -> tuple[torch.Tensor, ...]:
    gain = torch.linspace(0.5, 2, x.shape[-1]).requires_grad_()
    bias = torch.zeros(x.shape[-1], requires_grad=True)
    y = layer_norm(x, gain, bias)
    assert y.dtype == x.dtype
    y.backward(incoming.to(y.dtype))
    assert gain.grad is not None
    assert bias.grad is not None
    return y.detach().float(), gain.grad, bias.grad


def test_many_positions_add_up_in_bf16():
    torch.manual_seed(0)
    x, incoming = torch.randn(2, 2**15, 16)
    exact = gradients(x, incoming)
    for got, wanted in zip(gradients(x.bfloat16(), incoming), exact, strict=True):
        assert (got - wanted).norm() / wanted.norm() < 0.02


@pytest.mark.parametrize("grid", [(5,), (4, 3), (2, 3, 4)])
def test_each_position_is_normalised_by_itself(grid):
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(2, 8, *grid)
    y = ChannelNorm(8)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, *grid), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, *grid), atol=1e-3, rtol=0)


def test_equal_channels_give_no_nan():
    x = torch.full((1, 8, 3), 0.25, requires_grad=True)
    ChannelNorm(8)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
