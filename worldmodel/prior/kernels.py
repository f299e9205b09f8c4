"""The prior's networks for numba to compile, on float32 arrays in C order.

Weights of the large layers may be int8, with a scale for each row; of others the scales are ones.

All is in one file, because numba notices only changes of the file that a cached function is in.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

# Sums in any order, so that they can be vectorised; but NaN stays NaN.
FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}
NOT_SEEN = np.float32(-1e30)


def compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled by numba for one thread and cached in a file."""
    options: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder is writable: compiled in every process
        return njit(**options)(function)


@compiled
def linear(weight, scale, bias, x, y):
    """y (m, n) = x (m, k) times weight (n, k) transposed, times scale (n,), plus bias (n,)."""
    num_rows, num_outputs, width = x.shape[0], weight.shape[0], weight.shape[1]
    fours, pairs = num_rows - num_rows % 4, num_outputs - num_outputs % 2
    for i in range(0, pairs, 2):  # eight sums at a time fit into registers
        w0, w1 = weight[i], weight[i + 1]
        for m in range(0, fours, 4):
            x0, x1, x2, x3 = x[m], x[m + 1], x[m + 2], x[m + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
            for j in range(width):
                u, v = np.float32(w0[j]), np.float32(w1[j])
                a0 += x0[j] * u
                a1 += x1[j] * u
                a2 += x2[j] * u
                a3 += x3[j] * u
                b0 += x0[j] * v
                b1 += x1[j] * v
                b2 += x2[j] * v
                b3 += x3[j] * v
            for r, a, b in ((0, a0, b0), (1, a1, b1), (2, a2, b2), (3, a3, b3)):
                y[m + r, i] = a * scale[i] + bias[i]
                y[m + r, i + 1] = b * scale[i + 1] + bias[i + 1]
    for m in range(fours, num_rows):
        x0 = x[m]
        for i in range(0, num_outputs - num_outputs % 4, 4):
            w0, w1, w2, w3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
            a0 = a1 = a2 = a3 = np.float32(0)
            for j in range(width):
                a0 += x0[j] * np.float32(w0[j])
                a1 += x0[j] * np.float32(w1[j])
                a2 += x0[j] * np.float32(w2[j])
                a3 += x0[j] * np.float32(w3[j])
            for r, a in ((0, a0), (1, a1), (2, a2), (3, a3)):
                y[m, i + r] = a * scale[i + r] + bias[i + r]
    for m in range(num_rows):
        for i in range(pairs if m < fours else num_outputs - num_outputs % 4, num_outputs):
            total, x0, w0 = np.float32(0), x[m], weight[i]
            for j in range(width):
                total += x0[j] * np.float32(w0[j])
            y[m, i] = total * scale[i] + bias[i]


@compiled
def conditional_norm(x, gains_and_biases, y):
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


@compiled
def add(branch, x):
    for m in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[m, j] += branch[m, j]


@compiled
def squared_relu(x):
    for m in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[m, j] = max(x[m, j], np.float32(0)) ** 2


@compiled
def attend(queries, keys, values, seen, begin, y):
    """Attention of one head, written to the columns of y (m, D) from `begin` on.

    Queries (m, hs) are scaled; keys and values (n, hs); `seen` (n,) are the keys that count.
    """
    num_queries, size = queries.shape
    num_keys = keys.shape[0]
    scores = np.empty((num_queries, num_keys), np.float32)
    ones, zeros = np.ones(num_keys, np.float32), np.zeros(num_keys, np.float32)
    linear(keys, ones, zeros, queries, scores)
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


@compiled
def normalise(x, action, weight, bias, y):
    gain_and_bias = np.empty((1, weight.shape[0]), np.float32)
    linear(weight, np.ones(weight.shape[0], np.float32), bias, action, gain_and_bias)
    conditional_norm(x, gain_and_bias, y)


@compiled
def run_block(
    x,
    action,
    norm1_weight,
    norm1_bias,
    qkv_weight,
    qkv_scale,
    qkv_bias,
    attention_weight,
    attention_scale,
    attention_bias,
    norm2_weight,
    norm2_bias,
    expand_weight,
    expand_scale,
    expand_bias,
    contract_weight,
    contract_scale,
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
    normalise(x, action, norm1_weight, norm1_bias, normed)
    linear(qkv_weight, qkv_scale, qkv_bias, normed, qkv)
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
        attend(queries, keys, values, seen, h * size, attended)
    linear(attention_weight, attention_scale, attention_bias, attended, branch)
    add(branch, x)
    normalise(x, action, norm2_weight, norm2_bias, normed)
    linear(expand_weight, expand_scale, expand_bias, normed, hidden)
    squared_relu(hidden)
    linear(contract_weight, contract_scale, contract_bias, hidden, branch)
    add(branch, x)


@compiled
def surprise(logits, code):
    """Nats of a code."""
    highest = logits.max()
    return math.log(np.exp(logits - highest).sum()) + highest - logits[code]


@compiled
def attend_to_earlier(qkv, keys, values, i, heads, y):
    """Attention of token i to the tokens up to itself; keys and values (n, D)."""
    width = y.shape[0]
    size = width // heads
    keys[i] = qkv[width : 2 * width]
    values[i] = qkv[2 * width :]
    scores = np.empty(i + 1, np.float32)
    for h in range(heads):
        begin = h * size
        highest = NOT_SEEN
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


@compiled
def sample_code(logits, uniform, temperature, top_k, top_p):
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


@compiled
def sample_frames(
    context,
    gains_and_biases,
    qkv_weight,
    qkv_scale,
    qkv_bias,
    attention_weight,
    attention_scale,
    attention_bias,
    expand_weight,
    expand_scale,
    expand_bias,
    contract_weight,
    contract_scale,
    contract_bias,
    previous_code,
    logit_weight,
    logit_scale,
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

    Contexts are (n, F, D), or (n, 2 F, D): guidance moves away from every second one.
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
            conditional_norm(x, gains_and_biases[2 * layer], normed)
            linear(qkv_weight[layer], qkv_scale[layer], qkv_bias[layer], normed, qkv)
            for r in range(num_rows):
                attend_to_earlier(qkv[r], keys[layer, r], values[layer, r], i, heads, attended[r])
            linear(
                attention_weight[layer],
                attention_scale[layer],
                attention_bias[layer],
                attended,
                branch,
            )
            add(branch, x)
            conditional_norm(x, gains_and_biases[2 * layer + 1], normed)
            linear(expand_weight[layer], expand_scale[layer], expand_bias[layer], normed, hidden)
            squared_relu(hidden)
            linear(
                contract_weight[layer], contract_scale[layer], contract_bias[layer], hidden, branch
            )
            add(branch, x)
        conditional_norm(x, gains_and_biases[2 * num_layers], normed)
        linear(logit_weight, logit_scale, logit_bias, normed, logits)
        for f in range(num_frames):
            row = 2 * f if is_guided else f
            guided = logits[row]
            if is_guided:
                guided = guided + np.float32(guidance) * (guided - logits[row + 1])
            code = sample_code(guided, uniforms[f, i], temperature, top_k, top_p)
            codes[f, i] = previous[row] = code
            if is_guided:
                previous[row + 1] = code
            nats[f] += surprise(logits[row], code)
    return codes, nats / num_tokens
