"""The tokenizer keeps the promises of VideoGPT Sec. 3 and 4.1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.configs.dream import VQVAEConfig
from worldmodel.vqvae import codebook
from worldmodel.vqvae.codebook import DECAY, Codebook
from worldmodel.vqvae.vqvae import VQVAE

TINY = VQVAEConfig(
    hidden_units=16, residual_units=8, residual_layers=1, num_codes=8, code_dim=4, attention_heads=2
)


@settings(max_examples=12, deadline=None)
@given(
    downsampling=st.sampled_from([2, 4, 8]),
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    num_codebooks=st.integers(1, 3),
    attention_heads=st.sampled_from([0, 2]),
)
def test_codes_lie_on_the_grid_and_frames_come_back_in_shape(
    downsampling, blocks, num_codebooks, attention_heads
):
    height, width = (8 * n for n in blocks)
    config = VQVAEConfig(
        frame_shape=(height, width, 3),
        downsampling=downsampling,
        hidden_units=16,
        residual_units=8,
        residual_layers=1,
        attention_heads=attention_heads,
        num_codes=8,
        code_dim=4,
        num_codebooks=num_codebooks,
    )
    tokenizer = VQVAE(config)
    frames = torch.rand(3, 3, height, width) - 0.5
    out = tokenizer(frames)
    assert out.codes.shape == (3, height // downsampling, width // downsampling, num_codebooks)
    assert out.codes.min() >= 0
    assert out.codes.max() < 8
    assert out.reconstructions.shape == frames.shape


def test_decoding_the_codes_gives_the_reconstruction():
    torch.manual_seed(0)
    tokenizer = VQVAE(TINY)
    frames = torch.rand(4, 3, 64, 64) - 0.5
    tokenizer(frames)
    tokenizer.eval()
    out = tokenizer(frames)
    assert torch.equal(tokenizer.encode(frames), out.codes)
    torch.testing.assert_close(tokenizer.decode(out.codes), out.reconstructions)


def test_each_frame_is_coded_by_itself():
    torch.manual_seed(0)
    tokenizer = VQVAE(TINY).eval()
    book = tokenizer.codebooks[0]
    assert isinstance(book, Codebook)
    book.vectors.normal_()
    frames = torch.rand(4, 3, 64, 64) - 0.5
    together = tokenizer.encode(frames)
    alone = torch.cat([tokenizer.encode(frame[None]) for frame in frames])
    assert torch.equal(together, alone)


def test_reconstruction_loss_is_divided_by_the_variance_of_the_data():
    torch.manual_seed(0)
    tokenizer = VQVAE(TINY)
    frames = torch.rand(4, 3, 64, 64) - 0.5
    tokenizer(frames)
    tokenizer.eval()
    tokenizer.data_variance.fill_(0.25)
    out = tokenizer(frames)
    expected = (out.reconstructions - frames).square().mean() / 0.25
    torch.testing.assert_close(out.nmse, expected)
    torch.testing.assert_close(out.loss, expected + 0.25 * out.commitment_loss)


def test_gradients_pass_straight_through_the_codebook():
    book = Codebook(4, 2)
    x = torch.randn(10, 2, requires_grad=True)
    quantised, _, _ = book(x)
    quantised.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_codes_start_as_vectors_of_the_first_batch():
    torch.manual_seed(0)
    book = Codebook(8, 2)
    book.eval()
    x = torch.randn(100, 2)
    book.train()
    book(x)
    # Each code has since moved by one average towards those it replaced, all from the batch.
    assert book.vectors.abs().max() <= x.abs().max()
    assert len(book.vectors.unique(dim=0)) == 8


def test_codes_move_by_the_moving_average_of_the_paper():
    book = Codebook(2, 1)
    book.vectors.copy_(torch.tensor([[0.0], [10.0]]))
    book.count.copy_(torch.tensor([4.0, 4.0]))
    book.total.copy_(torch.tensor([[0.0], [40.0]]))
    book.num_updates.fill_(1)
    book(torch.tensor([[1.0], [1.0], [9.0]]))
    counts = [DECAY * 4 + (1 - DECAY) * 2, DECAY * 4 + (1 - DECAY) * 1]
    totals = [DECAY * 0 + (1 - DECAY) * 2, DECAY * 40 + (1 - DECAY) * 9]
    expected = [[totals[0] / counts[0]], [totals[1] / counts[1]]]
    torch.testing.assert_close(book.vectors, torch.tensor(expected))


def test_an_unused_code_starts_again_with_its_averages():
    book = Codebook(2, 1)
    book.vectors.copy_(torch.tensor([[0.0], [1000.0]]))
    book.count.copy_(torch.tensor([5.0, 1.0]))
    book.total.copy_(torch.tensor([[0.0], [1000.0]]))
    book.num_updates.fill_(1)
    x = torch.linspace(1.0, 3.0, 32)[:, None]  # 16 vectors a code
    book(x)
    assert book.vectors[1] in x
    assert book.count[1] == 1
    assert torch.equal(book.total[1], book.vectors[1])


@pytest.mark.parametrize(("count", "restarts"), [(0.03, True), (0.04, False)])
def test_in_small_batches_a_code_is_unused_below_a_sixteenth_of_its_share(count, restarts):
    book = Codebook(8, 1)
    book.vectors.copy_(torch.arange(8.0)[:, None] * 1000)
    book.count.fill_(5.0)
    book.count[7] = count
    book.total.copy_(book.vectors * book.count[:, None])
    book.num_updates.fill_(1)
    book(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))  # half a vector a code
    assert (book.vectors[7] < 10) == restarts


def test_a_loaded_codebook_is_not_initialised_again():
    torch.manual_seed(0)
    book = Codebook(4, 2)
    x = torch.randn(200, 2)
    for _ in range(3):
        book(x)
    again = Codebook(4, 2)
    again.load_state_dict(book.state_dict())
    book(x)
    again(x)
    assert torch.equal(book.vectors, again.vectors)


def test_codes_do_not_depend_on_how_many_vectors_are_compared_at_once(monkeypatch):
    torch.manual_seed(0)
    book = Codebook(16, 4)
    book.vectors.normal_()
    x = torch.randn(103, 4)
    nearest = torch.cdist(x, book.vectors).argmin(1)
    assert torch.equal(book.nearest(x), nearest)
    for largest_chunk in (1, 16, 50 * 16):  # less than one vector, one, and an odd share
        monkeypatch.setattr(codebook, "LARGEST_CHUNK", largest_chunk)
        assert torch.equal(book.nearest(x), nearest)


def test_evaluation_leaves_the_codebook_as_it_is():
    book = Codebook(4, 2)
    book(torch.randn(50, 2))
    before = book.vectors.clone()
    book.eval()
    book(torch.randn(50, 2) + 5)
    assert torch.equal(book.vectors, before)


@pytest.mark.parametrize(
    "sizes", [{"downsampling": 3}, {"downsampling": 8, "frame_shape": (60, 64, 3)}]
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"power of two|can't be cut"):
        VQVAEConfig(**sizes)
