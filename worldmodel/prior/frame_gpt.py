"""The frame GPT: a backbone that runs once a frame, and a head that samples the frame's tokens.

Row t of the backbone holds frame t and the action taken there, and predicts frame t + 1. Its
positions see each other and all positions of the frames before, within a window. `stepping` runs
it one frame at a time.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldmodel.configs.dream import RECENT, WorldModelConfig
from worldmodel.interface.sampling import Sampling
from worldmodel.prior import fast
from worldmodel.prior.head import TokenHead, Undirected
from worldmodel.prior.layers import (
    Attend,
    Block,
    ConditionalNorm,
    Rotary,
    attend_where,
    frames_visible,
    linear,
    mean_action,
    turn,
)
from worldmodel.prior.look_back import look_back
from worldmodel.prior.memory import KEYFRAME_STEPS, Keyframes, Older, Past, View
from worldmodel.prior.outcomes import OutcomeHead, OutcomeLogits
from worldmodel.prior.place import Moments, Place, last_of_each
from worldmodel.prior.pose import Mixture
from worldmodel.prior.recall import Recall

CODE_WIDTH = 64  # of one code's embedding, before codes are merged into a position


class Prediction(NamedTuple):
    """Predictions of frames 1..T, given frames 0..T-1 and their actions."""

    logits: Float[Tensor, "B T n K"]
    early_outcomes: OutcomeLogits  # before any change of the variables is known
    outcomes: OutcomeLogits  # given the variables at frames 1..T
    pose: Mixture | None  # of the displacements to frames 1..T; None in worlds without a pose
    located: Mixture | None  # of the poses read off frames 1..T; likewise
    motion: Mixture | None  # of the moments, from poses and actions alone
    sketch: Tensor | None  # of the moments, see `FrameGPT.learn`


class FrameGPT(nn.Module):
    """The dream's prior: predicts the next frame's codes, pose, reward, end and game variables."""

    def __init__(self, world: WorldModelConfig) -> None:
        super().__init__()
        self.world, self.config = world, world.prior
        self.grid = world.tokenizer.grid
        tokenizer = world.tokenizer
        self.num_codes, self.num_codebooks = tokenizer.num_codes, tokenizer.num_codebooks
        config, num_actions = self.config, world.actions.vector_size
        self.rotary = Rotary(config.width // config.heads, *world.blocks)
        block_codes = config.merge**2 * CODE_WIDTH
        # One table for all codebooks: code k of codebook q is row q K + k.
        self.code = nn.Embedding(self.num_codebooks * self.num_codes, CODE_WIDTH)
        self.merge = nn.Linear(block_codes, config.width)
        self.position = nn.Parameter(torch.empty(world.positions, config.width))
        self.variable = linear(len(world.variable_names), config.width)
        self.place = None
        if world.used_pose:
            self.place = Place(world, frame_width=math.prod(self.grid) * CODE_WIDTH)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, num_actions, num_layers=config.layers)
            for _ in range(config.layers)
        )
        self.recall = None
        if config.recalled:
            self.recall = Recall(world, self.place and self.place.space)
        self.norm = ConditionalNorm(config.width, num_actions)
        # Inputs of the head: of each position a part for each token, and the nearby codes of the
        # last frame, as a moving view shifts them by a token or two.
        self.split = nn.Linear(config.width, config.merge**2 * config.head_width)
        self.nearby = nn.Conv2d(CODE_WIDTH, config.head_width, 3, padding=1)
        self.head = TokenHead(
            num_tokens=world.tokens_a_frame,
            num_codes=self.num_codes,
            width=config.head_width,
            layers=config.head_layers,
            heads=config.head_heads,
            condition_size=num_actions,
        )
        self.next_code = nn.Linear(block_codes, config.width)
        self.outcome = OutcomeHead(
            config.width, len(world.variable_names), config.num_bins, config.window
        )
        nn.init.normal_(self.code.weight)
        nn.init.normal_(self.position, std=0.1)
        # Not saved: it follows from the action space.
        self.mean_action: Tensor
        self.register_buffer("mean_action", mean_action(world.actions), persistent=False)

    def forward(
        self,
        codes: Int[Tensor, "B T h w q"],
        actions: Float[Tensor, "B T A"],
        variables: Float[Tensor, "B T V"],
        next_codes: Int[Tensor, "B T h w q"],
        next_variables: Float[Tensor, "B T V"] | None = None,
        past: Past | None = None,
        moments: Moments | None = None,
    ) -> Prediction:
        """Predict frames 1..T, `next_codes` and `next_variables`, from frames 0..T-1.

        No row sees a later one, except for the pose of the frame that it predicts. Without
        `next_variables`, outcomes are the early ones.

        Args:
            past: None: frames were given, and poses are unknown.
            moments: predict their next poses, and what the map shows there, too.
        """
        past = self.looked_up(codes, self.given_past(codes) if past is None else past)
        states, _ = self.backbone(codes, actions, variables, past)
        context = self.context(states, codes, past)
        logits = self.head(
            context.flatten(0, 1), next_codes.flatten(0, 1).flatten(1), actions.flatten(0, 1)
        )
        history = self.outcome.history_of_each(variables)
        early = outcomes = self.predict_outcomes(states, next_codes, history)
        if next_variables is not None:
            outcomes = self.outcome.given_changes(early, variables, next_variables)
        pose = located = motion = sketch = None
        if self.place is not None:
            shown = self.shown(codes, past.hidden)
            poses, known, taken = (
                last_of_each(sequence, 1 + RECENT)
                for sequence in (past.poses[:, :-1], past.known[:, :-1], actions)
            )
            pose = self.place.predict(poses, known, taken, shown)
            located = self.place.locator(self._flat_vectors(next_codes))
            if moments is not None:
                motion, sketch = self.learn(moments)
        return Prediction(
            logits.unflatten(0, codes.shape[:2]), early, outcomes, pose, located, motion, sketch
        )

    def learn(self, moments: Moments) -> tuple[Mixture, Float[Tensor, "M positions block"]]:
        """What single moments teach: the displacements to their next poses, and sketches of the
        frames there: the tokenizer's vectors of each position's codes."""
        assert self.place is not None
        poses, older = moments.poses, moments.older
        motion = self.place.predict(poses[:, :-1], moments.known, moments.actions)
        before, after = poses[: len(moments.next_vectors), -2:].unbind(1)
        sketch = self.place.sketched(before, after)
        if self.recall is not None and older is not None:
            count = len(older.codes)
            expected = self.vectors_of(sketch[:count, None]) / self.recall.scale
            known = torch.ones_like(after[:count, None, 0], dtype=torch.bool)
            recalled = self.recall(expected.detach(), older, after[:count, None], known)
            recalled = self.blocks_of(recalled)[:, 0] * self.recall.scale
            sketch = torch.cat([sketch[:count] + recalled, sketch[count:]])
        return motion, sketch

    def given_past(
        self,
        codes: Int[Tensor, "B T h w q"],
        poses: Float[Tensor, "B T+1 P"] | None = None,
    ) -> Past:
        """The past of given, visible frames.

        Args:
            poses: NaN where they are unknown; None or P = 0: all are.
        """
        batch_size, num_frames = codes.shape[:2]
        none = torch.zeros(batch_size, num_frames + 1, dtype=torch.bool, device=codes.device)
        known = none
        if poses is None or self.place is None or not poses.shape[-1]:
            poses = torch.zeros(*none.shape, len(self.world.used_pose), device=codes.device)
        else:
            poses, known = self.place.space.inside(poses), poses.isfinite().all(-1)
        return Past(poses, known, none[:, 1:])

    def looked_up(self, codes: Int[Tensor, "B T h w q"], past: Past) -> Past:
        """The past of frames with these codes, with the view of the next."""
        if past.view is not None:
            return past
        poses, known = past.poses[:, 1:], past.known[:, 1:]
        shown = recalled = sketch = None
        if self.place is not None:
            shown, is_known = self.place.seen(past.poses, past.known), known[..., None, None, None]
            sketch = torch.where(is_known, self.vectors_of(self.place.sketch(shown)), 0.0)
        if self.recall is not None and past.older is not None:
            expected = self.recall.vectors(codes)
            if sketch is not None:
                expected = sketch.detach() / self.recall.scale
            recalled = self.recall(expected, past.older, poses, known)
            if sketch is not None:
                sketch = torch.where(is_known, sketch + recalled * self.recall.scale, 0.0)
        return past._replace(view=View(shown, recalled, sketch))

    def whole_past(
        self,
        codes: Int[Tensor, "B T h w q"],
        poses: Float[Tensor, "B T+1 P"] | None = None,
    ) -> Past:
        """The past of all frames of a dream from its first on, including older frames to look
        back at.

        Args:
            poses: NaN where they are unknown; None or P = 0: all are.
        """
        past = self.given_past(codes, poses)
        num_frames = codes.shape[1]
        times = torch.arange(num_frames, device=codes.device)[KEYFRAME_STEPS - 1 :: KEYFRAME_STEPS]
        if not self.config.recalled or not len(times):
            return past
        now = torch.arange(num_frames, device=codes.device).expand(len(codes), -1)
        keyframes = Keyframes(
            codes[:, times],
            past.poses[:, times],
            past.known[:, times],
            times.expand(len(codes), -1),
        )
        usable = times < now[..., None]
        return past._replace(
            older=self.look_back(keyframes, usable, now, past.poses[:, 1:], past.known[:, 1:])
        )

    def look_back(
        self, keyframes: Keyframes, usable: Tensor, now: Tensor, poses: Tensor, known: Tensor
    ) -> Older:
        """`look_back.look_back` with this prior's sizes."""
        return look_back(
            keyframes,
            usable,
            now,
            poses,
            known,
            count=self.config.recalled,
            window=self.config.window,
            space=self.place and self.place.space,
        )

    def early_outcomes(
        self,
        codes: Int[Tensor, "B T h w q"],
        actions: Float[Tensor, "B T A"],
        variables: Float[Tensor, "B T V"],
        next_codes: Int[Tensor, "B T h w q"],
        past: Past | None = None,
    ) -> OutcomeLogits:
        """The early outcomes of `forward`, without the codes' logits."""
        past = self.given_past(codes) if past is None else past
        states, _ = self.backbone(codes, actions, variables, past)
        return self.predict_outcomes(states, next_codes, self.outcome.history_of_each(variables))

    @torch.no_grad()
    def locate(self, codes: Int[Tensor, "B h w q"]) -> Float[Tensor, "B P"]:
        """The pose of each frame, read off its codes; only in worlds that have one."""
        assert self.place is not None
        return self.place.locator.locate(self._flat_vectors(codes[:, None])[:, 0])

    @torch.no_grad()
    def standardise_by(self, mean: Float[Tensor, " V"], std: Float[Tensor, " V"]) -> None:
        """Standardise variables with this mean and deviation. The weights of a prior trained with
        others are adjusted so that its predictions stay the same."""
        old_mean, old_std = self.outcome.variable_mean, self.outcome.variable_std
        mean, std = mean.to(old_mean), std.to(old_std)
        scale, shift = std / old_std, (mean - old_mean) / old_std
        is_new = bool((old_mean == 0).all() and (old_std == 1).all())
        old_mean.copy_(mean)
        old_std.copy_(std)
        if not is_new:
            self.variable.bias.add_(self.variable.weight @ shift)
            self.variable.weight.mul_(scale)
            self.outcome.restandardise(scale, shift)

    def hidden_matrices(self) -> list[Tensor]:
        """Matrices between hidden layers, for Muon: not those of norms, logits, outcomes,
        variables, view, sketch, locator and recall, and not the map's, which learns faster by
        AdamW."""
        others: list[nn.Module] = [self.variable, self.head.logits, self.next_code, self.outcome]
        others += [module for module in self.modules() if isinstance(module, ConditionalNorm)]
        if self.place is not None:
            others += [self.place.view, self.place.sketch, self.place.locator, self.place.map]
        if self.recall is not None:
            others.append(self.recall)
        excluded = {layer for module in others for layer in module.modules()}
        return [
            module.weight
            for module in self.modules()
            if isinstance(module, nn.Linear) and module not in excluded
        ]

    def backbone(
        self, codes: Tensor, actions: Tensor, variables: Tensor, past: Past
    ) -> tuple[Float[Tensor, "B T P D"], Float[Tensor, "L two B nh T P hs"]]:
        """States of every row, and every layer's rotated keys and values."""
        num_frames, num_positions = codes.shape[1], len(self.position)
        time = torch.arange(num_frames, device=codes.device)
        cosines, sines = self.rotary.turns(time)  # (T, P, hs / 2)
        visible = frames_visible(num_frames, self.config.window).to(codes.device)
        mask = visible.repeat_interleave(num_positions, 0).repeat_interleave(num_positions, 1)
        keys_values = []

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B, T, nh, P, hs) each
            q, k = (turn(x, cosines[:, None], sines[:, None]).transpose(1, 2) for x in (q, k))
            v = v.transpose(1, 2)  # (B, nh, T, P, hs)
            keys_values.append(torch.stack([k, v]))
            y = attend_where(mask, *(x.flatten(2, 3) for x in (q, k, v)))
            return y.unflatten(2, (num_frames, num_positions)).transpose(1, 2)

        x = self.embed(codes, variables, past)
        x = self.run_blocks(x, actions, lambda _: attend)
        return x, torch.stack(keys_values)

    def run_blocks(
        self,
        x: Float[Tensor, "*batch P D"],
        actions: Float[Tensor, "*batch A"],
        attend_in: Callable[[int], Attend],
    ) -> Float[Tensor, "*batch P D"]:
        """States of embedded frames.

        Args:
            attend_in: returns the attention of block i.
        """
        for i, block in enumerate(self.blocks):
            x = block(x, actions, attend_in(i))
        return self.norm(x, actions)

    def embed(self, codes: Tensor, variables: Tensor, past: Past) -> Float[Tensor, "B T P D"]:
        """Frames, their variables and poses as inputs of the backbone."""
        x = self.shown(codes, past.hidden) + self.position
        x = x + self.variable(self.outcome.standardised(variables))[:, :, None]
        view = self.looked_up(codes, past).view
        assert view is not None
        if self.place is not None:
            own = self.place.embed(past.poses[:, :-1], past.known[:, :-1])
            x = x + own + self.place.shown(view.map)
        if self.recall is not None and view.recalled is not None:
            x = x + self.recall.shown(self.blocks_of(view.recalled))
        return x

    def shown(self, codes: Tensor, hidden: Tensor) -> Float[Tensor, "B T P D"]:
        """Embedded frames without variables and poses; zeros where they are hidden."""
        x = self.merge(self.blocks_of(self._code_vectors(codes)))
        return torch.where(hidden[..., None, None], 0.0, x)

    def context(self, states: Tensor, codes: Tensor, past: Past) -> Float[Tensor, "B T n D"]:
        """The head's context of each token of the next frame."""
        m = self.config.merge
        tiles = self.split(states).unflatten(-1, (m, m, -1)).unflatten(2, self.world.blocks)
        far = tiles.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # (B, T, h, w, D) after the next
        vectors = torch.where(past.hidden[..., None, None, None], 0.0, self._code_vectors(codes))
        vectors = vectors.flatten(0, 1).permute(0, 3, 1, 2)
        near = self.nearby(vectors).permute(0, 2, 3, 1).unflatten(0, codes.shape[:2])
        context = far.reshape(near.shape) + near
        if self.place is not None:
            sketch = cast(View, self.looked_up(codes, past).view).sketch
            assert sketch is not None
            near = self.place.nearby(sketch.flatten(0, 1).permute(0, 3, 1, 2))
            context = context + near.permute(0, 2, 3, 1).unflatten(0, codes.shape[:2])
        return context.flatten(2, 3).repeat_interleave(self.num_codebooks, 2)

    def sample_tokens(
        self,
        context: Float[Tensor, "B n D"],
        actions: Float[Tensor, "B A"],
        uniforms: Float[Tensor, "B n"],
        sampling: Sampling,
        undirected: Undirected | None,
    ) -> tuple[Int[Tensor, "B n"], Float[Tensor, " B"]]:
        """`TokenHead.sample`, compiled where that is possible."""
        sample = fast.sample if fast.serves(context) else TokenHead.sample
        return sample(self.head, context, actions, uniforms, sampling, undirected)

    def predict_outcomes(
        self, states: Tensor, next_codes: Tensor, history: Float[Tensor, "B T changes"]
    ) -> OutcomeLogits:
        """Outcomes before any change of the variables is known."""
        arrived = self.next_code(self.blocks_of(self._code_vectors(next_codes)))
        return self.outcome(states + arrived, history)

    def _flat_vectors(self, codes: Int[Tensor, "B T h w q"]) -> Float[Tensor, "B T frame"]:
        """The vectors of all of a frame's codes, detached."""
        return self._code_vectors(codes).detach().flatten(2)

    def _code_vectors(self, codes: Tensor) -> Float[Tensor, "B T h w E"]:
        offsets = torch.arange(self.num_codebooks, device=codes.device) * self.num_codes
        return self.code(codes + offsets).sum(-2)

    def blocks_of(self, vectors: Float[Tensor, "B T h w E"]) -> Float[Tensor, "B T P mmE"]:
        """Vectors of codes, concatenated for each position."""
        m, (rows, columns) = self.config.merge, self.world.blocks
        tiles = vectors.unflatten(3, (columns, m)).unflatten(2, (rows, m))
        return tiles.transpose(3, 4).flatten(4, 6).flatten(2, 3)

    def vectors_of(self, blocks: Float[Tensor, "B T P mmE"]) -> Float[Tensor, "B T h w E"]:
        """The inverse of `blocks_of`."""
        m, (rows, columns) = self.config.merge, self.world.blocks
        tiles = blocks.unflatten(3, (m, m, -1)).unflatten(2, (rows, columns))
        return tiles.transpose(3, 4).flatten(4, 5).flatten(2, 3)
