"""A small network that reads off two frames which action led from one to the other.

It judges whether dreams follow their actions. It is trained on real frames and on the tokenizer's
reconstructions of them, so that it measures the action and not the blur.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel import randomness
from worldmodel.command import track
from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.interface.actions import ActionSpec
from worldmodel.media.frames import to_float
from worldmodel.prior.layers import encode_actions
from worldmodel.vqvae.vqvae import digest_of

WIDTHS = (32, 64, 128, 128)  # channels after each halving
SMALLEST_SIDE = 4  # pixels: no halving beyond
CLIP_FRAMES = 9  # read and reconstructed together: 8 pairs
MAX_CLIPS = 2000
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
JUDGED_AT_ONCE = 256  # pairs


class InverseDynamics(nn.Module):
    """Two frames in, the action between them out.

    Args:
        spec: the action space; each of its factors is guessed separately.
        frame_shape: (H, W, C).
    """

    def __init__(self, spec: ActionSpec, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.spec = spec
        height, width, channels = frame_shape
        layers: list[nn.Module] = []
        channels_in = 2 * channels
        for channels_out in WIDTHS:
            stride = 2 if min(height, width) >= 2 * SMALLEST_SIDE else 1
            layers += [nn.Conv2d(channels_in, channels_out, 3, stride, padding=1), nn.ReLU()]
            channels_in = channels_out
            height, width = math.ceil(height / stride), math.ceil(width / stride)
        self.layers = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(channels_in * height * width, 256),
            nn.ReLU(),
            nn.Linear(256, spec.vector_size),
        )
        # Faster convolutions on a CPU; torch's overloads leave this one out.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, before: UInt8[Tensor, "B H W C"], after: UInt8[Tensor, "B H W C"]
    ) -> Float[Tensor, "B A"]:
        """Logits of the indices side by side, or for a box the action scaled to [-1, 1]."""
        pairs = torch.cat([to_float(before), to_float(after)], 1)
        return self.layers(pairs.contiguous(memory_format=torch.channels_last))

    def loss(
        self, guesses: Float[Tensor, "B A"], actions: Shaped[Tensor, "B ..."]
    ) -> Float[Tensor, ""]:
        """Cross-entropy summed over the indices, or the squared error of a box."""
        if self.spec.kind == "box":
            return F.mse_loss(guesses, encode_actions(self.spec, actions))
        truths = actions.reshape(len(actions), -1).T
        parts = guesses.split(self.spec.sizes, 1)
        return torch.stack(
            [F.cross_entropy(part, truth) for part, truth in zip(parts, truths, strict=True)]
        ).sum()

    @torch.no_grad()
    def _guess(self, films: UInt8[np.ndarray, "B T H W C"]) -> np.ndarray:
        """The likeliest actions between frames, (B, T-1, factors); of a box in [-1, 1]."""
        device = next(self.parameters()).device
        before, after = (
            torch.from_numpy(films[:, part]).flatten(0, 1).split(JUDGED_AT_ONCE)
            for part in (slice(None, -1), slice(1, None))
        )
        guesses = []
        for first, second in zip(before, after, strict=True):
            out = self(first.to(device), second.to(device)).cpu()
            if self.spec.kind != "box":
                out = torch.stack([p.argmax(1) for p in out.split(self.spec.sizes, 1)], 1)
            guesses.append(out)
        return torch.cat(guesses).unflatten(0, (len(films), -1)).numpy()

    def agreement(self, films: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """How well the actions (B, T-1, *shape) can be read off films uint8 (B, T, H, W, C).

        Returns:
            float64 (B, T-1, factors), whose mean is the accuracy; for a box it is the share
            of variance explained, R^2.
        """
        guesses = self._guess(films)
        if self.spec.kind == "box":
            truth = encode_actions(self.spec, torch.from_numpy(actions)).numpy()
            variance = truth.var((0, 1)).clip(1e-12)
            return 1 - np.square(guesses - truth, dtype=np.float64) / variance
        return (guesses == actions.reshape(guesses.shape)).astype(np.float64)


def train_inverse_dynamics(
    network: InverseDynamics,
    films: list[UInt8[np.ndarray, "B T H W C"]],
    actions: np.ndarray,
    *,
    steps: int,
) -> None:
    """Train on pairs of consecutive frames.

    Args:
        films: several versions of the same B films, real and reconstructed for example.
        actions: (B, T-1, *shape), of all versions.
        steps: of the optimiser.
    """
    device = next(network.parameters()).device
    rng = randomness.generator(0, "inverse dynamics batches")
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    num_films, num_pairs = actions.shape[:2]
    network.train()
    for _ in track(range(steps), "inverse dynamics"):
        version, film, t = (
            rng.integers(most, size=BATCH_SIZE) for most in (len(films), num_films, num_pairs)
        )
        before, after = (
            np.stack([films[v][i, j] for v, i, j in zip(version, film, t + k, strict=True)])
            for k in (0, 1)
        )
        guesses = network(*(torch.from_numpy(part).to(device) for part in (before, after)))
        loss = network.loss(guesses, torch.from_numpy(actions[film, t]).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def inverse_dynamics_of(
    model: WorldModel,
    reader: EpisodeReader,
    cache: Path,
    *,
    steps: int,
    player: bytes | None = None,
) -> InverseDynamics:
    """The network for a model's world, trained on the train split, or read from the file `cache` if
    the tokenizer, the data and the recipe are the same.

    Args:
        steps: of the optimiser.
        player: train on this policy's episodes only.

    Raises:
        UserError: no training episode is long enough.
    """
    device = next(model.parameters()).device
    decoders = [digest_of(part) for part in (model.tokenizer, model.sharp) if part is not None]
    recipe = [WIDTHS, CLIP_FRAMES, MAX_CLIPS, steps, BATCH_SIZE, LEARNING_RATE]
    recipe += [] if player is None else [player.decode(errors="replace")]
    key = json.dumps([decoders, reader.digest(), recipe])
    randomness.seed_torch(0, "inverse dynamics weights")
    network = InverseDynamics(model.config.actions, model.config.tokenizer.frame_shape).to(device)
    try:
        with safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                names = network.state_dict()
                network.load_state_dict({name: file.get_tensor(name) for name in names})
                return network.eval()
    except (OSError, SafetensorError, RuntimeError):
        pass  # missing or damaged: trained now
    sampler = ClipSampler(reader, "train", CLIP_FRAMES, memory_limit_bytes=0, player=player)
    count = min(MAX_CLIPS, sampler.num_windows)
    clips = sampler.read(sampler.draw(randomness.generator(0, "inverse dynamics clips"), count))
    parts = torch.from_numpy(clips.frames).split(8)
    reconstructed = [
        model.draw(model.encode(part.to(device))).cpu().numpy()
        for part in track(parts, "inverse dynamics: reconstructing frames")
    ]
    films = [clips.frames, np.concatenate(reconstructed)]
    train_inverse_dynamics(network, films, clips.action, steps=steps)
    cache.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, cache, metadata={"key": key})
    return network
