"""Codebooks learned by moving averages (VideoGPT Sec. 2.1, 4.1; Jukebox's random restarts)."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel import randomness

DECAY = 0.99
# Vectors a batch, as a moving average, below which a code restarts; in small batches, a fraction of
# what each code would get if all got the same.
RESTART_BELOW, RESTART_BELOW_SHARE = 1.0, 1 / 16
LARGEST_CHUNK = 2**20  # distances at a time: 4 MiB fit in a cache; 32 clips have 2**30


class Codebook(nn.Module):
    """K code vectors; each input is replaced by the nearest of them.

    In training mode `forward` also moves each code towards the mean of the vectors it
    replaced. The codes start as vectors of the first batch, and a code that replaces fewer
    than one vector a batch (or a sixteenth of its share, if that is less) restarts at a random
    vector of that batch. All state is in buffers, so a resumed run continues exactly. Under
    torch.distributed every process computes the same codes, as if it had seen the full batch. With
    `num_parts` passes per batch the codes move after the last of them, by the vectors of all; only
    their initial values come from the first pass.
    """

    def __init__(self, num_codes: int, code_dim: int) -> None:
        super().__init__()
        self.vectors: Tensor
        self.count: Tensor
        self.total: Tensor
        self.num_updates: Tensor
        self.register_buffer("vectors", torch.zeros(num_codes, code_dim))
        self.register_buffer("count", torch.zeros(num_codes))  # EMA of vectors replaced a batch
        self.register_buffer("total", torch.zeros(num_codes, code_dim))  # EMA of their sum
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))  # 0: no codes yet
        self.num_parts = 1  # passes per batch; training may set it
        self._seen: list[tuple[Tensor, Tensor]] = []  # vectors and codes of this batch's passes

    def forward(
        self, x: Float[Tensor, "n D"]
    ) -> tuple[Float[Tensor, "n D"], Int[Tensor, " n"], Float[Tensor, ""]]:
        """Quantise.

        Returns:
            The nearest codes, with gradients passed straight through; their indices; and the
            commitment loss, the mean squared distance of x to its (fixed) code.
        """
        x = x.float()  # under autocast too: a moving average in bf16 would not move
        if self.training and self.num_updates == 0 and not self._seen:
            self._restart(x.detach(), torch.ones_like(self.count, dtype=torch.bool))
        codes = self.nearest(x.detach())
        quantised = F.embedding(codes, self.vectors)
        commitment_loss = F.mse_loss(x, quantised)
        if self.training:
            self._seen.append((x.detach(), codes))
            if len(self._seen) == self.num_parts:
                self._update(*map(torch.cat, zip(*self._seen, strict=True)))
                self._seen.clear()
        return x + (quantised - x).detach(), codes, commitment_loss

    def nearest(self, x: Float[Tensor, "n D"]) -> Int[Tensor, " n"]:
        """Index of the code nearest to each vector."""
        # |x - v|^2 without |x|^2, which doesn't change the minimum. Never in bf16, which is too
        # coarse to distinguish near codes.
        with torch.autocast(x.device.type, enabled=False):
            squares = self.vectors.square().sum(1)
            chunks = x.float().split(max(1, LARGEST_CHUNK // len(squares)))
            return torch.cat([(squares - 2 * c @ self.vectors.T).argmin(1) for c in chunks])

    @torch.no_grad()
    def _update(self, x: Tensor, codes: Tensor) -> None:
        count = torch.bincount(codes, minlength=len(self.count)).to(x.dtype)
        total = torch.zeros_like(self.total).index_add_(0, codes, x)
        if dist.is_initialized():
            dist.all_reduce(count)
            dist.all_reduce(total)
        self.count.lerp_(count, 1 - DECAY)
        self.total.lerp_(total, 1 - DECAY)
        self.vectors.copy_(self.total / self.count.clamp_min(1e-5).unsqueeze(1))
        unused = self.count < (RESTART_BELOW_SHARE * count.mean()).clamp(max=RESTART_BELOW)
        if unused.any():
            self._restart(x, unused)
        self.num_updates += 1

    @torch.no_grad()
    def _restart(self, x: Tensor, which: Tensor) -> None:
        """Reset the codes `which`, and their moving averages, to random vectors of x."""
        if dist.is_initialized():
            parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, x.contiguous())
            x = torch.cat(parts)
        # Seeded by the number of updates, which is saved anyway; on the CPU, so that every device
        # makes the same choice.
        generator = randomness.torch_generator(0, "code restarts", int(self.num_updates))
        num_wanted = int(which.sum())
        picks = torch.randperm(len(x), generator=generator)[:num_wanted]
        picks = picks.repeat(-(-num_wanted // len(picks)))[:num_wanted]  # a batch may be small
        self.vectors[which] = x[picks.to(x.device)]
        self.count[which] = RESTART_BELOW
        self.total[which] = self.vectors[which] * RESTART_BELOW


class Codebooks(nn.ModuleList):
    """q codebooks, each for its own slice of the channels (VideoGPT Table 7 and its text)."""

    def forward(
        self, latents: Float[Tensor, "B D *grid"]
    ) -> tuple[Float[Tensor, "B D *grid"], Int[Tensor, "B *grid q"], Float[Tensor, ""]]:
        """Quantise a grid; in training mode the codes move, see `Codebook`.

        Returns:
            The nearest codes' vectors, the codes, and the mean commitment loss.
        """
        shape = latents.movedim(1, -1).shape[:-1]
        quantised, codes, losses = [], [], []
        for book, vectors in self._slices(latents):
            nearest, indices, loss = book(vectors)
            quantised.append(nearest.unflatten(0, shape))
            codes.append(indices.unflatten(0, shape))
            losses.append(loss)
        commitment_loss = torch.stack(losses).mean()
        return torch.cat(quantised, -1).movedim(-1, 1), torch.stack(codes, -1), commitment_loss

    def nearest(self, latents: Float[Tensor, "B D *grid"]) -> Int[Tensor, "B *grid q"]:
        """The nearest codes of a grid of latents."""
        codes = [book.nearest(vectors) for book, vectors in self._slices(latents)]
        return torch.stack(codes, -1).unflatten(0, latents.movedim(1, -1).shape[:-1])

    def look_up(self, codes: Int[Tensor, "B *grid q"]) -> Float[Tensor, "B D *grid"]:
        """The vectors of codes."""
        vectors = [
            F.embedding(indices, book.vectors)
            for book, indices in zip(self._books(), codes.unbind(-1), strict=True)
        ]
        return torch.cat(vectors, -1).movedim(-1, 1)

    def start_anew(self) -> None:
        """Let the codes start as vectors of the next batch in training."""
        for book in self._books():
            book.num_updates.zero_()

    def vectors(self) -> Float[Tensor, "q K E"]:
        """A copy of every codebook's codes."""
        return torch.stack([book.vectors for book in self._books()])

    def _slices(self, latents: Tensor) -> Iterator[tuple[Codebook, Tensor]]:
        flat = latents.movedim(1, -1).flatten(0, -2)
        return zip(self._books(), flat.chunk(len(self), -1), strict=True)

    def _books(self) -> list[Codebook]:
        return list(self)  # type: ignore[arg-type]
