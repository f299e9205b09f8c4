"""Which action led from one frame to the next: a small network that reads it off two frames.

It judges whether dreams obey. Trained on real frames and on the same frames as the tokenizer
gives them back, so that what it measures is the action and not the blur.
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
from worldmodel.prior.action_vectors import encode_actions
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
        spec: the action space; each index of it is guessed by itself.
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
            layers += [
                nn.Conv2d(channels_in, channels_out, 3, stride, padding=1),
                nn.ReLU(),
            ]
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
    def guess(self, films: UInt8[np.ndarray, "B T H W C"]) -> np.ndarray:
        """The likeliest actions between the frames of B films.

        Returns:
            (B, T-1, factors): an index for each factor of the action, or the real numbers of
            a box scaled to [-1, 1].
        """
        device = next(self.parameters()).device
        before = torch.from_numpy(films[:, :-1]).flatten(0, 1)
        after = torch.from_numpy(films[:, 1:]).flatten(0, 1)
        guesses = []
        pairs = zip(before.split(JUDGED_AT_ONCE), after.split(JUDGED_AT_ONCE), strict=True)
        for first, second in pairs:
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
        guesses = self.guess(films)
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
    seed: int = 0,
) -> None:
    """Train on pairs of consecutive frames, from all of `films` alike.

    Args:
        films: several versions of the same B films, real and reconstructed for example.
        actions: (B, T-1, *shape), in all versions the same.
        steps: of the optimiser; what is bounded is work, not time.
    """
    device = next(network.parameters()).device
    rng = randomness.generator(seed, "inverse dynamics batches")
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    num_films, num_pairs = actions.shape[:2]
    network.train()
    for _ in track(range(steps), "inverse dynamics"):
        version = rng.integers(len(films), size=BATCH_SIZE)
        film, t = rng.integers(num_films, size=BATCH_SIZE), rng.integers(num_pairs, size=BATCH_SIZE)
        before, after = (
            torch.from_numpy(
                np.stack([films[v][i, j] for v, i, j in zip(version, film, t + k, strict=True)])
            ).to(device)
            for k in (0, 1)
        )
        loss = network.loss(network(before, after), torch.from_numpy(actions[film, t]).to(device))
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
    """The network for a model's world, trained on the train split, or read from `cache`.

    The cache is used as long as the tokenizer, the data and the recipe are the same.

    Args:
        steps: of the optimiser.
        player: whose episodes alone it learns from, as `ClipSampler` takes it.

    Raises:
        UserError: no training episode is long enough.
    """
    device = next(model.parameters()).device
    key = _key(model, reader, steps, player)
    randomness.seed_torch(0, "inverse dynamics weights")
    network = InverseDynamics(model.config.actions, model.config.tokenizer.frame_shape).to(device)
    try:
        with safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                names = network.state_dict()
                network.load_state_dict({name: file.get_tensor(name) for name in names})
                return network.eval()
    except (OSError, SafetensorError, RuntimeError):
        pass  # not made yet, or damaged: made now
    sampler = ClipSampler(reader, "train", CLIP_FRAMES, memory_limit_bytes=0, player=player)
    count = min(MAX_CLIPS, sampler.num_windows)
    clips = sampler.read(sampler.draw(randomness.generator(0, "inverse dynamics clips"), count))
    reconstructed = [
        model.draw(model.encode(part.to(device))).cpu().numpy()
        for part in track(
            torch.from_numpy(clips.frames).split(8),
            "inverse dynamics: reconstructing frames",
        )
    ]
    films = [clips.frames, np.concatenate(reconstructed)]
    train_inverse_dynamics(network, films, clips.action, steps=steps)
    cache.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, cache, metadata={"key": key})
    return network


def _key(model: WorldModel, reader: EpisodeReader, steps: int, player: bytes | None) -> str:
    recipe = [WIDTHS, CLIP_FRAMES, MAX_CLIPS, steps, BATCH_SIZE, LEARNING_RATE]
    taught = [] if player is None else [player.decode(errors="replace")]
    decoders = [digest_of(part) for part in (model.tokenizer, model.sharp) if part is not None]
    return json.dumps([decoders, reader.digest(), recipe + taught])
