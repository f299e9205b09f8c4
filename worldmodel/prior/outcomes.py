"""Rewards, ends and game variables: what a step brings besides a frame."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.layers import linear
from worldmodel.prior.sampling import draw_codes

COMMON_SHARE = 0.99  # of the data that the commonest values must cover to stand for all
RECENT_FEATURES = 3  # of a variable at a past step: its change, whether it rose, whether it fell
ARRIVAL_FEATURES = 4  # of a variable: its value, its change, whether it is at its lowest, highest
ORDER_FEATURES = ARRIVAL_FEATURES + 2  # and whether it rose, whether it fell
ARRIVAL_WIDTH = 64


class OutcomeLogits(NamedTuple):
    """Row 0 of `values` is the reward, row 1 + v the change of game variable v."""

    values: Float[Tensor, "*batch rows bins"]
    terminated: Float[Tensor, "*batch"]


def recent_changes(
    values: Float[Tensor, "*batch W V"], known: Bool[Tensor, "*batch W"]
) -> Float[Tensor, "*batch features"]:
    """How each variable went lately, step by step, and where it is now.

    Args:
        values: of the last W frames, standardised, the newest last.
        known: which of these frames there are.
    """
    told = (known[..., 1:] & known[..., :-1])[..., None]
    change = values.diff(dim=-2) * told
    steps = torch.cat([change, change > 0, change < 0, told], -1)
    return torch.cat([steps.flatten(-2), values[..., -1, :]], -1)


class OutcomeHead(nn.Module):
    """Predicts what a step brings from the state before it, the codes of the frame after it, and
    how the variables went lately: what drains every eight steps is due after eight.

    First come the changes of the variables, one after the other, each knowing those before it: a
    medikit more is health more. Then, knowing them all, the reward and the end: who has no health
    left is dead, and a kill more is a point more.

    Rewards and changes of variables are drawn from a few values seen in the data (all of
    them or the commonest if those are nearly all, else quantiles), so that a medikit is worth
    20 health and not the mean of 20 and nothing.
    """

    def __init__(self, width: int, num_variables: int, num_bins: int, window: int) -> None:
        super().__init__()
        self.num_rows, self.num_bins = 1 + num_variables, num_bins
        self.each_position = nn.Linear(width, width)
        self.whole_frame = nn.Linear(width, width)
        steps_back = (window - 1) * (RECENT_FEATURES * num_variables + 1)
        self.recent = linear(steps_back + num_variables, width)
        self.logits = nn.Linear(width, self.num_rows * num_bins + 1)
        self.arrival = linear(ARRIVAL_FEATURES * num_variables, ARRIVAL_WIDTH)
        self.consequences = nn.Linear(ARRIVAL_WIDTH, num_bins + 1)
        self.in_turn = linear(ORDER_FEATURES * num_variables, num_variables * num_bins)
        for last in (self.logits, self.consequences, self.in_turn):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.bins: Tensor
        self.num_used: Tensor
        self.register_buffer("bins", torch.zeros(self.num_rows, num_bins))
        self.register_buffer("num_used", torch.ones(self.num_rows, dtype=torch.int64))

    @torch.no_grad()
    def set_bins(self, rows: list[np.ndarray]) -> None:
        """Choose the values of each row from samples of the data.

        What was learned goes on: a new value takes over from the old one nearest to it.
        """
        new = torch.empty_like(self.bins)
        for row, samples in enumerate(rows):
            values, counts = np.unique(samples, return_counts=True)
            if len(values) > self.num_bins:
                commonest = np.argsort(-counts, kind="stable")[: self.num_bins]
                if counts[commonest].sum() > COMMON_SHARE * counts.sum():
                    values = np.sort(values[commonest])
                else:
                    shares = np.linspace(0, 1, self.num_bins)
                    values = np.unique(np.quantile(samples, shares, method="inverted_cdf"))
            self.num_used[row] = len(values)
            padded = np.pad(values, (0, self.num_bins - len(values)), mode="edge")
            new[row] = torch.from_numpy(padded.astype(np.float32))
        nearest = self.nearest_bins(new.T).T  # (rows, bins)
        self.bins.copy_(new)
        places = torch.arange(self.num_bins, device=new.device)
        nearest = torch.where(places < self.num_used[:, None], nearest, places)
        for layer, taken in (
            (self.logits, nearest),
            (self.consequences, nearest[:1]),
            (self.in_turn, nearest[1:]),
        ):
            for parameter in (layer.weight, layer.bias):
                of_bins = parameter[: taken.numel()].unflatten(0, taken.shape)  # then the end's
                of_bins.copy_(of_bins[torch.arange(len(taken))[:, None], taken])

    @torch.no_grad()
    def list_values_of(self, other: "OutcomeHead") -> None:
        """Foretell the values that `other` lists, in its order.

        What was learned goes on, as in `set_bins`. Where several of its values take over from one,
        that one's chance goes to the nearest of them; the others come beside that as often as
        `other` says.
        """
        values = [bins[:used].cpu() for bins, used in zip(other.bins, other.num_used, strict=True)]
        distances = [
            (of_row[:, None] - bins[:used].cpu()).abs()
            for of_row, bins, used in zip(values, self.bins, self.num_used, strict=True)
        ]
        self.set_bins([of_row.numpy() for of_row in values])
        for row, distance in enumerate(distances):
            nearest, sources = distance.min(1)
            for i, source in enumerate(sources.tolist()):
                heirs = torch.nonzero(sources == source).flatten()
                heir = heirs[nearest[heirs].argmin()]
                for mine, theirs in zip(self._of_row(row), other._of_row(row), strict=True):
                    mine[i] = mine[heir] + theirs[i] - theirs[heir]

    def _of_row(self, row: int) -> list[Tensor]:
        """Weights and biases of a row's values, a value along the first axis."""
        places = slice(row * self.num_bins, (row + 1) * self.num_bins)
        parts = [self.logits.weight[places], self.logits.bias[places]]
        if row == 0:
            count = self.num_bins  # then the end's
            parts += [self.consequences.weight[:count], self.consequences.bias[:count]]
        else:
            places = slice((row - 1) * self.num_bins, row * self.num_bins)
            parts += [self.in_turn.weight[places], self.in_turn.bias[places]]
        return parts

    @torch.no_grad()
    def standardise_anew(self, scale: Float[Tensor, " V"], shift: Float[Tensor, " V"]) -> None:
        """Say the same of variables that are standardised otherwise: what x was before is
        now (x - shift) / scale."""
        num_variables = len(scale)

        def take(layer: nn.Linear, places: slice, *, moved: bool) -> None:
            weight = layer.weight[:, places]
            if moved:
                layer.bias.add_(weight @ shift)
            weight.mul_(scale)

        newest = slice(self.recent.in_features - num_variables, None)
        take(self.recent, newest, moved=True)
        step = RECENT_FEATURES * num_variables + 1
        for first in range(0, newest.start, step):
            take(self.recent, slice(first, first + num_variables), moved=False)
        take(self.arrival, slice(num_variables), moved=True)
        take(self.arrival, slice(num_variables, 2 * num_variables), moved=False)
        in_turn = self.in_turn.weight.view(num_variables, self.num_bins, -1, num_variables)
        biases = self.in_turn.bias.view(num_variables, self.num_bins)
        for v in range(num_variables):  # a variable's change knows those before it
            biases[v].add_(in_turn[v, :, 0, :v] @ shift[:v])
        in_turn[:, :, :2].mul_(scale)

    def forward(
        self,
        features: Float[Tensor, "*batch P D"],
        recent: Float[Tensor, "*batch changes"],
    ) -> OutcomeLogits:
        """What is foretold.

        Args:
            features: of each position.
            recent: what `recent_changes` gives.
        """
        pooled = self.each_position(features).relu().square().mean(-2) + self.recent(recent)
        logits = self.logits(pooled + self.whole_frame(pooled).relu().square())
        values = logits[..., :-1].unflatten(-1, (self.num_rows, self.num_bins))
        unused = torch.arange(self.num_bins, device=logits.device) >= self.num_used[:, None]
        return OutcomeLogits(values.masked_fill(unused, -torch.inf), logits[..., -1])

    def once_arrived(
        self, foretold: OutcomeLogits, arrival: Float[Tensor, "*batch features V"]
    ) -> OutcomeLogits:
        """What comes once the variables have changed: of each variable, knowing those before it;
        the reward and the end, knowing all.

        Args:
            foretold: what `forward` gave.
            arrival: `ARRIVAL_FEATURES` of each variable.
        """
        values, terminated = self.in_order(foretold, arrival)
        told = self.consequences(self.arrival(arrival.flatten(-2)).relu())
        reward = values[..., :1, :] + told[..., None, :-1]
        return OutcomeLogits(
            torch.cat([reward, values[..., 1:, :]], -2), terminated + told[..., -1]
        )

    def in_order(
        self, foretold: OutcomeLogits, arrival: Float[Tensor, "*batch features V"]
    ) -> OutcomeLogits:
        """What was foretold, with each variable's change knowing those of the variables before it.

        Args:
            foretold, arrival: as of `once_arrived`.
        """
        num_variables, change = arrival.shape[-1], arrival[..., 1:2, :]  # second of its features
        features = torch.cat([arrival, change > 0, change < 0], -2)
        before = torch.ones(num_variables, num_variables, device=arrival.device).tril(-1)
        of_each = (features[..., None, :, :] * before[:, None]).flatten(-2)
        # What row v of the features says of variable v is all that counts.
        said = self.in_turn(of_each).unflatten(-1, (num_variables, self.num_bins))
        changes = foretold.values[..., 1:, :] + said.diagonal(dim1=-3, dim2=-2).mT
        values = torch.cat([foretold.values[..., :1, :], changes], -2)
        return OutcomeLogits(values, foretold.terminated)

    def nearest_bins(self, values: Float[Tensor, "*batch rows"]) -> Int[Tensor, "*batch rows"]:
        """Index of the value nearest to each of `values`; the first of equals."""
        return (values[..., None] - self.bins).abs().argmin(-1)

    def losses(
        self,
        logits: OutcomeLogits,
        values: Float[Tensor, "*batch rows"],
        terminated: Float[Tensor, "*batch"],
        weights: Float[Tensor, "*batch"],
        limits: tuple[Float[Tensor, "*batch rows"], Float[Tensor, "*batch rows"]],
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, ""]]:
        """Cross-entropy in nats a frame, of each row of values and of the end.

        Args:
            weights: how much each frame counts; their mean is about 1.
            limits: the lowest and highest that each value can be; those foretold beyond count
                as these, so that 8 health less may be said of who has 4 left.
        """
        lowest, highest = (limit[..., None] for limit in limits)
        brought = self.bins.clamp(lowest, highest)
        came = brought.gather(-1, (values[..., None] - brought).abs().argmin(-1, keepdim=True))
        alike = logits.values.log_softmax(-1).masked_fill(brought != came, -torch.inf)
        value_losses = -alike.logsumexp(-1)
        end_loss = F.binary_cross_entropy_with_logits(logits.terminated, terminated, weights)
        return (value_losses * weights[..., None]).flatten(0, -2).mean(0), end_loss

    def expected(self, logits: OutcomeLogits, row: int) -> Float[Tensor, "*batch"]:
        """Mean of a row's value."""
        return (logits.values[..., row, :].softmax(-1) * self.bins[row]).sum(-1)

    def draw(
        self, logits: OutcomeLogits, row: int, uniforms: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """One value of a row, by the inverse of its cumulative distribution."""
        return self.bins[row][draw_codes(logits.values[..., row, :], uniforms, Sampling())]
