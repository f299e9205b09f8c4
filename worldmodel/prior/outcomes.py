"""Outcomes of a step: its reward, its end, and how the game variables change."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.interface.sampling import Sampling
from worldmodel.prior.head import draw_codes
from worldmodel.prior.layers import linear

COMMON_FRACTION = 0.99  # of the data that the most common values must cover to stand for all
RECENT_FEATURES = 3  # of a variable at a past step: its change, whether it rose, whether it fell
ARRIVAL_FEATURES = 4  # of a variable: its value, its change, whether it is at its lowest, highest
ORDER_FEATURES = ARRIVAL_FEATURES + 2  # and whether it rose, whether it fell
ARRIVAL_WIDTH = 64


class OutcomeLogits(NamedTuple):
    """Row 0 of `values` is the reward, row 1 + v the change of game variable v."""

    values: Float[Tensor, "*batch rows bins"]
    terminated: Float[Tensor, "*batch"]


def _recent_changes(
    values: Float[Tensor, "*batch W V"], known: Bool[Tensor, "*batch W"]
) -> Float[Tensor, "*batch features"]:
    """Each variable's recent changes, step by step, and its newest value.

    Args:
        values: of the last W frames, standardised, the newest last.
        known: which of these frames exist.
    """
    both = (known[..., 1:] & known[..., :-1])[..., None]
    change = values.diff(dim=-2) * both
    steps = torch.cat([change, change > 0, change < 0, both], -1)
    return torch.cat([steps.flatten(-2), values[..., -1, :]], -1)


class OutcomeHead(nn.Module):
    """Predicts outcomes from the state before a step, the codes of the frame after it, and the
    recent history of the variables: what drains every eight steps is due eight steps after.

    The changes of the variables come first, one after the other, each given those before it: one
    more medikit means more health. Then come the reward and the end, given all changes: a player
    without health is dead, and one more kill is one more point.

    The reward and each change take one of a few values seen in the data (all of them, or the most
    common ones if those are nearly all, else quantiles), so that a medikit is worth 20 health and
    not the mean of 20 and 0.

    Args:
        width: D, of the states.
        num_variables: V.
        num_bins: largest number of values of the reward and of each change.
        window: frames of recent history.
    """

    def __init__(self, width: int, num_variables: int, num_bins: int, window: int) -> None:
        super().__init__()
        self.num_rows, self.num_bins, self.window = 1 + num_variables, num_bins, window
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
        # Inputs are standardised, outputs are clamped to the range of the data.
        self.variable_mean: Tensor
        self.variable_std: Tensor
        self.variable_low: Tensor
        self.variable_high: Tensor
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", 0.0), ("high", 0.0)):
            self.register_buffer(f"variable_{name}", torch.full((num_variables,), value))

    @torch.no_grad()
    def set_bins(self, rows: list[np.ndarray]) -> None:
        """Choose the values of each row from samples of the data.

        A new value inherits the weights of the nearest old one.
        """
        for row, samples in enumerate(rows):
            values = torch.from_numpy(_chosen_values(samples, self.num_bins).astype(np.float32))
            nearest = (values[:, None].to(self.bins) - self.bins[row]).abs().argmin(1)
            for part in self._of_row(row):
                part[: len(values)] = part[nearest]
            self.num_used[row] = len(values)
            self.bins[row] = values[-1]  # fills the unused ones
            self.bins[row, : len(values)] = values

    @torch.no_grad()
    def list_values_of(self, other: "OutcomeHead") -> None:
        """Predict the values that `other` predicts, in its order.

        Weights are inherited as in `set_bins`. Where several values inherit from one, the nearest
        gets its probability; the others are as likely relative to it as in `other`.
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
        """Views of the weights and biases of a row's values, with values along the first axis."""
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
    def restandardise(self, scale: Float[Tensor, " V"], shift: Float[Tensor, " V"]) -> None:
        """Adjust the weights to inputs standardised in another way, so that predictions stay the
        same: an old input x is now (x - shift) / scale."""
        num_variables = len(scale)

        def adjust(layer: nn.Linear, inputs: slice, *, shifted: bool) -> None:
            weight = layer.weight[:, inputs]
            if shifted:
                layer.bias.add_(weight @ shift)
            weight.mul_(scale)

        newest = slice(self.recent.in_features - num_variables, None)
        adjust(self.recent, newest, shifted=True)
        step = RECENT_FEATURES * num_variables + 1
        for first in range(0, newest.start, step):
            adjust(self.recent, slice(first, first + num_variables), shifted=False)
        adjust(self.arrival, slice(num_variables), shifted=True)
        adjust(self.arrival, slice(num_variables, 2 * num_variables), shifted=False)
        in_turn = self.in_turn.weight.view(num_variables, self.num_bins, -1, num_variables)
        biases = self.in_turn.bias.view(num_variables, self.num_bins)
        for v in range(num_variables):  # a variable's change depends on those before it
            biases[v].add_(in_turn[v, :, 0, :v] @ shift[:v])
        in_turn[:, :, :2].mul_(scale)

    def standardised(self, variables: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        return (variables - self.variable_mean) / self.variable_std

    def history(
        self, variables: Float[Tensor, "*batch W V"], known: Bool[Tensor, "*batch W"]
    ) -> Float[Tensor, "*batch changes"]:
        """The features of recent history that `forward` takes, from the last W = `window` frames.

        Args:
            variables: the newest last.
            known: which of these frames exist.
        """
        return _recent_changes(self.standardised(variables), known)

    def history_of_each(self, variables: Float[Tensor, "B T V"]) -> Float[Tensor, "B T changes"]:
        """`history` of each of T frames; none exists before frame 0."""
        window, time = self.window, torch.arange(variables.shape[1], device=variables.device)
        known = time[:, None] + torch.arange(window, device=time.device) >= window - 1
        padded = F.pad(self.standardised(variables), (0, 0, window - 1, 0))
        last = padded.unfold(1, window, 1).mT  # (B, T, window, V)
        return _recent_changes(last, known.expand(last.shape[:-1]))

    def forward(
        self,
        features: Float[Tensor, "*batch P D"],
        recent: Float[Tensor, "*batch changes"],
    ) -> OutcomeLogits:
        """Outcomes before any change of the variables is known.

        Args:
            features: of each position.
            recent: result of `history`.
        """
        pooled = self.each_position(features).relu().square().mean(-2) + self.recent(recent)
        logits = self.logits(pooled + self.whole_frame(pooled).relu().square())
        values = logits[..., :-1].unflatten(-1, (self.num_rows, self.num_bins))
        unused = torch.arange(self.num_bins, device=logits.device) >= self.num_used[:, None]
        return OutcomeLogits(values.masked_fill(unused, -torch.inf), logits[..., -1])

    def given_changes(
        self,
        predicted: OutcomeLogits,
        variables: Float[Tensor, "*batch V"],
        next_variables: Float[Tensor, "*batch V"],
    ) -> OutcomeLogits:
        """Outcomes given the changes of the variables: each change given those of the variables
        before it; the reward and the end given all.

        Args:
            predicted: result of `forward`.
        """
        arrival = self._arrival(variables, next_variables)
        values, terminated = self._in_order(predicted, arrival)
        added = self.consequences(self.arrival(arrival.flatten(-2)).relu())
        reward = values[..., :1, :] + added[..., None, :-1]
        return OutcomeLogits(
            torch.cat([reward, values[..., 1:, :]], -2), terminated + added[..., -1]
        )

    def _arrival(
        self, variables: Float[Tensor, "*batch V"], next_variables: Float[Tensor, "*batch V"]
    ) -> Float[Tensor, "*batch features V"]:
        """Each variable's new value and change, in `ARRIVAL_FEATURES` numbers."""
        features = [
            self.standardised(next_variables),
            (next_variables - variables) / self.variable_std,
            (next_variables <= self.variable_low).float(),
            (next_variables >= self.variable_high).float(),
        ]
        return torch.stack(features, -2)

    def _in_order(
        self, predicted: OutcomeLogits, arrival: Float[Tensor, "*batch features V"]
    ) -> OutcomeLogits:
        """`predicted`, with each variable's change given those of the variables before it."""
        num_variables, change = arrival.shape[-1], arrival[..., 1:2, :]  # second of its features
        features = torch.cat([arrival, change > 0, change < 0], -2)
        before = torch.ones(num_variables, num_variables, device=arrival.device).tril(-1)
        of_each = (features[..., None, :, :] * before[:, None]).flatten(-2)
        # Row v of the features yields logits for all variables; only those of variable v count.
        added = self.in_turn(of_each).unflatten(-1, (num_variables, self.num_bins))
        changes = predicted.values[..., 1:, :] + added.diagonal(dim1=-3, dim2=-2).mT
        values = torch.cat([predicted.values[..., :1, :], changes], -2)
        return OutcomeLogits(values, predicted.terminated)

    def draw_variables(
        self,
        predicted: OutcomeLogits,
        variables: Float[Tensor, "*batch V"],
        uniforms: Float[Tensor, "*batch V"],
        known: Float[Tensor, "*batch V"] | None = None,
    ) -> Float[Tensor, "*batch V"]:
        """The next variables, sampled one by one, within the range of the data.

        Args:
            predicted: result of `forward`.
            uniforms: one number in [0, 1) for each.
            known: values that are already known; NaN where they are not.
        """
        after = variables.clone()
        for v in range(variables.shape[-1]):
            # The change of v depends only on the variables before it.
            logits = self._in_order(predicted, self._arrival(variables, after))
            change = self.sample(logits, 1 + v, uniforms[..., v])
            after[..., v] = (variables[..., v] + change).clamp(
                self.variable_low[v], self.variable_high[v]
            )
            if known is not None:
                after[..., v] = torch.where(known[..., v].isnan(), after[..., v], known[..., v])
        return after

    def change_chances(
        self, logits: OutcomeLogits, variables: Float[Tensor, "*batch V"]
    ) -> tuple[Float[Tensor, "*batch V"], Float[Tensor, "*batch V"]]:
        """The probabilities that each variable rises, and that it falls, within the range of the
        data."""
        before = variables[..., None]
        low, high = self.variable_low[:, None], self.variable_high[:, None]
        after = (before + self.bins[1:]).clamp(low, high)
        chances = logits.values[..., 1:, :].softmax(-1)
        return (chances * (after > before)).sum(-1), (chances * (after < before)).sum(-1)

    def nearest_bins(self, values: Float[Tensor, "*batch rows"]) -> Int[Tensor, "*batch rows"]:
        """Index of the bin nearest to each of `values`; the first of equals."""
        return (values[..., None] - self.bins).abs().argmin(-1)

    def losses(
        self,
        logits: OutcomeLogits,
        reward: Float[Tensor, "*batch"],
        terminated: Float[Tensor, "*batch"],
        variables: Float[Tensor, "*batch V"],
        next_variables: Float[Tensor, "*batch V"],
        weights: Float[Tensor, "*batch"],
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, ""]]:
        """Cross-entropy in nats a frame, of the reward and each variable's change, and of the end.

        Predicted changes that lead out of the range of the data count as leading to its bound, so
        that 8 health less may be predicted for a player who has 4 left.

        Args:
            weights: of the frames; their mean is about 1.
        """
        unbounded = torch.full_like(reward[..., None], torch.inf)
        lowest = torch.cat([-unbounded, self.variable_low - variables], -1)[..., None]
        highest = torch.cat([unbounded, self.variable_high - variables], -1)[..., None]
        values = torch.cat([reward[..., None], next_variables - variables], -1)
        clamped = self.bins.clamp(lowest, highest)
        true = clamped.gather(-1, (values[..., None] - clamped).abs().argmin(-1, keepdim=True))
        log_chances = logits.values.log_softmax(-1).masked_fill(clamped != true, -torch.inf)
        value_losses = -log_chances.logsumexp(-1)
        end_loss = F.binary_cross_entropy_with_logits(logits.terminated, terminated, weights)
        return (value_losses * weights[..., None]).flatten(0, -2).mean(0), end_loss

    def expected(self, logits: OutcomeLogits, row: int) -> Float[Tensor, "*batch"]:
        """The expected value of a row."""
        return (logits.values[..., row, :].softmax(-1) * self.bins[row]).sum(-1)

    def sample(
        self, logits: OutcomeLogits, row: int, uniforms: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """One value of a row, by inverse transform sampling."""
        return self.bins[row][draw_codes(logits.values[..., row, :], uniforms, Sampling())]


def _chosen_values(samples: np.ndarray, most: int) -> np.ndarray:
    """At most `most` values that stand for the samples, in rising order."""
    values, counts = np.unique(samples, return_counts=True)
    if len(values) <= most:
        return values
    commonest = np.argsort(-counts, kind="stable")[:most]
    if counts[commonest].sum() > COMMON_FRACTION * counts.sum():
        return np.sort(values[commonest])
    quantiles = np.linspace(0, 1, most)
    return np.unique(np.quantile(samples, quantiles, method="inverted_cdf"))
