"""The head compiled for one dream on one CPU thread.

Sampling 64 tokens one by one takes PyTorch 15 to 18 ms a frame, nearly all of it overhead;
this takes about 3 (`python -m benchmarks.dream_step`). A test compares it with `TokenHead`.

`compile_head` compiles it once after an install; numba caches the result beside this file or,
where that is read-only, in the user's cache folder.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import TokenHead, Undirected
from worldmodel.prior.layers import Block

COMPILES_S = 8  # seconds to compile, about, on one core


@torch.no_grad()
def sample(
    head: TokenHead,
    context: Float[Tensor, "1 n D"],
    actions: Float[Tensor, "1 A"],
    uniforms: Float[Tensor, "1 n"],
    sampling: Sampling,
    undirected: Undirected | None = None,
) -> tuple[Int[Tensor, "1 n"], Float[Tensor, "1"]]:
    """The same as `TokenHead.sample`, for a batch of one on a CPU."""
    if undirected is not None:
        context = torch.cat([context, undirected.context])
        actions = torch.cat([actions, undirected.actions])
    blocks = [cast(Block, block) for block in head.blocks]
    norms = [norm for block in blocks for norm in (block.norm1, block.norm2)] + [head.norm]
    gains_and_biases = torch.stack([norm.gain_and_bias(actions) for norm in norms], 1)
    num_codes, codes = head.logits.out_features, np.empty(head.num_tokens, np.int64)
    nats = _sample_frame(
        np.ascontiguousarray((context + head.position).numpy()),
        gains_and_biases.numpy(),
        *_weights(head, blocks),
        head.heads,
        np.ascontiguousarray(uniforms[0].numpy()),
        0.0 if undirected is None else float(undirected.guidance),
        0.0 if sampling.takes_likeliest else float(sampling.temperature),
        sampling.top_k or num_codes,
        sampling.top_p or 1.0,
        codes,
    )
    return torch.from_numpy(codes)[None], context.new_tensor([nats])


def _weights(head: TokenHead, blocks: list[Block]) -> list[np.ndarray]:
    """A head's weights as arrays, those of its blocks stacked; no copy is made where there is one
    block, as in all presets."""
    layers = [(b.queries_keys_values, b.attention_output, b.expand, b.contract) for b in blocks]
    stacked = [
        parts[0][None] if len(parts) == 1 else torch.stack(parts)
        for of_blocks in zip(*layers, strict=True)
        for parts in ([b.weight for b in of_blocks], [b.bias for b in of_blocks])
    ]
    others = [head.previous_code.weight, head.logits.weight, head.logits.bias]
    return [tensor.detach().numpy() for tensor in (*stacked, *others)]


def _compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled by numba for one thread and cached in a file."""
    try:
        return njit(fastmath=True, nogil=True, cache=True)(function)
    except RuntimeError:  # no cache folder is writable: compiled in every process
        return njit(fastmath=True, nogil=True)(function)


@_compiled
def _linear(weight, bias, x, y):
    for i in range(weight.shape[0]):
        total = np.float32(0)
        for j in range(weight.shape[1]):
            total += weight[i, j] * x[j]
        y[i] = total + bias[i]


@_compiled
def _conditional_norm(x, gain_and_bias, y):
    width = x.shape[0]
    mean = np.float32(0)
    for j in range(width):
        mean += x[j]
    mean /= width
    variance = np.float32(0)
    for j in range(width):
        variance += (x[j] - mean) ** 2
    scale = 1 / math.sqrt(variance / width + 1e-5)
    for j in range(width):
        y[j] = (x[j] - mean) * scale * gain_and_bias[j] + gain_and_bias[width + j]


@_compiled
def _add(branch, x):
    for c in range(x.shape[0]):
        x[c] += branch[c]


@_compiled
def _squared_relu(hidden):
    for c in range(hidden.shape[0]):
        hidden[c] = max(hidden[c], np.float32(0)) ** 2


@_compiled
def _surprise(logits, code):
    """Nats of a code."""
    highest = logits.max()
    return math.log(np.exp(logits - highest).sum()) + highest - logits[code]


@_compiled
def _attend(qkv, keys, values, i, heads, y):
    """Attention of token i to the tokens up to itself; keys and values (n, D)."""
    width = y.shape[0]
    size = width // heads
    keys[i] = qkv[width : 2 * width]
    values[i] = qkv[2 * width :]
    scores = np.empty(i + 1, np.float32)
    for h in range(heads):
        begin = h * size
        highest = np.float32(-1e30)
        for j in range(i + 1):
            score = np.float32(0)
            for c in range(begin, begin + size):
                score += qkv[c] * keys[j, c]
            scores[j] = score / math.sqrt(size)
            highest = max(highest, scores[j])
        total = np.float32(0)
        for j in range(i + 1):
            scores[j] = math.exp(scores[j] - highest)
            total += scores[j]
        for c in range(begin, begin + size):
            y[c] = 0
        for j in range(i + 1):
            weight = scores[j] / total
            for c in range(begin, begin + size):
                y[c] += weight * values[j, c]


@_compiled
def _sample_code(logits, uniform, temperature, top_k, top_p):
    """As `worldmodel.prior.head.draw_codes`, for one row."""
    num_codes = logits.shape[0]
    best = np.argmax(logits)
    if temperature == 0:
        return best
    scaled = (logits - logits[best]) / np.float32(temperature)
    probabilities = np.exp(scaled)
    if top_k < num_codes:
        kth_largest = np.sort(scaled)[num_codes - top_k]
        for k in range(num_codes):
            if scaled[k] < kth_largest:
                probabilities[k] = 0
    total = probabilities.sum()
    if top_p < 1:
        ordered = np.sort(probabilities)[::-1]
        before = np.float32(0)
        smallest_kept = ordered[0]
        for k in range(num_codes):
            if before >= np.float32(top_p) * total:
                break
            smallest_kept = ordered[k]
            before += ordered[k]
        total = np.float32(0)
        for k in range(num_codes):
            if probabilities[k] < smallest_kept:
                probabilities[k] = 0
            total += probabilities[k]
    target = np.float32(uniform) * total
    cumulative = np.float32(0)
    for k in range(num_codes):
        cumulative += probabilities[k]
        if cumulative > target:
            return k
    return best


@_compiled
def _sample_frame(
    context,
    gains_and_biases,
    qkv_weight,
    qkv_bias,
    attention_weight,
    attention_bias,
    expand_weight,
    expand_bias,
    contract_weight,
    contract_bias,
    previous_code,
    logit_weight,
    logit_bias,
    heads,
    uniforms,
    guidance,
    temperature,
    top_k,
    top_p,
    codes,
):
    """Fill `codes`; return their mean negative log-likelihood, nats a token.

    Contexts are (1 or 2, n, D): guidance moves away from the second.
    """
    num_contexts, num_tokens, width = context.shape
    num_layers = qkv_weight.shape[0]
    # Allocated one by one: numba takes parts of one array as strided, ten times as slow.
    keys = np.empty((num_contexts, num_layers, num_tokens, width), np.float32)
    values = np.empty_like(keys)
    x = np.empty(width, np.float32)
    normed, attended, branch = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    qkv, hidden = np.empty(3 * width, np.float32), np.empty(4 * width, np.float32)
    logits = np.empty((num_contexts, logit_weight.shape[0]), np.float32)
    nats = 0.0
    previous = logit_weight.shape[0]
    for i in range(num_tokens):
        for which in range(num_contexts):
            x[:] = context[which, i] + previous_code[previous]
            for layer in range(num_layers):
                _conditional_norm(x, gains_and_biases[which, 2 * layer], normed)
                _linear(qkv_weight[layer], qkv_bias[layer], normed, qkv)
                _attend(qkv, keys[which, layer], values[which, layer], i, heads, attended)
                _linear(attention_weight[layer], attention_bias[layer], attended, branch)
                _add(branch, x)
                _conditional_norm(x, gains_and_biases[which, 2 * layer + 1], normed)
                _linear(expand_weight[layer], expand_bias[layer], normed, hidden)
                _squared_relu(hidden)
                _linear(contract_weight[layer], contract_bias[layer], hidden, branch)
                _add(branch, x)
            _conditional_norm(x, gains_and_biases[which, 2 * num_layers], normed)
            _linear(logit_weight, logit_bias, normed, logits[which])
        guided = logits[0]
        if num_contexts > 1:
            guided = logits[0] + np.float32(guidance) * (logits[0] - logits[1])
        previous = _sample_code(guided, uniforms[i], temperature, top_k, top_p)
        codes[i] = previous
        nats += _surprise(logits[0], previous)
    return nats / num_tokens


def is_compiled() -> bool:
    """Whether the head is compiled: in this process, or by an earlier one in the cache."""
    if _sample_frame.signatures:
        return True
    # Empty where the cache is of another version of the source; numba has no public function.
    return is_kept() and bool(_sample_frame._cache._cache_file._load_index())


def is_kept() -> bool:
    """Whether there is a writable folder for numba's cache."""
    return _sample_frame.stats.cache_path is not None


def compile_head() -> None:
    """Compile the head, unless it is compiled; one result serves heads of every size."""

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    blocks = (zeros(1, 3, 1), zeros(1, 3), zeros(1, 1, 1), zeros(1, 1))
    blocks += (zeros(1, 4, 1), zeros(1, 4), zeros(1, 1, 4), zeros(1, 1))
    logits = (zeros(3, 1), zeros(2, 1), zeros(2))
    contexts, affines, uniforms = zeros(1, 1, 1), zeros(1, 3, 2), zeros(1)
    codes = np.zeros(1, np.int64)
    _sample_frame(contexts, affines, *blocks, *logits, 1, uniforms, 0.0, 1.0, 1, 1.0, codes)
