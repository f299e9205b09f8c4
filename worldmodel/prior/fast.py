"""The prior's networks compiled for one dream on one CPU thread.

At the sizes of a dream PyTorch spends more time between its operations than in them, and its
products of 16 rows reach a third of a core's speed; these reach two thirds and more
(`python -m benchmarks.dream_step`). Tests compare them with the modules.

`compile_all` compiles them once after an install; numba caches the result beside this file or,
where that is read-only, in the user's cache folder. All is in one file, because numba notices only
changes of the file that a function is in.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor, nn

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import TokenHead, Undirected
from worldmodel.prior.layers import Block, ConditionalNorm
from worldmodel.prior.recall import Recall

COMPILES_S = 12  # seconds to compile, about, on one core
NOT_SEEN = np.float32(-1e30)


@torch.no_grad()
def run_block(
    block: Block,
    x: Float[Tensor, "1 P D"],
    actions: Float[Tensor, "1 A"],
    ring: Float[Tensor, "two nh window P hs"],
    slot: int,
    filled: Bool[Tensor, " window"],
    turns: tuple[Float[Tensor, "P half"], Float[Tensor, "P half"]],
) -> None:
    """`Block` on a dream's newest frame, in place; its keys and values are written to the ring.

    Args:
        slot: of the newest frame.
        filled: slots that hold a frame, the newest included.
        turns: cosines and sines of the newest frame, of `Rotary.turns`.
    """
    layers = (
        block.norm1.gain_and_bias,
        block.queries_keys_values,
        block.attention_output,
        block.norm2.gain_and_bias,
        block.expand,
        block.contract,
    )
    _run_block(
        x[0].numpy(),
        actions.numpy(),
        *_arrays(*layers),
        ring.numpy(),
        slot,
        filled.numpy(),
        *(part.numpy() for part in turns),
    )


@torch.no_grad()
def run_recall(
    recall: Recall,
    x: Float[Tensor, "1 P D"],
    older: Float[Tensor, "1 O D"],
    present: Bool[Tensor, "1 O"],
) -> None:
    """`Recall` of one dream, in place."""
    _run_recall(
        x[0].numpy(),
        np.concatenate([recall.nothing.numpy(), older[0].numpy()]),
        np.concatenate([[True], present[0].numpy()]),
        *_arrays(recall.norm, recall.queries, recall.keys_values, recall.output),
        recall.heads,
    )


@torch.no_grad()
def normalised(
    norm: ConditionalNorm, x: Float[Tensor, "1 P D"], actions: Float[Tensor, "1 A"]
) -> Float[Tensor, "1 P D"]:
    """`ConditionalNorm` of one dream."""
    result = torch.empty_like(x)
    _normalise(x[0].numpy(), actions.numpy(), *_arrays(norm.gain_and_bias), result[0].numpy())
    return result


def _arrays(*layers: nn.Linear | nn.LayerNorm) -> list[np.ndarray]:
    """Weights and biases."""
    return [tensor.detach().numpy() for layer in layers for tensor in (layer.weight, layer.bias)]


@torch.no_grad()
def sample(
    head: TokenHead,
    context: Float[Tensor, "F n D"],
    actions: Float[Tensor, "F A"],
    uniforms: Float[Tensor, "F n"],
    sampling: Sampling,
    undirected: Undirected | None = None,
) -> tuple[Int[Tensor, "F n"], Float[Tensor, " F"]]:
    """The same as `TokenHead.sample`, on a CPU. Frames are divided among torch's threads."""
    num_frames, num_codes = len(context), head.logits.out_features
    guidance = 0.0
    if undirected is not None:  # a second half of the batch
        context = torch.cat([context, undirected.context])
        actions = torch.cat([actions, undirected.actions])
        guidance = undirected.guidance
    blocks = [cast(Block, block) for block in head.blocks]
    norms = [norm for block in blocks for norm in (block.norm1, block.norm2)] + [head.norm]
    gains_and_biases = torch.stack([norm.gain_and_bias(actions) for norm in norms])
    codes, nats = np.empty((num_frames, head.num_tokens), np.int64), np.empty(num_frames)
    per_row = (context + head.position).numpy(), gains_and_biases.numpy().swapaxes(0, 1)
    weights = _weights(head, blocks)

    def sample_some(frames: np.ndarray) -> None:
        rows = frames if undirected is None else np.concatenate([frames, frames + num_frames])
        some_codes, some_nats = _sample_frames(
            np.ascontiguousarray(per_row[0][rows].swapaxes(0, 1)),
            np.ascontiguousarray(per_row[1][rows].swapaxes(0, 1)),
            *weights,
            head.heads,
            uniforms.numpy()[frames],
            undirected is not None,
            float(guidance),
            0.0 if sampling.takes_likeliest else float(sampling.temperature),
            sampling.top_k or num_codes,
            sampling.top_p or 1.0,
        )
        codes[frames], nats[frames] = some_codes, some_nats

    parts = np.array_split(np.arange(num_frames), min(num_frames, torch.get_num_threads()))
    if len(parts) == 1:
        sample_some(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as threads:
            list(threads.map(sample_some, parts))
    return torch.from_numpy(codes), torch.from_numpy(nats).to(context)


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
    """y (m, n) = x (m, k) times weight (n, k) transposed, plus bias (n,)."""
    num_rows, num_outputs, width = x.shape[0], weight.shape[0], weight.shape[1]
    fours, pairs = num_rows - num_rows % 4, num_outputs - num_outputs % 2
    for i in range(0, pairs, 2):  # eight sums at a time fit into registers
        w0, w1 = weight[i], weight[i + 1]
        for m in range(0, fours, 4):
            x0, x1, x2, x3 = x[m], x[m + 1], x[m + 2], x[m + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
            for j in range(width):
                a0 += x0[j] * w0[j]
                a1 += x1[j] * w0[j]
                a2 += x2[j] * w0[j]
                a3 += x3[j] * w0[j]
                b0 += x0[j] * w1[j]
                b1 += x1[j] * w1[j]
                b2 += x2[j] * w1[j]
                b3 += x3[j] * w1[j]
            y[m, i], y[m, i + 1] = a0 + bias[i], b0 + bias[i + 1]
            y[m + 1, i], y[m + 1, i + 1] = a1 + bias[i], b1 + bias[i + 1]
            y[m + 2, i], y[m + 2, i + 1] = a2 + bias[i], b2 + bias[i + 1]
            y[m + 3, i], y[m + 3, i + 1] = a3 + bias[i], b3 + bias[i + 1]
    for m in range(fours, num_rows):
        x0 = x[m]
        for i in range(0, num_outputs - num_outputs % 4, 4):
            w0, w1, w2, w3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
            a0 = a1 = a2 = a3 = np.float32(0)
            for j in range(width):
                a0 += x0[j] * w0[j]
                a1 += x0[j] * w1[j]
                a2 += x0[j] * w2[j]
                a3 += x0[j] * w3[j]
            y[m, i], y[m, i + 1] = a0 + bias[i], a1 + bias[i + 1]
            y[m, i + 2], y[m, i + 3] = a2 + bias[i + 2], a3 + bias[i + 3]
    for m in range(num_rows):
        for i in range(pairs if m < fours else num_outputs - num_outputs % 4, num_outputs):
            total, x0, w0 = np.float32(0), x[m], weight[i]
            for j in range(width):
                total += x0[j] * w0[j]
            y[m, i] = total + bias[i]


@_compiled
def _conditional_norm(x, gains_and_biases, y):
    """Rows of x (m, D) with mean 0 and variance 1, then gains and biases (m or 1, 2 D)."""
    width = x.shape[1]
    for m in range(x.shape[0]):
        gain_and_bias = gains_and_biases[m if gains_and_biases.shape[0] > 1 else 0]
        mean = np.float32(0)
        for j in range(width):
            mean += x[m, j]
        mean /= width
        variance = np.float32(0)
        for j in range(width):
            variance += (x[m, j] - mean) ** 2
        scale = 1 / math.sqrt(variance / width + 1e-5)
        for j in range(width):
            y[m, j] = (x[m, j] - mean) * scale * gain_and_bias[j] + gain_and_bias[width + j]


@_compiled
def _add(branch, x):
    for m in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[m, j] += branch[m, j]


@_compiled
def _squared_relu(x):
    for m in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[m, j] = max(x[m, j], np.float32(0)) ** 2


@_compiled
def _attend(queries, keys, values, seen, begin, y):
    """Attention of one head, written to the columns of y (m, D) from `begin` on.

    Queries (m, hs) are scaled; keys and values (n, hs); `seen` (n,) are the keys that count.
    """
    num_queries, size = queries.shape
    num_keys = keys.shape[0]
    scores = np.empty((num_queries, num_keys), np.float32)
    _linear(keys, np.zeros(num_keys, np.float32), queries, scores)
    mixed = np.empty(size, np.float32)
    for m in range(num_queries):
        highest = NOT_SEEN
        for n in range(num_keys):
            if seen[n]:
                highest = max(highest, scores[m, n])
        total = np.float32(0)
        mixed[:] = 0
        for n in range(num_keys):
            if seen[n]:
                weight = math.exp(scores[m, n] - highest)
                total += weight
                for c in range(size):
                    mixed[c] += weight * values[n, c]
        for c in range(size):
            y[m, begin + c] = mixed[c] / total


@_compiled
def _normalise(x, action, weight, bias, y):
    gain_and_bias = np.empty((1, weight.shape[0]), np.float32)
    _linear(weight, bias, action, gain_and_bias)
    _conditional_norm(x, gain_and_bias, y)


@_compiled
def _run_block(
    x,
    action,
    norm1_weight,
    norm1_bias,
    qkv_weight,
    qkv_bias,
    attention_weight,
    attention_bias,
    norm2_weight,
    norm2_bias,
    expand_weight,
    expand_bias,
    contract_weight,
    contract_bias,
    ring,
    slot,
    filled,
    cosines,
    sines,
):
    _, heads, window, num_positions, size = ring.shape
    width, half, scale = x.shape[1], size // 2, np.float32(1 / math.sqrt(size))
    normed, branch, attended = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    qkv = np.empty((num_positions, 3 * width), np.float32)
    hidden = np.empty((num_positions, 4 * width), np.float32)
    queries = np.empty((num_positions, size), np.float32)
    seen = np.empty(window * num_positions, np.bool_)
    for s in range(window):
        seen[s * num_positions : (s + 1) * num_positions] = filled[s]
    _normalise(x, action, norm1_weight, norm1_bias, normed)
    _linear(qkv_weight, qkv_bias, normed, qkv)
    for h in range(heads):
        for p in range(num_positions):
            q, k, v = h * size, width + h * size, 2 * width + h * size
            for c in range(half):
                cosine, sine = cosines[p, c], sines[p, c]
                first, second = qkv[p, q + c], qkv[p, q + half + c]
                queries[p, c] = scale * (first * cosine - second * sine)
                queries[p, half + c] = scale * (first * sine + second * cosine)
                first, second = qkv[p, k + c], qkv[p, k + half + c]
                ring[0, h, slot, p, c] = first * cosine - second * sine
                ring[0, h, slot, p, half + c] = first * sine + second * cosine
            for c in range(size):
                ring[1, h, slot, p, c] = qkv[p, v + c]
        keys = ring[0, h].reshape(window * num_positions, size)
        values = ring[1, h].reshape(window * num_positions, size)
        _attend(queries, keys, values, seen, h * size, attended)
    _linear(attention_weight, attention_bias, attended, branch)
    _add(branch, x)
    _normalise(x, action, norm2_weight, norm2_bias, normed)
    _linear(expand_weight, expand_bias, normed, hidden)
    _squared_relu(hidden)
    _linear(contract_weight, contract_bias, hidden, branch)
    _add(branch, x)


@_compiled
def _run_recall(
    x,
    older,
    present,
    gain,
    bias,
    query_weight,
    query_bias,
    kv_weight,
    kv_bias,
    output_weight,
    output_bias,
    heads,
):
    width, num_older = x.shape[1], older.shape[0]
    size = width // heads
    normed, queries, attended = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    keys_values = np.empty((num_older, 2 * width), np.float32)
    _conditional_norm(x, np.concatenate((gain, bias)).reshape(1, 2 * width), normed)
    _linear(query_weight, query_bias, normed, queries)
    _linear(kv_weight, kv_bias, older, keys_values)
    scale = np.float32(1 / math.sqrt(size))
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        _attend(
            queries[:, part] * scale,
            keys_values[:, part].copy(),
            keys_values[:, width + h * size : width + (h + 1) * size].copy(),
            present,
            h * size,
            attended,
        )
    _linear(output_weight, output_bias, attended, queries)
    _add(queries, x)


@_compiled
def _surprise(logits, code):
    """Nats of a code."""
    highest = logits.max()
    return math.log(np.exp(logits - highest).sum()) + highest - logits[code]


@_compiled
def _attend_to_earlier(qkv, keys, values, i, heads, y):
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
def _sample_frames(
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
    is_guided,
    guidance,
    temperature,
    top_k,
    top_p,
):
    """Codes (F, n), and their mean negative log-likelihood, nats a token.

    Contexts are (n, F, D), or (n, 2 F, D): guidance moves away from the second half.
    Gains and biases are (2 layers + 1, rows, 2 D).
    """
    num_tokens, num_rows, width = context.shape
    num_layers, num_codes = qkv_weight.shape[0], logit_weight.shape[0]
    num_frames = num_rows // 2 if is_guided else num_rows
    # Allocated one by one: numba takes parts of one array as strided, ten times as slow.
    keys = np.empty((num_layers, num_rows, num_tokens, width), np.float32)
    values = np.empty_like(keys)
    x = np.empty((num_rows, width), np.float32)
    normed, attended, branch = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    qkv = np.empty((num_rows, 3 * width), np.float32)
    hidden = np.empty((num_rows, 4 * width), np.float32)
    logits = np.empty((num_rows, num_codes), np.float32)
    codes = np.empty((num_frames, num_tokens), np.int64)
    nats = np.zeros(num_frames)
    previous = np.full(num_rows, num_codes, np.int64)
    for i in range(num_tokens):
        for r in range(num_rows):
            x[r] = context[i, r] + previous_code[previous[r]]
        for layer in range(num_layers):
            _conditional_norm(x, gains_and_biases[2 * layer], normed)
            _linear(qkv_weight[layer], qkv_bias[layer], normed, qkv)
            for r in range(num_rows):
                _attend_to_earlier(qkv[r], keys[layer, r], values[layer, r], i, heads, attended[r])
            _linear(attention_weight[layer], attention_bias[layer], attended, branch)
            _add(branch, x)
            _conditional_norm(x, gains_and_biases[2 * layer + 1], normed)
            _linear(expand_weight[layer], expand_bias[layer], normed, hidden)
            _squared_relu(hidden)
            _linear(contract_weight[layer], contract_bias[layer], hidden, branch)
            _add(branch, x)
        _conditional_norm(x, gains_and_biases[2 * num_layers], normed)
        _linear(logit_weight, logit_bias, normed, logits)
        for f in range(num_frames):
            guided = logits[f]
            if is_guided:
                guided = guided + np.float32(guidance) * (guided - logits[num_frames + f])
            code = _sample_code(guided, uniforms[f, i], temperature, top_k, top_p)
            codes[f, i] = previous[f] = code
            if is_guided:
                previous[num_frames + f] = code
            nats[f] += _surprise(logits[f], code)
    return codes, nats / num_tokens


def is_compiled() -> bool:
    """Whether all is compiled: in this process, or by an earlier one in the cache."""
    return all(map(_is_compiled, (_sample_frames, _run_block, _run_recall, _normalise)))


def _is_compiled(function: Any) -> bool:
    if function.signatures:
        return True
    # Empty where the cache is of another version of the source; numba has no public function.
    return is_kept() and bool(function._cache._cache_file._load_index())


def is_kept() -> bool:
    """Whether there is a writable folder for numba's cache."""
    return _sample_frames.stats.cache_path is not None


def compile_all() -> None:
    """Compile what isn't compiled; one result serves networks of every size."""

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def layer(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        return zeros(outputs, inputs), zeros(outputs)

    block = (*layer(2, 6), *layer(2, 2), *layer(2, 8), *layer(8, 2))
    stacked = [weights[None] for weights in block]
    head = (*stacked, zeros(3, 2), *layer(2, 2))
    _sample_frames(zeros(1, 1, 2), zeros(3, 1, 4), *head, 1, zeros(1, 1), False, 0.0, 1.0, 1, 1.0)
    x, action, affine, seen = zeros(1, 2), zeros(1, 1), layer(1, 4), np.ones(1, np.bool_)
    _normalise(x, action, *affine, zeros(1, 2))
    block = (*affine, *block[:4], *affine, *block[4:])
    _run_block(x, action, *block, zeros(2, 1, 1, 1, 2), 0, seen, zeros(1, 1), zeros(1, 1))
    gain_and_bias = zeros(2), zeros(2)
    _run_recall(x, x, seen, *gain_and_bias, *layer(2, 2), *layer(2, 4), *layer(2, 2), 1)
