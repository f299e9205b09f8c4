"""The prior's networks compiled for a CPU: the backbone for one dream, the head for any number.

At the sizes of a dream PyTorch spends more time between its operations than in them, and its
products of 16 rows reach a third of a core's speed; these reach two thirds and more
(`python -m benchmarks.dream_step`). Tests compare them with the modules.

`compile_all` compiles them once after an install; numba caches the result beside the kernels' file
or, where that is read-only, in the user's cache folder.

Tensors are float32 on the CPU, without gradients; those that are overwritten are contiguous. The
large matrices of a shipped checkpoint are read as the int8 that they are stored as: a quarter of
the bytes, and the same numbers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldmodel.command import say
from worldmodel.interface.sampling import Sampling
from worldmodel.prior import kernels
from worldmodel.prior.head import TokenHead, Undirected
from worldmodel.prior.layers import Block, ConditionalNorm
from worldmodel.storage.tensors import stored_int8_rows

COMPILES_S = 24  # seconds to compile, about, on one core
WEIGHTS = np.float32, np.int8  # types of the matrices' weights
ROWS_AT_A_TIME = 4  # of `kernels.linear`


def serves(x: Tensor) -> bool:
    """Whether a tensor is of the kind that this code computes."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and len(x) > 0


def serves_one(x: Float[Tensor, "*batch D"]) -> bool:
    """Whether a tensor holds one row, of one dream, to be computed by this code."""
    return (
        serves(x)
        and x.numel() == x.shape[-1]
        and not torch.is_grad_enabled()
        and not torch.compiler.is_exporting()
    )


def run_layers(layers: nn.Sequential, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch E"]:
    """Linear layers, and functions between them, on one row."""
    weights = iter(_weights(layers, *(i for i in layers if isinstance(i, nn.Linear))))
    y = x.reshape(1, -1)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            inputs, y = y, y.new_empty(1, layer.out_features)
            weight, scale, bias = next(weights), next(weights), next(weights)
            kernels.linear(weight, scale, bias, inputs.numpy(), y.numpy())
        else:
            y = layer(y)
    return y.view(*x.shape[:-1], -1)


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
    """`Block` on a dream's newest frame, in place.

    Args:
        x: overwritten by the result.
        actions: encoded; of the newest frame.
        ring: of the block's keys and values; those of the newest frame are written to its slot.
        slot: of the newest frame.
        filled: slots that hold a frame, the newest included.
        turns: cosines and sines of the newest frame, of `Rotary.turns`.
    """
    kernels.run_block(
        x[0].numpy(),
        actions.numpy(),
        *_weights(
            block,
            block.norm1,
            block.queries_keys_values,
            block.attention_output,
            block.norm2,
            block.expand,
            block.contract,
        ),
        ring.numpy(),
        slot,
        filled.numpy(),
        *(part.numpy() for part in turns),
    )


@torch.no_grad()
def normalised(
    norm: ConditionalNorm, x: Float[Tensor, "1 P D"], actions: Float[Tensor, "1 A"]
) -> Float[Tensor, "1 P D"]:
    """`ConditionalNorm` of one dream."""
    result = torch.empty_like(x)
    kernels.normalise(x[0].numpy(), actions.numpy(), *_weights(norm, norm), result[0].numpy())
    return result


Layer = nn.Linear | ConditionalNorm
# Of each network, the state of its weights when they were read, and what was read.
_read: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, int]], list[np.ndarray]]] = (
    WeakKeyDictionary()
)


def _weights(network: nn.Module, *layers: Layer) -> list[np.ndarray]:
    """A network's weights as a kernel takes them, read again where they have changed.

    Of a linear layer: weight, scales and bias; all weights are int8 or all float32. Of a norm:
    weight and bias.
    """
    tensors = [tensor for layer in layers for tensor in _weight_and_bias(layer)]
    state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    known = _read.get(network)
    if known is None or known[0] != state:
        known = _read[network] = state, _arrays(layers)
    return known[1]


def _weight_and_bias(layer: Layer) -> tuple[Tensor, Tensor]:
    if isinstance(layer, ConditionalNorm):
        layer = layer.gain_and_bias
    return layer.weight, layer.bias


def _arrays(layers: Sequence[Layer]) -> list[np.ndarray]:
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    rows = {layer: stored_int8_rows(layer.weight.detach()) for layer in linear}
    are_int8 = None not in rows.values()
    arrays = []
    for layer in layers:
        weight, bias = (tensor.detach().numpy() for tensor in _weight_and_bias(layer))
        if not isinstance(layer, nn.Linear):
            arrays += [weight, bias]
        elif are_int8:
            numbers, scale = cast(tuple[Tensor, Tensor], rows[layer])
            arrays += [numbers.numpy(), scale.flatten().numpy(), bias]
        else:
            arrays += [weight, np.ones(len(weight), np.float32), bias]
    return arrays


@torch.no_grad()
def sample(
    head: TokenHead,
    context: Float[Tensor, "F n D"],
    actions: Float[Tensor, "F A"],
    uniforms: Float[Tensor, "F n"],
    sampling: Sampling,
    undirected: Undirected | None = None,
) -> tuple[Int[Tensor, "F n"], Float[Tensor, " F"]]:
    """The same as `TokenHead.sample`. Frames are divided among torch's threads."""
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
    layers = [
        layer
        for b in blocks
        for layer in (b.queries_keys_values, b.attention_output, b.expand, b.contract)
    ]
    *of_blocks, logits, logit_scale, logit_bias = _weights(head, *layers, head.logits)
    # Of each kind an array for all blocks: a view where there is one block, as in all presets.
    kinds = [of_blocks[kind::12] for kind in range(12)]
    stacked = [arrays[0][None] if len(arrays) == 1 else np.stack(arrays) for arrays in kinds]
    previous_code = head.previous_code.weight.detach().numpy()
    weights = *stacked, previous_code, logits, logit_scale, logit_bias

    def sample_some(frames: np.ndarray) -> None:
        rows = frames
        if undirected is not None:  # side by side
            rows = np.stack([frames, frames + num_frames], 1).flatten()
        codes[frames], nats[frames] = kernels.sample_frames(
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

    # The kernel rounds rows alike that it computes together: so not by the number of threads.
    groups = np.array_split(np.arange(0, num_frames, ROWS_AT_A_TIME), torch.get_num_threads())
    parts = [
        np.arange(group[0], min(group[-1] + ROWS_AT_A_TIME, num_frames))
        for group in groups
        if len(group)
    ]
    if len(parts) == 1:
        sample_some(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as threads:
            list(threads.map(sample_some, parts))
    return torch.from_numpy(codes), torch.from_numpy(nats).to(context)


def compile_once(tell: Callable[[str], None] = say) -> None:
    """Compile what isn't compiled, if anything.

    Args:
        tell: called with a line for the user before compiling.
    """
    if is_compiled():
        return
    if is_kept():
        tell(f"compiling once, about {COMPILES_S} s")
    else:
        tell(
            f"compiling, about {COMPILES_S} s at every start, because there is no cache folder: "
            "set NUMBA_CACHE_DIR to one"
        )
    compile_all()


def is_compiled() -> bool:
    """Whether all is compiled: in this process, or by an earlier one in the cache."""
    functions = kernels.sample_frames, kernels.run_block
    return _is_compiled(kernels.normalise, 1) and all(
        _is_compiled(function, len(WEIGHTS)) for function in functions
    )


def _is_compiled(function: Any, num_variants: int) -> bool:
    if len(function.signatures) >= num_variants:
        return True
    # Empty where the cache is of another version of the source; numba has no public function.
    return is_kept() and len(function._cache._cache_file._load_index()) >= num_variants


def is_kept() -> bool:
    """Whether there is a writable folder for numba's cache."""
    return kernels.sample_frames.stats.cache_path is not None


def compile_all() -> None:
    """Compile what isn't compiled; one result serves networks of every size."""

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    x, action, seen = zeros(1, 2), zeros(1, 1), np.ones(1, np.bool_)
    norm = zeros(4, 1), zeros(4)
    kernels.normalise(x, action, *norm, zeros(1, 2))
    for weights in WEIGHTS:

        def layer(inputs: int, outputs: int, of: type = weights) -> tuple[np.ndarray, ...]:
            return np.zeros((outputs, inputs), of), zeros(outputs), zeros(outputs)

        attention, feedforward = (*layer(2, 6), *layer(2, 2)), (*layer(2, 8), *layer(8, 2))
        block = (*norm, *attention, *norm, *feedforward)
        ring, turns = zeros(2, 1, 1, 1, 2), (zeros(1, 1), zeros(1, 1))
        kernels.run_block(x, action, *block, ring, 0, seen, *turns)
        stacked = [array[None] for array in (*attention, *feedforward)]
        head = (*stacked, zeros(3, 2), *layer(2, 2))
        uniforms = zeros(1, 1)
        kernels.sample_frames(x[None], zeros(3, 1, 4), *head, 1, uniforms, False, 0.0, 1.0, 1, 1.0)
