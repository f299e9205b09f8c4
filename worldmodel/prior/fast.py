"""The prior's networks compiled for a CPU: the backbone for one dream, the head for any number.

At the sizes of a dream PyTorch spends more time between its operations than in them, and its
products of 16 rows reach a third of a core's speed; these reach two thirds and more
(`python -m benchmarks.dream_step`). Tests compare them with the modules.

`compile_all` compiles them once after an install; numba caches the result beside the kernels' file
or, where that is read-only, in the user's cache folder.

Tensors are float32 on the CPU, without gradients; those that are overwritten are contiguous.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldmodel.command import say
from worldmodel.interface.sampling import Sampling
from worldmodel.prior import kernels
from worldmodel.prior.head import TokenHead, Undirected
from worldmodel.prior.layers import Block, ConditionalNorm
from worldmodel.prior.recall import Recall

COMPILES_S = 12  # seconds to compile, about, on one core
ROWS_AT_A_TIME = 4  # of `kernels.linear`


def serves(x: Tensor) -> bool:
    """Whether a tensor is of the kind that this code computes."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and len(x) > 0


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
    layers = (
        block.norm1.gain_and_bias,
        block.queries_keys_values,
        block.attention_output,
        block.norm2.gain_and_bias,
        block.expand,
        block.contract,
    )
    kernels.run_block(
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
    """`Recall` of one dream; x is overwritten by the result."""
    kernels.run_recall(
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
    kernels.normalise(
        x[0].numpy(), actions.numpy(), *_arrays(norm.gain_and_bias), result[0].numpy()
    )
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
    weights = _weights(head, blocks)

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
    return all(
        map(
            _is_compiled,
            (kernels.sample_frames, kernels.run_block, kernels.run_recall, kernels.normalise),
        )
    )


def _is_compiled(function: Any) -> bool:
    if function.signatures:
        return True
    # Empty where the cache is of another version of the source; numba has no public function.
    return is_kept() and bool(function._cache._cache_file._load_index())


def is_kept() -> bool:
    """Whether there is a writable folder for numba's cache."""
    return kernels.sample_frames.stats.cache_path is not None


def compile_all() -> None:
    """Compile what isn't compiled; one result serves networks of every size."""

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def layer(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        return zeros(outputs, inputs), zeros(outputs)

    block = (*layer(2, 6), *layer(2, 2), *layer(2, 8), *layer(8, 2))
    stacked = [weights[None] for weights in block]
    head = (*stacked, zeros(3, 2), *layer(2, 2))
    kernels.sample_frames(
        zeros(1, 1, 2), zeros(3, 1, 4), *head, 1, zeros(1, 1), False, 0.0, 1.0, 1, 1.0
    )
    x, action, affine, seen = zeros(1, 2), zeros(1, 1), layer(1, 4), np.ones(1, np.bool_)
    kernels.normalise(x, action, *affine, zeros(1, 2))
    block = (*affine, *block[:4], *affine, *block[4:])
    kernels.run_block(x, action, *block, zeros(2, 1, 1, 1, 2), 0, seen, zeros(1, 1), zeros(1, 1))
    gain_and_bias = zeros(2), zeros(2)
    kernels.run_recall(x, x, seen, *gain_and_bias, *layer(2, 2), *layer(2, 4), *layer(2, 2), 1)
