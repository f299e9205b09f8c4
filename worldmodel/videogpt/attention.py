"""Causal attention over all tokens of a clip: dense, or strided and local (VideoGPT Sec. 4.1).

Tokens lie in raster order: frames, rows, columns, codebooks. A row is the w q tokens of one
(frame, row). Sparse attention lets a token see the last blocks of tokens and, of the frames
before, its own row: 224 keys on average at a latent size of 8 x 32 x 32, 352 at most, of 8,192.
No N x N mask is ever made.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 32  # tokens, in raster order, as in the original
LOCAL_BLOCKS = 4  # blocks that a token sees: its own and those before, as in the original
QUERIES_OF_A_ROW = 64  # at most, whose keys are gathered together
KEYS_A_CHUNK = 4096  # gathered at a time, for several rows: 8 MB at a width of 512
FLEX_BLOCK = 128

LatentShape = tuple[int, int, int, int]  # (t, h, w, q)
PerToken = Float[Tensor, "B nh P hs"]  # of each head


def dense_attention(q: PerToken, k: PerToken, v: PerToken) -> PerToken:
    """Every token sees itself and all before it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def sparse_attention(q: PerToken, k: PerToken, v: PerToken, latent_shape: LatentShape) -> PerToken:
    """Attention of every token to those that are `visible`, by the device's fastest method.

    The P tokens are those of the clip's first frames, or of all. FlexAttention has no backward
    pass on a CPU (torch 2.13), where keys are gathered instead.
    """
    if q.device.type == "cuda":
        return flex_sparse_attention(q, k, v, latent_shape)
    return gathered_sparse_attention(q, k, v, latent_shape)


def visible(query: Tensor, key: Tensor, latent_shape: LatentShape) -> Tensor:
    """Whether token `query` sees token `key`; the indices are broadcast."""
    _, rows, columns, books = latent_shape
    row_size = columns * books
    local = (key <= query) & _is_near(query, key)
    same_row = query // row_size % rows == key // row_size % rows
    frame_size = rows * row_size
    return local | (same_row & (key // frame_size < query // frame_size))


def _is_near(query: Tensor, key: Tensor) -> Tensor:
    return query // BLOCK - key // BLOCK < LOCAL_BLOCKS


def visible_keys(
    query: int, latent_shape: LatentShape, device: torch.device
) -> Int[Tensor, " keys"]:
    """The tokens that token `query` sees, in rising order.

    Takes some 20 us: call it once per token, not once per layer.
    """
    _, rows, columns, books = latent_shape
    row_size = columns * books
    frame_size = rows * row_size
    local_begin = max(0, (query // BLOCK - LOCAL_BLOCKS + 1) * BLOCK)
    row_begin = query % frame_size // row_size * row_size
    parts = []
    for frame_begin in range(0, query // frame_size * frame_size, frame_size):
        begin = frame_begin + row_begin
        end = min(begin + row_size, local_begin)
        if begin < end:
            parts.append(torch.arange(begin, end, device=device))
    return torch.cat([*parts, torch.arange(local_begin, query + 1, device=device)])


class _Chunk(NamedTuple):
    """A piece of each of some rows of one frame, and the keys gathered for each row.

    Attributes:
        latent_shape: of the clip.
        frame, rows, piece: position of the queries.
        local: the tokens that may be near.
        seen: whether each query sees each token of its row in the frames before, then each of
            `local`. A token that is both counts once, as near.
    """

    latent_shape: LatentShape
    frame: int
    rows: slice
    piece: slice
    local: Int[Tensor, "rows near"]
    seen: Bool[Tensor, "rows 1 queries keys"]


@lru_cache(maxsize=8)
def _chunks(latent_shape: LatentShape, device: torch.device) -> tuple[_Chunk, ...]:
    frames, rows, columns, books = latent_shape
    row_size = columns * books
    pieces = -(-row_size // QUERIES_OF_A_ROW)
    cuts = [round(i * row_size / pieces) for i in range(pieces + 1)]
    chunks = []
    # Cached for later calls, which may train: no tensor may be an inference tensor.
    with torch.inference_mode(False):
        for frame in range(frames):
            keys_a_row = LOCAL_BLOCKS * BLOCK + QUERIES_OF_A_ROW + frame * row_size
            num_rows = max(1, KEYS_A_CHUNK // keys_a_row)
            for row in range(0, rows, num_rows):
                some_rows = slice(row, min(row + num_rows, rows))
                for begin, end in pairwise(cuts):
                    chunks.append(_chunk(latent_shape, frame, some_rows, slice(begin, end), device))
    return tuple(chunks)


def _chunk(
    latent_shape: LatentShape, frame: int, rows: slice, piece: slice, device: torch.device
) -> _Chunk:
    tokens = torch.arange(math.prod(latent_shape), device=device)
    grid = tokens.view(*latent_shape[:2], -1)
    queries = grid[frame, rows, piece]
    local_begin = ((queries[:, 0] // BLOCK - LOCAL_BLOCKS + 1) * BLOCK).clamp(min=0)
    num_local = int((queries[:, -1] + 1 - local_begin).max())
    local = local_begin[:, None] + torch.arange(num_local, device=device)
    earlier = grid[:frame, rows].transpose(0, 1).flatten(1)  # the same row in the frames before
    queries = queries[:, :, None]
    seen = torch.cat(
        [
            ~_is_near(queries, earlier[:, None]),
            (local[:, None] <= queries) & _is_near(queries, local[:, None]),
        ],
        -1,
    )
    # Tokens after a row's own queries are not seen; the index must stay within the clip.
    return _Chunk(
        latent_shape, frame, rows, piece, local.clamp(max=int(queries.max())), seen[:, None]
    )


def gathered_sparse_attention(
    q: PerToken, k: PerToken, v: PerToken, latent_shape: LatentShape
) -> PerToken:
    """Sparse attention by `scaled_dot_product_attention` over gathered keys, some rows at a time.

    Only the arguments are saved for the backward pass, which gathers the keys again.
    """
    return cast(Tensor, _Gathered.apply(q, k, v, latent_shape))


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, latent_shape: LatentShape) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.latent_shape = latent_shape
        y = torch.empty_like(q)
        for chunk in _chunks_of(q, latent_shape):
            attended = _attend(
                _queries(q, chunk),
                _gather(k, chunk),
                _gather(v, chunk),
                chunk.seen,
            )
            _queries(y, chunk).copy_(attended)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors

        grad_q = torch.empty_like(q)
        # A key's gradient is the sum over all chunks that see it.
        precise = torch.promote_types(k.dtype, torch.float32)
        grad_k, grad_v = (torch.zeros_like(x, dtype=precise) for x in (k, v))
        for chunk in _chunks_of(q, ctx.latent_shape):
            queries = _queries(q, chunk).detach().requires_grad_()
            keys, values = (_gather(x, chunk).detach().requires_grad_() for x in (k, v))
            with torch.enable_grad():
                attended = _attend(queries, keys, values, chunk.seen)
            grads = torch.autograd.grad(attended, (queries, keys, values), _queries(grad_y, chunk))
            _queries(grad_q, chunk).copy_(grads[0])
            _scatter_add(grad_k, grads[1], chunk)
            _scatter_add(grad_v, grads[2], chunk)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None


def _chunks_of(q: Tensor, latent_shape: LatentShape) -> Iterator[_Chunk]:
    frames, rows, columns, books = latent_shape
    num_frames, rest = divmod(q.shape[-2], rows * columns * books)
    if rest or not 0 < num_frames <= frames:
        raise ValueError(
            f"sparse attention over a latent size of {latent_shape} takes whole frames, "
            f"not {q.shape[-2]} tokens"
        )
    return (c for c in _chunks(latent_shape, q.device) if c.frame < num_frames)


def _on_grid(x: Tensor, latent_shape: LatentShape) -> Float[Tensor, "B nh t h row hs"]:
    return x.unflatten(-2, (-1, latent_shape[1], latent_shape[2] * latent_shape[3]))


def _queries(x: Tensor, chunk: _Chunk) -> Float[Tensor, "B nh rows queries hs"]:
    """A view of the chunk's queries."""
    return _on_grid(x, chunk.latent_shape)[:, :, chunk.frame, chunk.rows, chunk.piece]


def _gather(x: Tensor, chunk: _Chunk) -> Float[Tensor, "B nh rows keys hs"]:
    before = _on_grid(x, chunk.latent_shape)[:, :, : chunk.frame, chunk.rows]
    earlier = before.transpose(2, 3).flatten(3, 4)
    local = x.index_select(2, chunk.local.flatten()).unflatten(2, chunk.local.shape)
    return torch.cat([earlier, local], 3)


def _scatter_add(
    total: Tensor,
    gathered: Float[Tensor, "B nh rows keys hs"],
    chunk: _Chunk,
) -> None:
    """Add the transpose of `_gather` to `total`."""
    num_local = chunk.local.shape[1]
    earlier, local = gathered.split([gathered.shape[3] - num_local, num_local], 3)
    if chunk.frame:
        earlier = earlier.unflatten(3, (chunk.frame, -1)).transpose(2, 3)
        _on_grid(total, chunk.latent_shape)[:, :, : chunk.frame, chunk.rows] += earlier
    total.index_add_(2, chunk.local.flatten(), local.flatten(2, 3).to(total.dtype))


def _attend(
    q: Float[Tensor, "B nh rows queries hs"],
    k: Float[Tensor, "B nh rows keys hs"],
    v: Float[Tensor, "B nh rows keys hs"],
    seen: Bool[Tensor, "rows 1 queries keys"],
) -> Float[Tensor, "B nh rows queries hs"]:
    # Rows become the batch dimension, along which the mask differs.
    batch_and_heads = q.shape[:2]
    q, k, v = (x.flatten(0, 1).transpose(0, 1) for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return y.transpose(0, 1).unflatten(0, batch_and_heads)


def flex_sparse_attention(
    q: PerToken, k: PerToken, v: PerToken, latent_shape: LatentShape
) -> PerToken:
    """Sparse attention by FlexAttention, compiled at the first call."""
    mask = flex_block_mask(latent_shape, q.shape[-2], q.device)
    return _compiled_flex_attention()(q, k, v, block_mask=mask)


@cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    return cast(Callable[..., Tensor], torch.compile(flex_attention, dynamic=False))


@lru_cache(maxsize=8)
def flex_block_mask(latent_shape: LatentShape, num_tokens: int, device: torch.device) -> BlockMask:
    """Which blocks of keys a block of queries sees in full and which in part.

    Computed for one block of queries at a time; `create_block_mask` would make the N x N mask.
    """
    with torch.inference_mode(False):
        keys = torch.arange(num_tokens, device=device)
        num_blocks = -(-num_tokens // FLEX_BLOCK)
        padding = num_blocks * FLEX_BLOCK - num_tokens
        some, every = [], []
        for queries in keys.split(FLEX_BLOCK):
            seen = visible(queries[:, None], keys, latent_shape)
            short = FLEX_BLOCK - len(queries)
            count = F.pad(seen, (0, padding, 0, short)).unflatten(1, (-1, FLEX_BLOCK)).sum((0, 2))
            every.append(count == FLEX_BLOCK**2)
            some.append((count > 0) & ~every[-1])
        lists = [_ordered(torch.stack(rows)[None, None]) for rows in (some, every)]

    def mask_mod(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(query, key, latent_shape)

    return BlockMask.from_kv_blocks(
        *lists[0],
        *lists[1],
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(num_tokens, num_tokens),
    )


def _ordered(
    blocks: Bool[Tensor, "1 1 Q K"],
) -> tuple[Int[Tensor, "1 1 Q"], Int[Tensor, "1 1 Q K"]]:
    """The number of blocks set in each row, and the indices of all blocks with those first."""
    order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(-1).int(), order.int()
