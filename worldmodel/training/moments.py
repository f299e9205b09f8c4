"""Single recorded moments, from which the map and the pose head learn."""

import math

import numpy as np
import torch
from torch import Tensor

from worldmodel.configs.dream import RECENT
from worldmodel.data import Split
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError
from worldmodel.prior.layers import encode_actions
from worldmodel.prior.memory import KEYFRAME_STEPS, Keyframes, Older
from worldmodel.prior.place import Moments, Place
from worldmodel.prior.pose import linear_motion
from worldmodel.training.codes import CodedEpisodes

UNKNOWN_HISTORIES = 0.2  # fraction of moments whose older poses and actions are unknown
HINDERED = 0.25  # fraction of the drawn moments in which something hindered the player:
LEAST_HINDERED = 0.05  # it is displaced by so much, over the usual displacement
MOST_FITTED = 50_000  # moments at once
MOST_AGO = 40  # steps from the newest frame back to the first that is looked back at


def draw_ago(rng: np.random.Generator, count: int) -> np.ndarray:
    """For how many steps no frame can be looked back at; few steps are as likely as many, so that
    copying is learned."""
    return np.exp(rng.random(count) * math.log(MOST_AGO)).astype(np.int64)


class MomentSampler:
    """Draws moments of a split's episodes that have poses.

    Args:
        model: of a world with a pose.
    """

    def __init__(self, model: WorldModel, coded: CodedEpisodes, split: Split) -> None:
        self.model, self.coded = model, coded
        self._episodes = coded.posed(split)
        # All frames of these episodes but the last, which no other follows; and the first of each.
        lengths = coded.reader.index["episode_length"][self._episodes]
        firsts = np.array([coded.first(i) for i in self._episodes], np.int64)
        self._first_frames = np.repeat(firsts, lengths)
        self._frames = self._first_frames + np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(length) for length in lengths)]
        )
        self._hindered = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._frames)

    def measure_poses(self) -> None:
        """Take the ranges of poses and of their changes from these episodes, draw the floor plan,
        and draw moments at walls more often from now on.

        A model that has learned with other ranges keeps them, and everything if no episode has a
        pose.

        Raises:
            UserError: no episode has a pose.
        """
        place = self.model.prior.place
        assert place is not None
        if not self._episodes:
            if place.space.is_measured:
                return
            raise UserError(f"{self.coded.reader.folder}: no training episode has a pose")
        poses, held_out = (
            [torch.from_numpy(self.coded.poses_of(i)) for i in episodes]
            for episodes in (self._episodes, self.coded.posed("validation"))
        )
        if not place.space.is_measured:
            place.space.measure(poses)
        place.space.draw_floor(poses, held_out)
        self._find_hindered(place)

    def draw(
        self, rng: np.random.Generator, count: int, *, num_sketched: int, num_recalled: int
    ) -> Moments:
        """Random moments; with the codes of the next frame for the first `num_sketched`, and with
        older frames to look back at for the first `num_recalled` of these, where the prior does."""
        chosen = rng.integers(len(self._frames), size=count)
        if len(self._hindered):  # the last ones
            num_hindered = int(HINDERED * count)
            hindered = self._hindered[rng.integers(len(self._hindered), size=num_hindered)]
            chosen[count - num_hindered :] = hindered
        # A clip may begin anywhere, so what was before it is unknown though the player moves.
        num_unknown = rng.integers(1, RECENT + 1, count) * (rng.random(count) < UNKNOWN_HISTORIES)
        moments = self._moments(chosen, num_unknown, num_sketched)
        if not num_recalled or self.model.prior.recall is None:
            return moments
        return moments._replace(older=self._older(chosen[:num_recalled], moments, rng))

    def _older(self, chosen: np.ndarray, moments: Moments, rng: np.random.Generator) -> Older:
        """The older frames that moments look back at."""
        first, newest = self._first_frames[chosen], self._frames[chosen]
        now = newest - first
        latest = now - draw_ago(rng, len(chosen))
        times = np.arange(KEYFRAME_STEPS - 1, max(KEYFRAME_STEPS, now.max()), KEYFRAME_STEPS)
        usable = times <= latest[:, None]
        at = first[:, None] + np.where(usable, times, 0)
        keyframes = Keyframes(
            self._tensor(self.coded.codes[at]),
            self._tensor(self.coded.poses[at]),
            self._tensor(np.ones_like(usable)),
            self._tensor(np.broadcast_to(times, usable.shape)),
        )
        return self.model.prior.look_back(
            keyframes,
            self._tensor(usable)[:, None],
            self._tensor(now)[:, None],
            moments.poses[: len(chosen), -1:],
            moments.known[: len(chosen), -1:],
        )

    def _moments(self, chosen: np.ndarray, num_unknown: np.ndarray, num_sketched: int) -> Moments:
        """Moments by their numbers, of which the first poses are unknown."""
        newest, first = self._frames[chosen, None], self._first_frames[chosen, None]
        frames = newest + np.arange(-RECENT, 2)
        known = (frames[:, :-1] >= first) & (np.arange(RECENT + 1) >= num_unknown[:, None])
        frames = np.maximum(frames, first)
        actions = self._tensor(self.coded.actions[frames[:, :-1]])
        codes = self.coded.codes[frames[:num_sketched, -1]].astype(np.int64)
        return Moments(
            self._tensor(self.coded.poses[frames]),
            self._tensor(known),
            encode_actions(self.model.config.actions, actions) * self._tensor(known)[..., None],
            self.model.tokenizer.codebooks.look_up(self._tensor(codes)),
        )

    @torch.no_grad()
    def _find_hindered(self, place: Place) -> None:
        """Find the moments in which players moved otherwise than a linear function says: at walls.
        They are few, and are drawn more often. A new pose head takes the linear function over."""
        fitted = self._moves(place, np.arange(0, len(self), -(-len(self) // MOST_FITTED)))
        weight = linear_motion(*fitted)
        if not place.head.inertia.weight.any():
            place.head.inertia.weight.copy_(weight)
        hindered = []
        for part in np.array_split(np.arange(len(self)), -(-len(self) // MOST_FITTED)):
            moves, displacements = self._moves(place, part)
            missed = (displacements - moves @ weight.T)[:, : place.space.num_coordinates]
            hindered.append(part[(missed.norm(dim=-1) > LEAST_HINDERED).cpu().numpy()])
        self._hindered = np.concatenate(hindered)

    def _moves(self, place: Place, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """`PoseHead.moves` of moments by their numbers, and their standardised displacements."""
        moments = self._moments(chosen, np.zeros(len(chosen), np.int64), num_sketched=0)
        poses, space, head = moments.poses, place.space, place.head
        past, known = poses[:, :-1], moments.known
        moves = head.moves(head.last_steps(past, known)[0], past, known, moments.actions)
        return moves, space.displacement(poses[:, -2], poses[:, -1]) / space.scale

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.coded.device)
