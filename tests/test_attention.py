"""Sparse attention against attention under the whole mask, which is made here from the rule."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from worldmodel.videogpt.attention import (
    FLEX_BLOCK,
    LatentShape,
    flex_block_mask,
    flex_sparse_attention,
    gathered_sparse_attention,
    visible_keys,
)

SHAPES = [
    (8, 4, 32, 1),  # rows of one block, as in the paper
    (4, 6, 16, 1),  # rows of half a block, as for moving digits
    (3, 3, 20, 2),  # codebooks; neither rows nor frames are whole blocks
    (2, 1, 150, 1),  # rows longer than what is gathered at a time
    (2, 40, 6, 1),  # more rows than that
    (1, 12, 13, 1),  # a picture
    (5, 1, 1, 3),  # all in one block
]
CPU = torch.device("cpu")
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def mask_by_the_rule(latent_shape: LatentShape) -> torch.Tensor:
    """[i, j]: whether i sees j, each pair by itself."""
    num_tokens = int(np.prod(latent_shape))
    places = list(itertools.product(*map(range, latent_shape)))  # (frame, row, column, codebook)
    mask = np.zeros((num_tokens, num_tokens), bool)
    for i, (frame, row, _, _) in enumerate(places):
        for j in range(i + 1):
            same_row_before = places[j][1] == row and places[j][0] < frame
            mask[i, j] = i // 32 - j // 32 < 4 or same_row_before
    return torch.from_numpy(mask)


def make_inputs(latent_shape: LatentShape, batch_size: int = 2) -> tuple[Heads, torch.Tensor]:
    """Queries, keys and values (B, 2, N, 4), laid out as a model's are, and a gradient."""
    torch.manual_seed(0)
    num_tokens = int(np.prod(latent_shape))
    qkv = torch.randn(batch_size, num_tokens, 3, 2, 4, requires_grad=True)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return (q, k, v), torch.randn(batch_size, 2, num_tokens, 4)


def assert_equals_the_masked(attend, latent_shape: LatentShape, batch_size: int = 2) -> None:
    """Values and gradients."""
    qkv, grad = make_inputs(latent_shape, batch_size)
    mask = mask_by_the_rule(latent_shape)
    expected = F.scaled_dot_product_attention(*qkv, attn_mask=mask)
    y = attend(*qkv, latent_shape)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    expected_grads = torch.autograd.grad(expected, qkv, grad)
    for actual, of_mask in zip(torch.autograd.grad(y, qkv, grad), expected_grads, strict=True):
        torch.testing.assert_close(actual, of_mask, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("latent_shape", SHAPES, ids=str)
def test_gathered_attention_equals_attention_under_the_mask(latent_shape):
    assert_equals_the_masked(gathered_sparse_attention, latent_shape)


@settings(max_examples=25, deadline=None)
@given(
    latent_shape=st.tuples(
        st.integers(1, 5), st.integers(1, 4), st.integers(1, 12), st.integers(1, 3)
    ),
    batch_size=st.integers(1, 3),
)
def test_gathered_attention_equals_attention_under_the_mask_for_any_shape(latent_shape, batch_size):
    assert_equals_the_masked(gathered_sparse_attention, latent_shape, batch_size)


@pytest.mark.parametrize("latent_shape", SHAPES, ids=str)
def test_visible_keys_are_those_of_the_mask(latent_shape):
    for i, row in enumerate(mask_by_the_rule(latent_shape)):
        assert visible_keys(i, latent_shape, CPU).tolist() == row.nonzero()[:, 0].tolist()


def test_a_token_of_the_papers_size_sees_some_hundreds_of_8192():
    latent_shape = (8, 32, 32, 1)
    last_row = [7 * 1024 + 31 * 32, 8191]  # its first token and its last
    # 3 whole blocks, its own up to itself, and a row of 32 in each of 7 frames.
    counts = [len(visible_keys(i, latent_shape, CPU)) for i in last_row]
    assert counts == [96 + 1 + 224, 96 + 32 + 224]


def test_the_first_frames_alone_come_out_as_in_the_whole_clip():
    latent_shape = (4, 4, 12, 2)
    (q, k, v), _ = make_inputs(latent_shape)
    whole = gathered_sparse_attention(q, k, v, latent_shape)

    def of_first(n: int) -> torch.Tensor:
        return gathered_sparse_attention(q[:, :, :n], k[:, :, :n], v[:, :, :n], latent_shape)

    torch.testing.assert_close(of_first(2 * 96), whole[:, :, : 2 * 96])
    with pytest.raises(ValueError, match="whole frames"):
        of_first(100)


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that any operation gave."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return result


def test_nothing_of_the_size_of_the_whole_mask_is_ever_made():
    latent_shape = (16, 16, 16, 1)
    qkv, grad = make_inputs(latent_shape, 1)
    num_tokens = grad.shape[2]
    with LargestTensor() as largest:
        y = gathered_sparse_attention(*qkv, latent_shape)
        torch.autograd.grad(y, qkv, grad)
    assert 2 * 4 * num_tokens <= largest.elements < 32 * num_tokens
    with LargestTensor() as largest:
        flex_block_mask(latent_shape, num_tokens, CPU)
    assert FLEX_BLOCK * num_tokens <= largest.elements < num_tokens**2 // 16


def test_only_the_arguments_are_kept_for_the_backward_pass():
    latent_shape = (4, 4, 16, 1)
    (q, k, v), _ = make_inputs(latent_shape)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()), lambda x: x):
        gathered_sparse_attention(q, k, v, latent_shape)
    assert sum(kept) == 3 * q.numel()


def test_training_after_inference_mode_works():
    """What is kept between calls must not be what inference mode made."""
    latent_shape = (2, 3, 11, 1)  # of no other test
    qkv, grad = make_inputs(latent_shape)
    with torch.inference_mode():
        seen = gathered_sparse_attention(*qkv, latent_shape)
    y = gathered_sparse_attention(*qkv, latent_shape)
    torch.autograd.grad(y, qkv, grad)
    torch.testing.assert_close(y, seen)


@pytest.mark.parametrize("latent_shape", [*SHAPES, (3, 5, 30, 1)], ids=str)
def test_flex_blocks_are_those_in_which_something_is_seen(latent_shape):
    mask = mask_by_the_rule(latent_shape)
    padding = -len(mask) % FLEX_BLOCK
    tiles = F.pad(mask, (0, padding, 0, padding)).unflatten(0, (-1, FLEX_BLOCK))
    counts = tiles.unflatten(2, (-1, FLEX_BLOCK)).sum((1, 3))
    blocks = flex_block_mask(latent_shape, len(mask), CPU)
    assert torch.equal(blocks.to_dense()[0, 0].bool(), counts > 0)
    assert blocks.full_kv_num_blocks is not None
    full = (counts == FLEX_BLOCK**2).sum(1)
    assert blocks.full_kv_num_blocks[0, 0].tolist() == full.tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler's own making
@pytest.mark.parametrize("latent_shape", SHAPES[:3], ids=str)
def test_flex_attention_equals_attention_under_the_mask_on_a_cpu(latent_shape):
    """Values only: torch 2.13 has no backward pass of it there."""
    (q, k, v), _ = make_inputs(latent_shape)
    q, k, v = q.detach(), k.detach(), v.detach()
    y = flex_sparse_attention(q, k, v, latent_shape)
    expected = F.scaled_dot_product_attention(q, k, v, mask_by_the_rule(latent_shape))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("attend", [flex_sparse_attention, gathered_sparse_attention])
@pytest.mark.parametrize("latent_shape", SHAPES, ids=str)
def test_sparse_attention_equals_attention_under_the_mask_on_a_gpu(latent_shape, attend):
    torch.manual_seed(0)
    mask = mask_by_the_rule(latent_shape).cuda()
    qkv = torch.randn(3, 2, 2, len(mask), 32, device="cuda", requires_grad=True)
    q, k, v = qkv
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    y = attend(q, k, v, latent_shape)
    torch.testing.assert_close(y, expected, atol=1e-2, rtol=1e-2)
    grad = torch.randn_like(y)
    (expected_grad,) = torch.autograd.grad(expected, qkv, grad)
    (actual,) = torch.autograd.grad(y, qkv, grad)
    torch.testing.assert_close(actual, expected_grad, atol=3e-2, rtol=3e-2)
