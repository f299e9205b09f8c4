"""Where the player is: features of a pose, and the next pose, predicted before the next frame.

    p(pose) p(codes | pose) p(outcomes | codes)

The prediction is a displacement in the player's own frame (forward, sideways, turn), distributed
as a mixture of Gaussians, so that its likelihood is exact.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.configs.dream import RECENT
from worldmodel.interface.pose import PoseSpec
from worldmodel.interface.sampling import LEAST_TEMPERATURE
from worldmodel.prior.floor_plan import CELLS, MARGIN, FloorPlan, turned

LEAST_EXTENT, LEAST_SCALE = 1e-3, 1e-4
NUM_OCTAVES = 9  # of a coordinate's waves: from twice the level's size to a 128th of it
HEADING_WAVES = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # in a full turn
NUM_COMPONENTS = 8  # of the mixture
LEAST_LOG_SCALE, LARGEST_LOG_SCALE = -5.0, 2.0  # of a component
FARTHEST = 3.0  # scales between a sampled value and its component's mean
# Chance of any pose at all, in what is read off a frame: two places may look alike, and without
# it one mistaken frame would cost thousands of nats and decide the direction of a training step.
ANYWHERE = 1e-3
# Of the least squares, over the largest singular value: moves are nearly collinear, and large
# weights of opposite signs would amplify rounding.
LEAST_SINGULAR = 1e-3
NUM_FITS, UNHINDERED = 4, 0.8  # of the linear motion, and the share of moments that it explains


def in_float32(like: Tensor) -> torch.autocast:
    """A context that computes in float32 even where training is in bf16, whose three digits would
    blur poses: trained on the moves of a steady player, the pose head loses 30 nats by it."""
    return torch.autocast(like.device.type, enabled=False)


class Mixture(NamedTuple):
    """A mixture of C Gaussians over N independent values."""

    logits: Float[Tensor, "*batch C"]
    means: Float[Tensor, "*batch C N"]
    log_scales: Float[Tensor, "*batch C N"]

    @classmethod
    def of(cls, out: Float[Tensor, "*batch outputs"]) -> "Mixture":
        """The mixture that C (1 + 2 N) outputs of a network stand for."""
        out = out.unflatten(-1, (NUM_COMPONENTS, -1))
        size = out.shape[-1] // 2
        logits, means, log_scales = out.split([1, size, size], -1)
        middle = (LARGEST_LOG_SCALE + LEAST_LOG_SCALE) / 2
        half = (LARGEST_LOG_SCALE - LEAST_LOG_SCALE) / 2
        return cls(logits[..., 0], means, middle + half * torch.tanh(log_scales))

    def nats(self, values: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch"]:
        """The negative log-density."""
        off = (values[..., None, :] - self.means) / self.log_scales.exp()
        each = -0.5 * (off.square() + math.log(2 * math.pi)) - self.log_scales
        return -(self.logits.log_softmax(-1) + each.sum(-1)).logsumexp(-1)

    def likeliest(self) -> Float[Tensor, "*batch N"]:
        """The mean of the component with the largest weight."""
        best = self.logits.argmax(-1)[..., None, None]
        return torch.take_along_dim(self.means, best, -2)[..., 0, :]


class PoseSpace(nn.Module):
    """The poses of a world: their ranges in the data, features, and displacements.

    Args:
        spec: the numbers that make up a pose; at least one.
    """

    def __init__(self, spec: PoseSpec) -> None:
        super().__init__()
        self.spec = spec
        self.num_coordinates = len(spec.position)
        self.low: Tensor
        self.high: Tensor
        self.scale: Tensor
        for name, value in (("low", 0.0), ("high", 1.0), ("scale", 1.0)):
            size = len(spec) if name == "scale" else self.num_coordinates
            self.register_buffer(name, torch.full((size,), value))
        # Not saved: of a coordinate's waves, in half turns of its range, and of a heading's.
        octaves = torch.tensor([math.pi / 2 * 2**k for k in range(NUM_OCTAVES)])
        self.octaves: Tensor
        self.waves: Tensor
        self.register_buffer("octaves", octaves, persistent=False)
        self.register_buffer("waves", torch.tensor(HEADING_WAVES), persistent=False)
        has_floor = self.num_coordinates == 2 and not spec.new_levels
        self.floor = FloorPlan() if has_floor else None

    @property
    def num_features(self) -> int:
        if self.spec.new_levels:
            return 1
        waves = 2 * len(HEADING_WAVES) if self.spec.heading is not None else 0
        return self.num_coordinates * (1 + 2 * NUM_OCTAVES) + waves

    def features(self, poses: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch features"]:
        """Coordinates in [-1, 1], and sines and cosines of them and of the heading; where every
        episode has a level of its own, a constant: its places can't be learned."""
        if self.spec.new_levels:
            return torch.ones_like(poses[..., :1])
        position = poses[..., : self.num_coordinates]
        x = 2 * (position - self.low) / self.extent - 1
        angles = [(x[..., None] * self.octaves).flatten(-2)]
        if self.spec.heading is not None:
            angles.append(self.heading(poses)[..., None] * self.waves)
        both = torch.cat(angles, -1)
        return torch.cat([x, both.sin(), both.cos()], -1)

    @torch.no_grad()
    def measure(self, poses: list[Tensor]) -> None:
        """Take the ranges from the poses of episodes, (T+1, P) each."""
        poses = [of.to(self.low.device) for of in poses]
        coordinates = torch.cat(poses)[:, : self.num_coordinates]
        self.low.copy_(coordinates.amin(0))
        self.high.copy_(torch.maximum(coordinates.amax(0), self.low + LEAST_EXTENT))
        moved = torch.cat([self.displacement(of[:-1], of[1:]) for of in poses])
        # Not the standard deviation: a steady motion has none.
        self.scale.copy_(moved.square().mean(0).sqrt().clamp(min=LEAST_SCALE))

    @torch.no_grad()
    def draw_floor(self, poses: list[Tensor], held_out: list[Tensor]) -> None:
        """Draw the floor plan, in worlds whose positions are points of a plane.

        Args:
            poses, held_out: of episodes, (T+1, P) each.
        """
        if self.floor is not None:
            empty = [self.low.new_zeros(0, len(self.spec))]
            places, others = (
                self._cells(torch.cat(empty + of).to(self.low)) for of in (poses, held_out)
            )
            self.floor.draw(places, others)

    def around(self, poses: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch points"]:
        """Distances to the nearest wall around a pose; none where there is no floor plan."""
        if self.floor is None:
            return poses[..., :0]
        heading = torch.zeros_like(poses[..., 0])
        if self.spec.heading is not None:
            heading = self.heading(poses)
        return self.floor.around(self._cells(poses), heading)

    @property
    def num_around(self) -> int:
        return 0 if self.floor is None else self.floor.num_features

    @property
    def _cells_a_unit(self) -> Float[Tensor, ""]:
        return (CELLS - 2 * MARGIN) / self.extent.max()

    def _cells(self, poses: Float[Tensor, "*batch numbers"]) -> Float[Tensor, "*batch two"]:
        """Where poses are on the floor plan, in cells."""
        return MARGIN + (poses[..., :2] - self.low) * self._cells_a_unit

    @property
    def is_measured(self) -> bool:
        """Whether `measure` has set the ranges, or loaded weights have."""
        return not bool(
            (self.low == 0).all() and (self.high == 1).all() and (self.scale == 1).all()
        )

    @property
    def extent(self) -> Float[Tensor, " coordinates"]:
        """The level's size along each coordinate."""
        return self.high - self.low

    def heading(self, poses: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
        """Headings in radians, counterclockwise."""
        return poses[..., -1] * (2 * math.pi / self.spec.full_turn)

    def displacement(
        self, before: Float[Tensor, "*batch P"], after: Float[Tensor, "*batch P"]
    ) -> Float[Tensor, "*batch P"]:
        """From one pose to the next, in the frame of the first: forward, to the left and, in
        radians, the turn; in worlds without headings, along the coordinates."""
        moved = (after - before)[..., : self.num_coordinates]
        if self.spec.heading is None:
            return moved
        before_heading, after_heading = self.heading(before), self.heading(after)
        turn = (after_heading - before_heading + math.pi) % (2 * math.pi) - math.pi
        return torch.cat([turned(moved, -before_heading), turn[..., None]], -1)

    @property
    def num_offsets(self) -> int:
        return self.num_coordinates + (2 if self.spec.heading is not None else 0)

    def offsets(
        self, before: Float[Tensor, "*batch P"], after: Float[Tensor, "*batch P"]
    ) -> Float[Tensor, "*batch offsets"]:
        """The displacement relative to the level's size, its turn as sine and cosine."""
        displacement = self.displacement(before, after)
        moved = displacement[..., : self.num_coordinates] / self.extent.max()
        if self.spec.heading is None:
            return moved
        turn = displacement[..., -1:]
        return torch.cat([moved, turn.sin(), turn.cos()], -1)

    def moved(
        self, before: Float[Tensor, "*batch P"], displacement: Float[Tensor, "*batch P"]
    ) -> Float[Tensor, "*batch P"]:
        """The pose after a displacement, in the range of the data and out of walls."""
        step = displacement[..., : self.num_coordinates]
        if self.spec.heading is not None:
            step = turned(step, self.heading(before))
        position = before[..., : self.num_coordinates] + step
        if self.floor is not None:
            wanted = self._cells(position)
            end = self.floor.step(self._cells(before), wanted)
            place = self.low + (end - MARGIN) / self._cells_a_unit
            position = torch.where(end == wanted, position, place)
        if self.spec.heading is None:
            return self.inside(position)
        turn = displacement[..., -1:] * (self.spec.full_turn / (2 * math.pi))
        return self.inside(torch.cat([position, before[..., -1:] + turn], -1))

    def inside(self, poses: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P"]:
        """Poses clamped to the range of the data, unless other levels may be larger; 0 for what is
        not finite."""
        poses = poses.nan_to_num(posinf=0.0, neginf=0.0)
        position = poses[..., : self.num_coordinates]
        if not self.spec.new_levels:
            position = position.clamp(self.low, self.high)
        return torch.cat(
            [position, poses[..., self.num_coordinates :] % abs(self.spec.full_turn)], -1
        )


class PoseHead(nn.Module):
    """Predicts the next pose from the last poses and actions, the walls around the player, and
    features of the newest frame.

    What a player does unhindered is a linear function of the last moves and actions, seen from the
    newest pose; the network adds what the level does to it.

    Args:
        space: the world's; not a submodule, so that its buffers are saved once.
        num_actions: A, the size of an encoded action.
        frame_width: number of the frame's features.
        width: of the network.
    """

    space: PoseSpace

    def __init__(self, space: PoseSpace, num_actions: int, frame_width: int, width: int) -> None:
        super().__init__()
        vars(self)["space"] = space
        size, num_seen = len(space.spec), 1 + RECENT
        num_inputs = space.num_features + RECENT * (size + 1) + num_seen * num_actions
        views = 1 if space.spec.heading is None else 3  # of an action: as taken, turned, aside
        num_moves = RECENT * size + views * num_seen * num_actions
        self.enter = nn.Linear(num_inputs + frame_width, width)
        self.surroundings = nn.Linear(num_moves + space.num_around, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.leave = nn.Linear(width, NUM_COMPONENTS * (1 + 2 * size))
        self.inertia = nn.Linear(num_moves, size, bias=False)
        nn.init.zeros_(self.inertia.weight)

    def forward(
        self,
        poses: Float[Tensor, "*batch W P"],
        known: Bool[Tensor, "*batch W"],
        actions: Float[Tensor, "*batch W A"],
        frame: Float[Tensor, "*batch frame"],
    ) -> Mixture:
        """The displacement from the newest of the last W = 1 + RECENT poses to the next.

        Args:
            known: which poses are known.
            actions: taken there, the newest last; zeros before the first.
            frame: features of the newest frame.
        """
        space, newest = self.space, poses[..., -1, :]
        steps, both = self.last_steps(poses, known)
        recent = torch.cat([steps / space.scale, both], -1)
        inputs = [space.features(newest), recent.flatten(-2), actions.flatten(-2), frame.float()]
        moves = self.moves(steps, poses, known, actions)
        with in_float32(poses):
            x = self.enter(torch.cat(inputs, -1))
            x = x + self.surroundings(torch.cat([moves, space.around(newest)], -1))
            for layer in self.hidden:
                x = x + layer(F.silu(F.layer_norm(x, x.shape[-1:])))
            mixture = Mixture.of(self.leave(F.silu(x)))
            return mixture._replace(means=mixture.means + self.inertia(moves)[..., None, :])

    def last_steps(
        self, poses: Float[Tensor, "*batch W P"], known: Bool[Tensor, "*batch W"]
    ) -> tuple[Float[Tensor, "*batch recent P"], Bool[Tensor, "*batch recent one"]]:
        """The displacements between the poses, each in its own frame, and which of them are known;
        zeros where they aren't."""
        both = (known[..., 1:] & known[..., :-1])[..., None]
        steps = self.space.displacement(poses[..., :-1, :], poses[..., 1:, :])
        return torch.where(both, steps, 0.0), both

    def moves(
        self,
        steps: Float[Tensor, "*batch recent P"],
        poses: Float[Tensor, "*batch W P"],
        known: Bool[Tensor, "*batch W"],
        actions: Float[Tensor, "*batch W A"],
    ) -> Float[Tensor, "*batch moves"]:
        """The last displacements and actions as seen from the newest pose: an action is turned by
        how far the player has turned since. Zeros where poses are unknown.

        Args:
            steps: those of `last_steps`; other arguments are those of `forward`.
        """
        space = self.space
        taken = torch.where(known[..., None], actions, 0.0)
        if space.spec.heading is not None:
            headings = space.heading(poses)
            since = headings[..., -1:] - headings
            moved = turned(steps[..., : space.num_coordinates], -since[..., :-1])
            steps = torch.cat([moved, steps[..., space.num_coordinates :]], -1)
            cosine, sine = since.cos()[..., None], since.sin()[..., None]
            taken = torch.cat([taken, taken * cosine, taken * sine], -1)
        return torch.cat([(steps / space.scale).flatten(-2), taken.flatten(-2)], -1)

    def nats(
        self,
        mixture: Mixture,
        before: Float[Tensor, "*batch P"],
        after: Float[Tensor, "*batch P"],
    ) -> Float[Tensor, "*batch"]:
        """The negative log-density of the standardised displacement."""
        return mixture.nats(self.space.displacement(before, after) / self.space.scale)

    def sample(
        self,
        mixture: Mixture,
        before: Float[Tensor, "*batch P"],
        uniforms: Float[Tensor, "*batch numbers"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*batch P"]:
        """The next pose, from 1 + P numbers in [0, 1), of which the first selects a component.

        Args:
            temperature: divides the components' logits and multiplies their scales; 0 takes the
                mean of the likeliest component.
        """
        if temperature < LEAST_TEMPERATURE:
            return self.space.moved(before, mixture.likeliest() * self.space.scale)
        cumulative = (mixture.logits / temperature).softmax(-1).cumsum(-1)
        chosen = (cumulative <= uniforms[..., :1]).sum(-1).clamp(max=NUM_COMPONENTS - 1)
        mean, log_scale = (
            torch.take_along_dim(part, chosen[..., None, None], -2)[..., 0, :]
            for part in mixture[1:]
        )
        normal = torch.special.ndtri(uniforms[..., 1:].double().clamp(1e-9, 1 - 1e-9)).float()
        value = mean + normal.clamp(-FARTHEST, FARTHEST) * temperature * log_scale.exp()
        return self.space.moved(before, value * self.space.scale)


@torch.no_grad()
def linear_motion(
    moves: Float[Tensor, "N moves"], displacement: Float[Tensor, "N P"]
) -> Float[Tensor, "P moves"]:
    """Weights of the linear function from `PoseHead.moves` to standardised displacements: least
    squares without what it misses most, as walls stop some players."""
    x, y = moves.double().cpu(), displacement.double().cpu()
    kept = torch.ones(len(x), dtype=torch.bool)
    weight = x.new_zeros(x.shape[1], y.shape[1])
    for _ in range(NUM_FITS):
        fit = torch.linalg.lstsq(x[kept], y[kept], driver="gelsd", rcond=LEAST_SINGULAR)
        weight = fit.solution
        missed = (y - x @ weight).norm(dim=-1)
        kept = missed <= 1.5 * missed.quantile(UNHINDERED)
    return weight.T.to(moves)


class Locator(nn.Module):
    """Reads the pose off a frame's codes alone; arguments as those of `PoseHead`."""

    space: PoseSpace

    def __init__(self, space: PoseSpace, frame_width: int, width: int) -> None:
        super().__init__()
        vars(self)["space"] = space
        heading = space.spec.heading is not None
        size = space.num_coordinates + 2 * heading  # as sine and cosine
        self.layers = nn.Sequential(
            nn.Linear(frame_width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, NUM_COMPONENTS * (1 + 2 * size)),
        )

    def forward(self, frames: Float[Tensor, "*batch frame"]) -> Mixture:
        with in_float32(frames):
            return Mixture.of(self.layers(frames.float()))

    def nats(self, mixture: Mixture, poses: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
        """The negative log-density of poses: coordinates in [-1, 1], sine and cosine of the
        heading; of the mixture and, with a chance of `ANYWHERE`, of all values between -1 and
        1 alike."""
        space = self.space
        values = 2 * (poses[..., : space.num_coordinates] - space.low) / space.extent - 1
        if space.spec.heading is not None:
            heading = space.heading(poses)
            values = torch.cat([values, torch.stack([heading.sin(), heading.cos()], -1)], -1)
        anywhere = math.log(ANYWHERE) - values.shape[-1] * math.log(2.0)
        read = math.log1p(-ANYWHERE) - mixture.nats(values)
        return -torch.logaddexp(read, torch.full_like(read, anywhere))

    def locate(self, frames: Float[Tensor, "*batch frame"]) -> Float[Tensor, "*batch P"]:
        """The likeliest pose."""
        space = self.space
        values = self(frames).likeliest()
        coordinates = values[..., : space.num_coordinates]
        pose = space.low + (coordinates + 1) / 2 * space.extent
        if space.spec.heading is not None:
            heading = torch.atan2(*values[..., space.num_coordinates :].unbind(-1))
            turns = heading * (space.spec.full_turn / (2 * math.pi))
            pose = torch.cat([pose, turns[..., None]], -1)
        return space.inside(pose)
