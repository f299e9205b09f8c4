"""A stage that trains in a blink, for the tests of training in several processes.

    torchrun --nproc-per-node=2 tests/toy_training.py '[{"out": "/tmp/a", "accumulate": 2}]'

trains it once for each entry, one after the other: starting processes takes longer than that.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.configs.presets import StageRecipe
from worldmodel.training.run import make_fabric
from worldmodel.training.trainer import Stage, Timing, train_stage
from worldmodel.vqvae.codebook import Codebook

WIDTH = 7


@dataclass(frozen=True)
class Options:
    """What one training is like; it stops as if killed before step `killed_at`."""

    out: str
    precision: str = "fp32"
    accumulate: int = 1
    compiled: bool = False
    dropout: float = 0.0
    killed_at: int | None = None


class Killed(Exception):
    """Stands for the death of all processes."""


class Block(nn.Module):
    """A residual block."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.relu(self.linear(self.norm(x))))


class Net(nn.Module):
    """What DDP has to cope with: blocks, weights beside them, odd memory orders, no numbers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, WIDTH, 2).to(memory_format=torch.channels_last)  # type: ignore
        self.position = nn.Parameter(torch.randn(5, WIDTH))
        self.absent = nn.Parameter(torch.zeros(0, WIDTH))  # as where there are no game variables
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(3))
        self.out = nn.Linear(WIDTH, 1)
        self.codebook = Codebook(num_codes=6, code_dim=WIDTH)
        # It has codes already: they would start from the first part of a batch.
        self.codebook.vectors.normal_()
        self.codebook.num_updates += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)

    def answer(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(1)[:, None] + self.position
        x = x + self.codebook(x.flatten(0, 1))[0].unflatten(0, x.shape[:2])
        x = x + x.new_zeros(1, 1, 0) @ self.absent
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean(1))


class ToyStage(Stage):
    """Learns the largest of eight numbers."""

    name = "toy"

    def __init__(self, options: Options) -> None:
        torch.manual_seed(0)
        self.module = Net(options.dropout)
        self.recipe = StageRecipe(
            steps=12, batch_size=8, num_frames=1, learning_rate=1e-2, warmup=3
        )
        self.killed_at, self.num_calls = options.killed_at, 0

    def losses(self, module: nn.Module, rng: np.random.Generator, part: slice) -> dict[str, Tensor]:
        self.num_calls += 1
        if self.num_calls == self.killed_at:
            raise Killed
        x, y = draw(rng, self.recipe.batch_size)
        error = module(x[part]) - y[part]
        return {"loss": error.square().mean(), "bias": error.mean()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        x, y = draw(np.random.default_rng(0), 16)
        return {"mse": float((self.module.answer(x) - y).square().mean())}

    def preview(self, path: Path) -> None:
        path.write_text(str(self.module.out.bias.tolist()))


def draw(rng: np.random.Generator, num_clips: int) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(rng.standard_normal((num_clips, 2, 2, 2), np.float32))
    return x, x.flatten(1).amax(1, keepdim=True)


def run(options: Options) -> None:
    """Train as the options say; leave the weights of every process beside the state."""
    fabric = make_fabric(device="cpu", precision=options.precision)
    fabric.launch()
    stage, out = ToyStage(options), Path(options.out)
    try:
        train_stage(
            stage,
            fabric,
            out,
            Timing(save_minutes=0, validate_minutes=0),
            seed=0,
            compiled=options.compiled,
            accumulate=options.accumulate,
        )
    except Killed:
        fabric.barrier()  # the first process may still be saving what the next one reads
        return
    torch.save(stage.module.state_dict(), out / f"left-{fabric.global_rank}.pt")


if __name__ == "__main__":
    for entry in json.loads(sys.argv[1]):
        run(Options(**entry))
