"""The tokenizer of clips is the one of VideoGPT Sec. 3, Fig. 4 and Table 8."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from worldmodel.videogpt.configs import PUBLISHED, VideoVQVAEConfig
from worldmodel.videogpt.vqvae import VideoVQVAE
from worldmodel.vqvae.codebook import Codebook, Codebooks
from worldmodel.vqvae.layers import AxialAttention, ChannelNorm

TINY = VideoVQVAEConfig(
    clip_shape=(4, 16, 16, 3),
    downsampling=(2, 4, 4),
    hidden_units=8,
    residual_units=4,
    residual_layers=2,
    num_codes=8,
    code_dim=4,
)


def clips_of(config: VideoVQVAEConfig, num_clips: int = 3, *, seed: int = 0) -> Tensor:
    frames, height, width, channels = config.clip_shape
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_clips, channels, frames, height, width, generator=generator) - 0.5


def seen(config: VideoVQVAEConfig, *, seed: int = 0) -> VideoVQVAE:
    """A tokenizer whose codes have started; in training mode."""
    torch.manual_seed(seed)
    tokenizer = VideoVQVAE(config)
    tokenizer(clips_of(config, seed=1))
    return tokenizer


def parameters_by_hand(
    *,
    hidden: int,
    residual: int,
    layers: int,
    channels: int,
    kernels: list[int],
    attention_over: tuple[int, int, int] | None,
    code_dim: int,
) -> int:
    """Table 8, added up.

    Args:
        kernels: taps of each convolution between the pixels and the grid.
        attention_over: the grid, if attention is used.
    """
    block = hidden * residual * 27 + residual * hidden  # conv 3, conv 1; no bias
    block += 2 * hidden + 2 * residual  # gain and bias of their two norms
    positions = 0
    if attention_over:
        query_key_value_output = 4 * hidden * hidden + hidden  # the output has a bias
        block += 2 * hidden + 3 * query_key_value_output
        positions = sum(attention_over) * hidden
    stack = layers * block + 2 * hidden

    first, *others = kernels
    down = channels * hidden * first + hidden
    down += sum(hidden * hidden * taps + hidden for taps in others)
    encoder = down + hidden * hidden * 27 + hidden + stack + hidden * code_dim + code_dim
    up = sum(hidden * hidden * taps + hidden for taps in others)
    up += hidden * channels * first + channels
    decoder = code_dim * hidden + hidden + stack + up
    return encoder + decoder + positions


BAIR = dict(
    hidden=240,
    residual=128,
    layers=4,
    channels=3,
    kernels=[4 * 4 * 4],
    attention_over=(8, 32, 32),
    code_dim=256,
)
# Time is halved once more, space is not: a filter of 3 along each of its axes.
UCF101 = {**BAIR, "kernels": [4 * 4 * 4, 4 * 3 * 3], "attention_over": (4, 32, 32)}
BY_HAND = {
    "moving-mnist": {
        **BAIR,
        "layers": 2,
        "channels": 1,
        "kernels": [4 * 4 * 4, 4 * 4 * 4],
        "attention_over": None,
        "code_dim": 64,
    },
    "bair": BAIR,
    "robonet": BAIR,
    "vizdoom-hgs": BAIR,
    "vizdoom-battle2": BAIR,
    "ucf101": UCF101,
    "ucf101-128": {**UCF101, "kernels": [4 * 4 * 4, 4 * 4 * 4]},
    "tgif": UCF101,
    "tiny-videogpt": dict(
        hidden=16,
        residual=16,
        layers=1,
        channels=3,
        kernels=[4 * 4 * 4, 3 * 4 * 4, 3 * 4 * 4],
        attention_over=(2, 8, 8),
        code_dim=8,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_parameters_of_the_paper(name):
    with torch.device("meta"):
        tokenizer = VideoVQVAE(PUBLISHED[name].tokenizer)
    parameters = sum(p.numel() for p in tokenizer.parameters())
    assert parameters == parameters_by_hand(**BY_HAND[name])


def test_the_tokenizer_of_bair_is_as_large_as_the_original():
    # 13.77M without positions and norms of channels, with 120 residual units instead of 128.
    with torch.device("meta"):
        tokenizer = VideoVQVAE(PUBLISHED["bair"].tokenizer)
    assert sum(p.numel() for p in tokenizer.parameters()) == pytest.approx(13.77e6, rel=0.04)


TABLE_5 = [
    (4, 16, 16),
    (16, 8, 8),
    (8, 16, 16),
    (1, 64, 64),
    (4, 32, 32),
    (16, 16, 16),
    (2, 64, 64),
    (8, 32, 32),
    (4, 64, 64),
    (16, 32, 32),
]


@pytest.mark.parametrize("grid", TABLE_5, ids=lambda grid: "x".join(map(str, grid)))
def test_every_latent_size_of_table_5_comes_back_in_shape(grid):
    t, h, w = grid
    config = replace(
        TINY,
        clip_shape=(16, 64, 64, 3),
        downsampling=(16 // t, 64 // h, 64 // w),
        residual_layers=1,
    )
    tokenizer = VideoVQVAE(config).eval()
    clips = clips_of(config, 1)
    codes = tokenizer.encode(clips)
    assert codes.shape == (1, t, h, w, 1)
    assert tokenizer.decode(codes).shape == clips.shape


@settings(max_examples=12, deadline=None)
@given(
    strides=st.tuples(*[st.sampled_from([1, 2, 4])] * 3).filter(lambda s: max(s) > 1),
    blocks=st.tuples(*[st.integers(1, 3)] * 3),
    num_channels=st.sampled_from([1, 3]),
    num_codebooks=st.integers(1, 3),
    attention_heads=st.sampled_from([0, 2]),
)
def test_codes_lie_on_the_grid_and_clips_come_back_in_shape(
    strides, blocks, num_channels, num_codebooks, attention_heads
):
    size = [s * n for s, n in zip(strides, blocks, strict=True)]
    config = replace(
        TINY,
        clip_shape=(*size, num_channels),
        downsampling=strides,
        residual_layers=1,
        num_codebooks=num_codebooks,
        attention_heads=attention_heads,
    )
    clips = clips_of(config, 2)
    out = VideoVQVAE(config)(clips)
    assert out.codes.shape == (2, *blocks, num_codebooks)
    assert out.codes.min() >= 0
    assert out.codes.max() < 8
    assert out.reconstructions.shape == clips.shape


@pytest.mark.parametrize("downsampling", [(2, 4, 4), (1, 2, 4), (4, 1, 1)])
def test_decoding_the_codes_gives_the_reconstruction_alone_and_in_a_batch(downsampling):
    config = replace(TINY, downsampling=downsampling, num_codebooks=2)
    tokenizer = seen(config).eval()
    clips = clips_of(config)
    out = tokenizer(clips)
    codes = tokenizer.encode(clips)
    assert torch.equal(codes, out.codes)
    assert len(codes.unique()) > 2
    torch.testing.assert_close(tokenizer.decode(codes), out.reconstructions, atol=1e-4, rtol=0)
    for i in range(len(clips)):
        alone = slice(i, i + 1)
        assert torch.equal(tokenizer.encode(clips[alone]), codes[alone])
        torch.testing.assert_close(
            tokenizer.decode(codes[alone]), out.reconstructions[alone], atol=1e-4, rtol=0
        )


def test_a_clip_is_coded_as_a_whole():
    config = replace(TINY, clip_shape=(16, 16, 16, 3))
    tokenizer = seen(config)
    clips = clips_of(config, 1).requires_grad_()
    latents: list[Tensor] = []
    tokenizer.encoder.register_forward_hook(lambda *args: latents.append(args[-1]))
    tokenizer(clips)
    latents[0][:, :, 0].square().sum().backward()
    assert clips.grad is not None
    assert clips.grad[:, :, -1].abs().max() > 0


@pytest.mark.parametrize("num_codebooks", [1, 2, 4, 8])
def test_each_codebook_codes_its_own_slice_of_the_channels(num_codebooks):
    torch.manual_seed(0)
    books = Codebooks(Codebook(16, 4) for _ in range(num_codebooks)).eval()
    for book in books:
        assert isinstance(book, Codebook)
        book.vectors.normal_()
    latents = torch.randn(2, num_codebooks * 4, 2, 3, 5)
    quantised, codes, loss = books(latents)
    assert torch.equal(books.nearest(latents), codes)
    torch.testing.assert_close(books.look_up(codes), quantised)
    torch.testing.assert_close(loss, F.mse_loss(latents, quantised))
    for q, vectors in enumerate(books.vectors()):
        wanted = latents[:, 4 * q : 4 * q + 4].permute(0, 2, 3, 4, 1)
        assert torch.equal(codes[..., q], torch.cdist(wanted, vectors).argmin(-1))

    last = latents.clone()
    last[:, -4:] += 3 * torch.randn(4, 1, 1, 1)
    again = books.nearest(last)
    assert torch.equal(again[..., :-1], codes[..., :-1])
    assert not torch.equal(again[..., -1], codes[..., -1])


def test_the_codes_vectors_are_given_as_a_copy():
    tokenizer = seen(replace(TINY, num_codebooks=2))
    vectors = tokenizer.code_vectors()
    assert vectors.shape == (2, 8, 4)
    books = [book for book in tokenizer.codebooks if isinstance(book, Codebook)]
    for book, copy in zip(books, vectors, strict=True):
        assert torch.equal(copy, book.vectors)
    vectors.zero_()
    assert all(book.vectors.abs().max() > 0 for book in books)


def test_one_position_embedding_serves_every_attention():
    tokenizer = seen(TINY)
    state = tokenizer.state_dict()
    shapes = {name: tuple(state[name].shape) for name in state if "position" in name}
    assert sorted(shapes.values()) == [(2, 8), (4, 8), (4, 8)]

    given_positions: list[Tensor] = []
    for module in tokenizer.modules():
        if isinstance(module, AxialAttention):
            module.register_forward_pre_hook(lambda _, args: given_positions.append(args[1]))
    tokenizer(clips_of(TINY))
    assert len(given_positions) == 2 * TINY.residual_layers
    assert tokenizer.positions is not None
    time, rows, columns = tokenizer.positions.parameters()
    for positions in given_positions:
        assert positions.shape == (2, 4, 4, 8)
        torch.testing.assert_close(positions[1, 2, 3], time[1] + rows[2] + columns[3])


def test_encoder_and_decoder_both_teach_the_positions():
    tokenizer = seen(TINY)
    assert tokenizer.positions is not None
    parameters = list(tokenizer.positions.parameters())
    out = tokenizer(clips_of(TINY))
    from_encoder = torch.autograd.grad(out.commitment_loss, parameters)
    codes = torch.randint(8, (3, *TINY.latent_shape))
    latents = tokenizer.codebooks.look_up(codes)
    pixels = tokenizer.decoder(latents, tokenizer.positions(), recompute=False)
    from_decoder = torch.autograd.grad(pixels.square().mean(), parameters)
    for gradient in (*from_encoder, *from_decoder):
        assert gradient.abs().max() > 0


def test_without_attention_there_are_no_positions():
    tokenizer = VideoVQVAE(replace(TINY, attention_heads=0))
    assert not [name for name in tokenizer.state_dict() if "position" in name]
    assert not any(isinstance(module, AxialAttention) for module in tokenizer.modules())


@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 5)])
def test_attention_sees_along_every_axis_and_nowhere_else(grid):
    torch.manual_seed(0)
    attention = AxialAttention(6, 2, num_axes=len(grid))
    x = torch.randn(1, 6, *grid, requires_grad=True)
    here = tuple(torch.randint(size, ()).item() for size in grid)
    attention(x)[0][(slice(None), *here)].square().sum().backward()
    assert x.grad is not None
    seen_from_here = x.grad[0].abs().sum(0).gt(0)
    axes = torch.meshgrid(*[torch.arange(size) for size in grid], indexing="ij")
    differing = torch.stack([axis != i for axis, i in zip(axes, here, strict=True)]).sum(0)
    assert torch.equal(seen_from_here, differing <= 1)


def test_attention_is_the_sum_of_attention_along_each_axis():
    torch.manual_seed(0)
    attention = AxialAttention(6, 2, num_axes=3)
    x, positions = torch.randn(2, 6, 3, 4, 5), torch.randn(3, 4, 5, 6)
    y = attention(x, positions)
    x = x.movedim(1, -1) + positions
    lines_through_here = [x[1, 2, 1, :], x[1, 2, :, 3], x[1, :, 1, 3]]  # along w, h and t
    expected = torch.zeros(6)
    for axis, (line, index) in enumerate(zip(lines_through_here, (3, 1, 2), strict=True)):
        q, k, v = (
            part.unflatten(-1, (2, 3)).transpose(0, 1)
            for part in attention.queries_keys_values[axis](line).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(q, k, v)[:, index].flatten()
        expected = expected + attention.outputs[axis](attended)
    torch.testing.assert_close(y[1, :, 2, 1, 3], expected)


@pytest.mark.parametrize("grey", [-0.5, 0.0])
def test_clips_without_variance_give_no_nan(grey):
    torch.manual_seed(0)
    tokenizer = VideoVQVAE(TINY)
    clips = torch.full_like(clips_of(TINY), grey)
    for _ in range(3):
        tokenizer.zero_grad()
        out = tokenizer(clips)
        out.loss.backward()
        assert torch.isfinite(out.loss)
        for name, parameter in tokenizer.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_a_norm_of_equal_channels_gives_no_nan():
    x = torch.full((1, 8, 2, 3, 4), 5.0, requires_grad=True)
    y = ChannelNorm(8)(x)
    y.square().sum().backward()
    assert torch.equal(y, torch.zeros_like(y))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_reconstruction_loss_is_divided_by_the_variance_of_the_data():
    tokenizer = seen(TINY).eval()
    clips = clips_of(TINY)
    tokenizer.data_variance.fill_(0.25)
    out = tokenizer(clips)
    expected = (out.reconstructions - clips).square().mean() / 0.25
    torch.testing.assert_close(out.nmse, expected)
    torch.testing.assert_close(out.loss, expected + 0.25 * out.commitment_loss)
    assert out.commitment_loss > 0


def moving_squares() -> Tensor:
    """Four clips of a bright square on its way to the right, each from a row of its own."""
    clips = torch.full((4, 1, 4, 16, 16), -0.5)
    for i, clip in enumerate(clips):
        for t in range(4):
            clip[0, t, 3 * i : 3 * i + 4, 2 + 3 * t : 6 + 3 * t] = 0.5
    return clips


def test_moving_squares_are_learnt():
    torch.manual_seed(0)
    config = replace(
        TINY,
        clip_shape=(4, 16, 16, 1),
        downsampling=(2, 2, 2),
        hidden_units=16,
        residual_layers=1,
        num_codes=32,
    )
    tokenizer = VideoVQVAE(config)
    clips = moving_squares()
    tokenizer.data_variance.copy_(clips.var())
    optimiser = torch.optim.Adam(tokenizer.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        tokenizer(clips).loss.backward()
        optimiser.step()
    tokenizer.eval()
    again = tokenizer.decode(tokenizer.encode(clips))
    still = clips.mean(2, keepdim=True)  # the best of all pictures in which nothing moves
    assert (again - clips).square().mean() < 0.4 * (still - clips).square().mean()


def leave_nans_in_memory() -> None:
    """What asks for memory after this and doesn't set it finds NaN in it."""
    blocks = [torch.full((2**i,), torch.nan) for i in range(4, 18) for _ in range(8)]
    del blocks


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_gradients_in_bf16_are_those_of_fp32(frames):
    tokenizer = seen(replace(TINY, clip_shape=(frames, 16, 16, 3))).eval()
    clips = clips_of(tokenizer.config)
    parameters = list(tokenizer.parameters())
    full = tokenizer(clips)
    wanted = torch.autograd.grad(full.loss, parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = tokenizer(clips)
    leave_nans_in_memory()
    gradients = torch.autograd.grad(half.loss, parameters)
    assert half.loss.dtype == torch.float32
    torch.testing.assert_close(half.loss, full.loss, rtol=0.01, atol=0)
    for (name, _), mine, right in zip(tokenizer.named_parameters(), gradients, wanted, strict=True):
        assert mine.dtype == torch.float32
        # A vector near the border of two codes may get the other one; garbage is far off.
        assert (mine - right).norm() < 0.5 * right.norm() + 1e-4, name


def bytes_kept(tokenizer: VideoVQVAE, clips: Tensor) -> tuple[int, Tensor]:
    """Bytes that the forward pass keeps for the backward pass, and the loss."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = tokenizer(clips).loss
    return sum(kept.values()), loss


@pytest.mark.parametrize("attention_heads", [0, 2])
def test_recomputed_activations_give_the_same_loss_gradients_and_codes(attention_heads):
    config = replace(TINY, attention_heads=attention_heads)
    plain, recomputed = seen(config), seen(config)
    recomputed.checkpoint_activations = True
    kept = []
    for tokenizer in (plain, recomputed):
        num_bytes, loss = bytes_kept(tokenizer, clips_of(config))
        loss.backward()
        kept.append((num_bytes, loss))
    assert torch.equal(kept[0][1], kept[1][1])
    assert kept[1][0] < kept[0][0]
    for (name, one), other in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad), name
    for (name, one), (_, other) in zip(
        plain.named_buffers(), recomputed.named_buffers(), strict=True
    ):
        assert torch.equal(one, other), name


def test_the_digest_is_of_all_weights_and_codes():
    tokenizer = seen(TINY)
    again = VideoVQVAE(TINY)
    assert again.digest() != tokenizer.digest()
    again.load_state_dict(tokenizer.state_dict())
    assert again.digest() == tokenizer.digest()
    book = again.codebooks[0]
    assert isinstance(book, Codebook)
    book.vectors[0, 0] += 1
    assert again.digest() != tokenizer.digest()
