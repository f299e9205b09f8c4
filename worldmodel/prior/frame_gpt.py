"""The frame GPT: a backbone that runs once a frame, and a head that draws the frame's tokens.

Row t of the backbone holds frame t and the action taken there, and predicts frame t + 1. Its
positions see each other and every position of the frames before, within a window. Keys and
values of past frames stay in a ring, so a dream goes on for hours at the same pace.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.configs.dream import FrameGPTConfig, WorldModelConfig
from worldmodel.interface.sampling import Sampling
from worldmodel.prior.action_vectors import mean_action
from worldmodel.prior.fast_head import FastHead
from worldmodel.prior.head import TokenHead, Undirected
from worldmodel.prior.layers import (
    Block,
    ConditionalNorm,
    Rotary,
    attend_where,
    frames_visible,
    linear,
    turn,
)
from worldmodel.prior.memory import KEYFRAME_STEPS, KEYFRAMES, Keyframes, Memory
from worldmodel.prior.outcomes import OutcomeHead, OutcomeLogits, recent_changes
from worldmodel.prior.pose import RECENT, Mixture, Place, last_of_each
from worldmodel.prior.recall import (
    Candidates,
    Older,
    OlderFrames,
    Recall,
    choose_older,
)

# Parts of names of matrices that don't lead from one hidden layer to another.
NOT_HIDDEN = ("code.", "previous_code", "position", "variable", "age", "nothing", "gain_and_bias")
NOT_HIDDEN += (
    "logits",
    "outcome",
    "view",
    "locator",
    "map.6",
)  # the last: too large to be worth it
CODE_WIDTH = 64  # of the embedding of one code, before it is merged into a position
NUM_AGES = 9  # that the prior tells apart: 0, 1, 2, up to 4, 8, 16, 32, 64 dreamed steps, and more


class Past(NamedTuple):
    """What is known of the frames that a prediction starts from, besides what they show.

    Attributes:
        poses: of frames 0..T; P is 0 in worlds without one.
        known: which of these poses are known.
        age: of frames 0..T-1: for how many steps it was dreamed; 0: it was given.
        hidden: which of frames 0..T-1 can't be seen.
        older: frames that are looked at again; None: there are none.
    """

    poses: Float[Tensor, "B T+1 P"]
    known: Bool[Tensor, "B T+1"]
    age: Int[Tensor, "B T"]
    hidden: Bool[Tensor, "B T"]
    older: Older | None = None

    def steps(self, chosen: slice) -> "Past":
        """Of some of the predictions."""
        frames = slice(chosen.start, chosen.stop + 1)
        older = self.older and Older(*(part[:, chosen] for part in self.older))
        return Past(
            self.poses[:, frames],
            self.known[:, frames],
            self.age[:, chosen],
            self.hidden[:, chosen],
            older,
        )


class Prediction(NamedTuple):
    """What the prior says of frames 1..T, given frames 0..T-1 and their actions."""

    logits: Float[Tensor, "B T n K"]
    foretold: OutcomeLogits  # before the variables have changed
    outcomes: OutcomeLogits  # given their values at frames 1..T
    pose: Mixture | None  # of how frames 1..T moved; None in worlds without a pose
    located: Mixture | None  # of the poses of frames 1..T by what these show; likewise


class Outcome(NamedTuple):
    """One step of a dream, of each of B dreams."""

    codes: Int[Tensor, "B h w q"]
    reward: Float[Tensor, " B"]  # expected
    terminated: Float[Tensor, " B"]  # probability
    variables: Float[Tensor, "B V"]  # drawn
    pose: Float[Tensor, "B P"]  # drawn
    nats: Float[Tensor, " B"]  # a token: how unexpected the codes drawn were


class Here(NamedTuple):
    """Where the newest frames of B dreams are, and for how many steps they were dreamed."""

    pose: Float[Tensor, "B P"]
    known: Bool[Tensor, " B"]
    age: Int[Tensor, " B"]


class FrameGPT(nn.Module):
    """The prior that dreams: codes of the next frame, its reward, end and game variables.

    Args:
        world: sizes of the prior and of what it models.
    """

    def __init__(self, world: WorldModelConfig) -> None:
        super().__init__()
        config, tokenizer = world.prior, world.tokenizer
        self.config: FrameGPTConfig = config
        self.grid = tokenizer.grid
        self.num_codes, self.num_codebooks = tokenizer.num_codes, tokenizer.num_codebooks
        rows, columns = self.grid[0] // config.merge, self.grid[1] // config.merge
        if self.grid != (rows * config.merge, columns * config.merge):
            raise ValueError(f"blocks of {config.merge} tokens don't tile a grid of {self.grid}")
        if world.pose and config.map_width and config.window < RECENT:
            raise ValueError(f"with a pose the window must be at least {RECENT} frames")
        self.rotary = Rotary(config.width // config.heads, rows, columns)
        num_variables = len(world.variable_names)
        condition_size = world.actions.vector_size
        block_tokens = config.merge**2
        # One table for all codebooks: code k of codebook q is row q K + k.
        self.code = nn.Embedding(self.num_codebooks * self.num_codes, CODE_WIDTH)
        self.merge = nn.Linear(block_tokens * CODE_WIDTH, config.width)
        self.position = nn.Parameter(torch.empty(rows * columns, config.width))
        self.variable = linear(num_variables, config.width)
        self._posed_variables = [
            (v, world.pose.names.index(name))
            for v, name in enumerate(world.variable_names)
            if name in world.pose.names and config.map_width
        ]
        self.place = (
            Place(
                world.pose,
                num_actions=condition_size,
                num_positions=len(self.position),
                width=config.width,
                frame_width=self.grid[0] * self.grid[1] * CODE_WIDTH,
                map_width=config.map_width,
            )
            if world.pose and config.map_width
            else None
        )
        self.age = nn.Embedding(NUM_AGES, config.width) if config.tells_age else None
        self.unseen = (  # in the place of a frame that is hidden
            nn.Parameter(torch.zeros(config.width)) if config.tells_age else None
        )
        if self.age is not None:
            nn.init.zeros_(self.age.weight)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, condition_size, num_layers=config.layers)
            for _ in range(config.layers)
        )
        self.older_frames = None
        self.recalls = nn.ModuleDict()  # by the number of the block that each follows
        if config.recalled:
            space = None if self.place is None else self.place.space
            self.older_frames = OlderFrames(space, config.width)
            for i in {config.layers // 3, 2 * config.layers // 3}:
                self.recalls[str(i)] = Recall(config.width, config.heads)
        self.norm = ConditionalNorm(config.width, condition_size)
        # To the head: each position's part for its tokens, and the frame's codes nearby, which
        # a shift of the view moves by a token or two.
        self.split = nn.Linear(config.width, block_tokens * config.head_width)
        self.nearby = nn.Conv2d(CODE_WIDTH, config.head_width, 3, padding=1)
        self.head = TokenHead(
            num_tokens=self.grid[0] * self.grid[1] * self.num_codebooks,
            num_codes=self.num_codes,
            width=config.head_width,
            layers=config.head_layers,
            heads=config.head_heads,
            condition_size=condition_size,
        )
        self.next_code = nn.Linear(block_tokens * CODE_WIDTH, config.width)
        self.outcome = OutcomeHead(config.width, num_variables, config.num_bins, config.window)
        nn.init.normal_(self.code.weight)
        nn.init.normal_(self.position, std=0.1)
        # Game variables come in standardised and go out clipped to what the data has shown.
        self.variable_mean: Tensor
        self.variable_std: Tensor
        self.variable_low: Tensor
        self.variable_high: Tensor
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", 0.0), ("high", 0.0)):
            self.register_buffer(f"variable_{name}", torch.full((num_variables,), value))
        # No weight: it follows from the action space.
        self.mean_action: Tensor
        self.register_buffer("mean_action", mean_action(world.actions), persistent=False)
        self._fast_head: FastHead | None = None  # compiled weights, made when first needed

    def forward(
        self,
        codes: Int[Tensor, "B T h w q"],
        actions: Float[Tensor, "B T A"],
        variables: Float[Tensor, "B T V"],
        next_codes: Int[Tensor, "B T h w q"],
        next_variables: Float[Tensor, "B T V"] | None = None,
        past: Past | None = None,
    ) -> Prediction:
        """Predict frames 1..T, `next_codes` and `next_variables`, from frames 0..T-1.

        No row sees a later one, but for the pose of the frame that it predicts. Where the next
        variables aren't known, outcomes are as foretold.

        Args:
            past: None: frames were given, and poses are unknown.
        """
        past = self.given_past(codes) if past is None else past
        states, _ = self._backbone(codes, actions, variables, past)
        context = self._context(states, codes, past.hidden)
        logits = self.head(
            context.flatten(0, 1), next_codes.flatten(0, 1).flatten(1), actions.flatten(0, 1)
        )
        foretold = self._foretell(states, next_codes, self._recent(variables))
        outcomes = foretold
        if next_variables is not None:
            outcomes = self.once_arrived(foretold, variables, next_variables)
        pose = located = None
        if self.place is not None:
            shown = self._shown(codes, past.hidden)
            poses, known, taken = (
                last_of_each(sequence, 1 + RECENT)
                for sequence in (past.poses[:, :-1], past.known[:, :-1], actions)
            )
            pose = self.place.predict(poses, known, taken, shown)
            located = self.place.locator(self._whole(next_codes))
        return Prediction(logits.unflatten(0, codes.shape[:2]), foretold, outcomes, pose, located)

    def given_past(
        self,
        codes: Int[Tensor, "B T h w q"],
        poses: Float[Tensor, "B T+1 P"] | None = None,
    ) -> Past:
        """Of frames that were given and can be seen.

        Args:
            poses: None or P = 0: they are not known.
        """
        batch_size, num_frames = codes.shape[:2]
        none = torch.zeros(batch_size, num_frames + 1, dtype=torch.bool, device=codes.device)
        known = none
        if poses is None or self.place is None or not poses.shape[-1]:
            poses = torch.zeros(*none.shape, self.pose_size, device=codes.device)
        else:
            poses, known = self.place.space.inside(poses), poses.isfinite().all(-1)
        return Past(poses, known, none[:, 1:].long(), none[:, 1:])

    def whole_past(
        self,
        codes: Int[Tensor, "B T h w q"],
        poses: Float[Tensor, "B T+1 P"] | None = None,
        age: Int[Tensor, "B T"] | None = None,
    ) -> Past:
        """Of frames that a dream has been through since its first: it looks at the older ones of
        them again.

        Args:
            poses: NaN where they are not known; None or P = 0: none is.
            age: for how many steps each frame was dreamed; None: they were given.
        """
        past = self.given_past(codes, poses)
        if age is not None:
            past = past._replace(age=age)
        num_frames = codes.shape[1]
        times = torch.arange(KEYFRAME_STEPS - 1, num_frames, KEYFRAME_STEPS, device=codes.device)
        if not self.config.recalled or not len(times):
            return past
        now = torch.arange(num_frames, device=codes.device).expand(len(codes), -1)
        kept = Keyframes(
            codes[:, times],
            past.poses[:, times],
            past.known[:, times],
            past.age[:, times],
            times.expand(len(codes), -1),
        )
        usable = times <= now[..., None] - self.config.window
        older = self.look_back(kept, usable, now, past.poses[:, 1:], past.known[:, 1:])
        return past._replace(older=older)

    @torch.no_grad()
    def locate(self, codes: Int[Tensor, "B h w q"]) -> Float[Tensor, "B P"]:
        """The pose of each frame by what it shows. There must be a place."""
        assert self.place is not None
        return self.place.locator.locate(self._whole(codes[:, None])[:, 0])

    def _whole(self, codes: Int[Tensor, "B T h w q"]) -> Float[Tensor, "B T frame"]:
        """All that frames' codes say; what is learned of it leaves the codes' vectors alone."""
        return self._code_vectors(codes).detach().flatten(2)

    @property
    def pose_size(self) -> int:
        """P; 0 where no pose is used."""
        return 0 if self.place is None else len(self.place.space.spec)

    def foretell(
        self,
        codes: Int[Tensor, "B T h w q"],
        actions: Float[Tensor, "B T A"],
        variables: Float[Tensor, "B T V"],
        next_codes: Int[Tensor, "B T h w q"],
        past: Past | None = None,
    ) -> OutcomeLogits:
        """What comes with frames 1..T: `foretold` of `forward`, without the codes' logits."""
        past = self.given_past(codes) if past is None else past
        states, _ = self._backbone(codes, actions, variables, past)
        return self._foretell(states, next_codes, self._recent(variables))

    @torch.no_grad()
    def standardise_by(self, mean: Float[Tensor, " V"], std: Float[Tensor, " V"]) -> None:
        """Take variables in standardised by these. A prior that has learned with others goes on
        saying what it said; a new one, which has none yet, begins with these."""
        mean, std = mean.to(self.variable_mean), std.to(self.variable_std)
        scale, shift = std / self.variable_std, (mean - self.variable_mean) / self.variable_std
        is_new = bool((self.variable_mean == 0).all() and (self.variable_std == 1).all())
        self.variable_mean.copy_(mean)
        self.variable_std.copy_(std)
        if not is_new:
            self.variable.bias.add_(self.variable.weight @ shift)
            self.variable.weight.mul_(scale)
            self.outcome.standardise_anew(scale, shift)

    def draw_variables(
        self,
        foretold: OutcomeLogits,
        variables: Float[Tensor, "*batch V"],
        uniforms: Float[Tensor, "*batch V"],
        told: Float[Tensor, "*batch V"] | None = None,
    ) -> Float[Tensor, "*batch V"]:
        """The next variables, within what the data has shown.

        Args:
            uniforms: one number in [0, 1) for each.
            told: values that are known already; NaN where they are not.
        """
        after = variables.clone()
        for v in range(variables.shape[-1]):
            # Only what became of the variables before v tells of its change.
            logits = self.outcome.in_order(foretold, self._arrival(variables, after))
            change = self.outcome.draw(logits, 1 + v, uniforms[..., v])
            after[..., v] = (variables[..., v] + change).clamp(
                self.variable_low[v], self.variable_high[v]
            )
            if told is not None:
                after[..., v] = torch.where(told[..., v].isnan(), after[..., v], told[..., v])
        return after

    def change_chances(
        self, logits: OutcomeLogits, variables: Float[Tensor, "*batch V"]
    ) -> tuple[Float[Tensor, "*batch V"], Float[Tensor, "*batch V"]]:
        """The chances that each variable rises, and that it falls, within what the data has
        shown."""
        before = variables[..., None]
        low, high = self.variable_low[:, None], self.variable_high[:, None]
        after = (before + self.outcome.bins[1:]).clamp(low, high)
        chances = logits.values[..., 1:, :].softmax(-1)
        return (chances * (after > before)).sum(-1), (chances * (after < before)).sum(-1)

    def outcome_losses(
        self,
        outcomes: OutcomeLogits,
        reward: Float[Tensor, "*batch"],
        terminated: Float[Tensor, "*batch"],
        variables: Float[Tensor, "*batch V"],
        next_variables: Float[Tensor, "*batch V"],
        weights: Float[Tensor, "*batch"],
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, ""]]:
        """Nats a frame of the reward and each variable's change, and of the end."""
        anything = torch.full_like(reward[..., None], torch.inf)
        limits = (
            torch.cat([-anything, self.variable_low - variables], -1),
            torch.cat([anything, self.variable_high - variables], -1),
        )
        values = torch.cat([reward[..., None], next_variables - variables], -1)
        return self.outcome.losses(outcomes, values, terminated, weights, limits)

    def once_arrived(
        self,
        foretold: OutcomeLogits,
        variables: Float[Tensor, "*batch V"],
        next_variables: Float[Tensor, "*batch V"],
    ) -> OutcomeLogits:
        """Outcomes of steps on which the variables change so; each variable's change knows
        of those before it only."""
        return self.outcome.once_arrived(foretold, self._arrival(variables, next_variables))

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Matrices from one hidden layer to another: what Muon is for. Embeddings, what conditions
        norms, and what reads logits and outcomes are none."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if parameter.ndim == 2 and not any(part in name for part in NOT_HIDDEN)
        ]

    def no_memory(self, batch_size: int) -> Memory:
        """The memory of dreams that have seen nothing yet."""
        weight, c = self.merge.weight, self.config
        device, size, positions = weight.device, self.pose_size, len(self.position)
        kept = KEYFRAMES if c.recalled else 0
        none = torch.zeros(batch_size, c.window, dtype=torch.bool, device=device)
        no_keyframes = torch.zeros(batch_size, kept, dtype=torch.int64, device=device)
        return Memory(
            keys_values=weight.new_zeros(
                batch_size, c.layers, 2, c.heads, c.window, positions, c.width // c.heads
            ),
            variables=weight.new_zeros(batch_size, c.window, len(self.variable_mean)),
            poses=weight.new_zeros(batch_size, c.window, size),
            known=none,
            actions=weight.new_zeros(batch_size, c.window, len(self.mean_action)),
            filled=none.clone(),
            time=torch.zeros(batch_size, dtype=torch.int64, device=device),
            keyframes=Keyframes(
                codes=no_keyframes.new_zeros(
                    (batch_size, kept, *self.grid, self.num_codebooks), dtype=torch.int16
                ),
                poses=weight.new_zeros(batch_size, kept, size),
                known=no_keyframes.bool(),
                age=no_keyframes,
                times=no_keyframes - 1,
            ),
        )

    @torch.no_grad()
    def prefill(
        self,
        codes: Int[Tensor, "B T h w q"],
        actions: Float[Tensor, "B T A"],
        variables: Float[Tensor, "B T V"],
        past: Past | None = None,
    ) -> Memory:
        """The memory after T frames and the actions taken there; `past` as of `forward`."""
        batch_size, num_frames = codes.shape[:2]
        memory = self.no_memory(batch_size)
        if num_frames == 0:
            return memory
        past = self.given_past(codes) if past is None else past
        _, keys_values = self._backbone(codes, actions, variables, past)
        keys_values = keys_values.movedim(2, 0)
        window = self.config.window
        for t in range(max(0, num_frames - window), num_frames):
            memory.keys_values[:, :, :, :, t % window] = keys_values[:, :, :, :, t]
            memory.variables[:, t % window] = variables[:, t]
            memory.poses[:, t % window] = past.poses[:, t]
            memory.known[:, t % window] = past.known[:, t]
            memory.actions[:, t % window] = actions[:, t]
            memory.filled[:, t % window] = True
        if self.config.recalled:
            everyone = torch.arange(batch_size, device=codes.device)
            for t in range(num_frames):
                here = Here(past.poses[:, t], past.known[:, t], past.age[:, t])
                _keep(memory.keyframes, everyone, memory.time + t, codes[:, t], here)
        return replace(memory, time=memory.time + num_frames)

    @torch.no_grad()
    def step(
        self,
        memory: Memory,
        codes: Int[Tensor, "B h w q"],
        actions: Float[Tensor, "B A"],
        variables: Float[Tensor, "B V"],
        uniforms: Float[Tensor, "B numbers"],
        sampling: Sampling,
        here: Here | None = None,
        next_pose: Float[Tensor, "B P"] | None = None,
    ) -> tuple[Outcome, Memory]:
        """Dream one frame on.

        Args:
            memory: of the frames before; its storage is written over and passed on.
            codes, variables: the newest frame's.
            actions: taken there.
            uniforms: in [0, 1): one for each token of the frame, then one for each variable, then
                `num_pose_uniforms` for the pose.
            here: where the newest frame is; None: nobody knows, and it was given.
            next_pose: of the next frame, where the pose is known; None: it is drawn.
        """
        here = self.nowhere(codes) if here is None else here
        num_tokens, num_variables = self.head.num_tokens, variables.shape[-1]
        for_pose = uniforms[:, num_tokens + num_variables :]
        if next_pose is None:
            next_pose = self._next_pose(memory, codes, actions, here, for_pose)
        past = Past(
            torch.stack([here.pose, next_pose], 1),
            here.known[:, None].expand(-1, 2),
            here.age[:, None],
            torch.zeros_like(here.known)[:, None],
            self._older(memory, here, next_pose),
        )
        undirected = None
        if sampling.guidance:  # looked at first: what is remembered is what was done
            any_action = self.mean_action.expand_as(actions)
            states = self._newest(memory, codes, any_action, variables, past)
            context = self._context(states, codes[:, None])[:, 0]
            undirected = Undirected(context, any_action, sampling.guidance)
        states = self._newest(memory, codes, actions, variables, past)
        context = self._context(states, codes[:, None])[:, 0]
        flat, nats = self._draw(context, actions, uniforms[:, :num_tokens], sampling, undirected)
        next_codes = flat.view_as(codes)
        foretold = self._foretell(states, next_codes[:, None], self._remembered(memory)[:, None])
        before = variables[:, None]
        for_variables = uniforms[:, None, num_tokens : num_tokens + num_variables]
        told = self._told_by_pose(here, next_pose)[:, None]
        after = self.draw_variables(foretold, before, for_variables, told)
        logits = self.once_arrived(foretold, before, after)
        outcome = Outcome(
            codes=next_codes,
            reward=self.outcome.expected(logits, 0)[:, 0],
            terminated=logits.terminated[:, 0].sigmoid(),
            variables=after[:, 0],
            pose=next_pose,
            nats=nats,
        )
        return outcome, replace(memory, time=memory.time + 1)

    @property
    def num_pose_uniforms(self) -> int:
        """Random numbers that a next pose takes."""
        return 0 if self.place is None else 1 + self.pose_size

    def nowhere(self, codes: Int[Tensor, "B h w q"]) -> Here:
        """Of frames that were given, at poses that nobody tells."""
        unknown = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
        pose = torch.zeros(len(codes), self.pose_size, device=codes.device)
        return Here(pose, unknown, unknown.long())

    def _told_by_pose(self, here: Here, next_pose: Tensor) -> Float[Tensor, "B V"]:
        """Variables that are numbers of the pose, where it is known; NaN for others."""
        told = next_pose.new_full((len(next_pose), len(self.variable_mean)), torch.nan)
        for v, p in self._posed_variables:
            told[:, v] = torch.where(here.known, next_pose[:, p], torch.nan)
        return told

    def _next_pose(
        self, memory: Memory, codes: Tensor, actions: Tensor, here: Here, uniforms: Tensor
    ) -> Float[Tensor, "B P"]:
        """Drawn; where the pose is not known it stays what it is."""
        if self.place is None:
            return here.pose
        poses, known, taken = (
            torch.cat([last, newest[:, None]], 1)
            for last, newest in zip(
                self._last(memory, RECENT), (here.pose, here.known, actions), strict=True
            )
        )
        shown = self._shown(codes[:, None], torch.zeros_like(here.known)[:, None])[:, 0]
        mixture = self.place.predict(poses, known, taken, shown)
        drawn = self.place.head.draw(mixture, here.pose, uniforms)
        return torch.where(here.known[:, None], drawn, here.pose)

    def _last(self, memory: Memory, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Poses, which of them are known, and actions of the last frames remembered, the newest
        last; zeros where there were none."""
        window, device = self.config.window, memory.time.device
        slots = (memory.time[:, None] + torch.arange(-count, 0, device=device)) % window
        dreams = torch.arange(len(slots), device=device)[:, None]
        there = memory.filled[dreams, slots]
        # The ring may be shorter: what was overwritten is no longer told.
        there = there & (torch.arange(-count, 0, device=device) >= -window)
        poses = torch.where(there[..., None], memory.poses[dreams, slots], 0.0)
        taken = torch.where(there[..., None], memory.actions[dreams, slots], 0.0)
        return poses, memory.known[dreams, slots] & there, taken

    def _newest(
        self, memory: Memory, codes: Tensor, actions: Tensor, variables: Tensor, past: Past
    ) -> Float[Tensor, "B 1 P D"]:
        """States of the newest frame, which is written into the memory's storage."""
        cosines, sines = self.rotary.turns(memory.time)  # (B, P, hs / 2)
        cosines, sines = cosines[:, None], sines[:, None]
        dreams = torch.arange(len(codes), device=codes.device)
        slots = memory.time % self.config.window
        memory.filled[dreams, slots] = True
        memory.variables[dreams, slots] = variables
        memory.poses[dreams, slots] = past.poses[:, 0]
        memory.known[dreams, slots] = past.known[:, 0]
        memory.actions[dreams, slots] = actions
        if self.config.recalled:
            here = Here(past.poses[:, 0], past.known[:, 0], past.age[:, 0])
            _keep(memory.keyframes, dreams, memory.time, codes, here)
        recalled = self._recalled(past)
        positions_filled = memory.filled.repeat_interleave(len(self.position), 1)[:, None, None]
        x = self._embed(codes[:, None], variables[:, None], past)[:, 0]
        for i, block in enumerate(self.blocks):
            all_keys, all_values = memory.keys_values[:, i].unbind(1)

            def attend(q, k, v, all_keys=all_keys, all_values=all_values) -> Tensor:
                all_keys[dreams, :, slots] = turn(k, cosines, sines)
                all_values[dreams, :, slots] = v
                return F.scaled_dot_product_attention(
                    turn(q, cosines, sines),
                    all_keys.flatten(2, 3),
                    all_values.flatten(2, 3),
                    attn_mask=positions_filled,
                )

            x = block(x, actions, attend)
            if recalled is not None and str(i) in self.recalls:
                x = self.recalls[str(i)](x, *(part[:, 0] for part in recalled))
        return self.norm(x, actions)[:, None]

    def _draw(
        self,
        context: Tensor,
        actions: Tensor,
        uniforms: Tensor,
        sampling: Sampling,
        undirected: Undirected | None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens of the next frames, by the compiled head for one dream on a CPU."""
        if len(context) > 1 or context.device.type != "cpu":
            return self.head.sample(context, actions, uniforms, sampling, undirected)
        if self._fast_head is None:
            self._fast_head = FastHead(self.head)
        return self._fast_head.sample(context, actions, uniforms, sampling, undirected)

    def train(self, mode: bool = True) -> "FrameGPT":
        self._fast_head = None  # its copies of the weights are about to be out of date
        return super().train(mode)

    def _backbone(
        self, codes: Tensor, actions: Tensor, variables: Tensor, past: Past
    ) -> tuple[Float[Tensor, "B T P D"], Float[Tensor, "L two B nh T P hs"]]:
        """States of every row, and every layer's turned keys and values."""
        num_frames = codes.shape[1]
        num_positions = len(self.position)
        time = torch.arange(num_frames, device=codes.device)
        cosines, sines = self.rotary.turns(time)  # (T, P, hs / 2)
        visible = frames_visible(num_frames, self.config.window).to(codes.device)
        mask = visible.repeat_interleave(num_positions, 0).repeat_interleave(num_positions, 1)
        remembered = []

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B, T, nh, P, hs) each
            q, k = (turn(x, cosines[:, None], sines[:, None]).transpose(1, 2) for x in (q, k))
            v = v.transpose(1, 2)  # (B, nh, T, P, hs)
            remembered.append(torch.stack([k, v]))
            y = attend_where(mask, *(x.flatten(2, 3) for x in (q, k, v)))
            return y.unflatten(2, (num_frames, num_positions)).transpose(1, 2)

        x = self._embed(codes, variables, past)
        recalled = self._recalled(past)
        for i, block in enumerate(self.blocks):
            x = block(x, actions, attend)
            if recalled is not None and str(i) in self.recalls:
                x = self.recalls[str(i)](x, *recalled)
        return self.norm(x, actions), torch.stack(remembered)

    def _older(self, memory: Memory, here: Here, next_pose: Tensor) -> Older | None:
        """Frames before the window that the next frame is drawn from, too."""
        if not self.config.recalled:
            return None
        kept, now = memory.keyframes, memory.time[:, None]
        used = min(KEYFRAMES, int(now.max()) // KEYFRAME_STEPS + 1)
        times = kept.times[:, :used]
        is_whole = times % KEYFRAME_STEPS == KEYFRAME_STEPS - 1  # no later frame takes its place
        usable = (times >= 0) & is_whole & (times <= now - self.config.window)
        return self.look_back(
            Keyframes(
                kept.codes[:, :used],
                kept.poses[:, :used],
                kept.known[:, :used],
                kept.age[:, :used],
                times,
            ),
            usable[:, None],
            now,
            next_pose[:, None],
            here.known[:, None],
        )

    def look_back(
        self,
        kept: Keyframes,
        usable: Bool[Tensor, "B T K"],
        now: Int[Tensor, "B T"],
        next_poses: Float[Tensor, "B T P"],
        next_known: Bool[Tensor, "B T"],
    ) -> Older:
        """Those of K frames that each of T predictions looks at again.

        Args:
            usable: which may be chosen for which prediction.
            now: time of the newest frame of each prediction.
        """
        index, there = choose_older(
            Candidates(kept.poses, kept.known, kept.times, usable),
            self.config.recalled,
            now=now,
            window=self.config.window,
            space=None if self.place is None else self.place.space,
            next_poses=next_poses,
            next_known=next_known,
        )
        rows = torch.arange(len(index), device=index.device)[:, None, None]
        return Older(
            codes=kept.codes[rows, index].long(),
            poses=kept.poses[rows, index],
            known=kept.known[rows, index],
            age=kept.age[rows, index],
            since=now[..., None] - kept.times[rows, index],
            there=there,
        )

    def _recalled(self, past: Past) -> tuple[Tensor, Tensor] | None:
        """What older frames show, (B, T, M P, D), and which of this there is."""
        older = past.older
        if self.older_frames is None:
            return None
        if older is None:  # as where none of them is there
            none = past.known[:, 1:, None][..., :0]
            return self.position.new_zeros(*none.shape, self.config.width), none
        shown = self.merge(self._blocks_of(self._code_vectors(older.codes.flatten(1, 2))))
        shown = shown.unflatten(1, older.codes.shape[1:3]) + self.position
        where = self.older_frames(older, past.poses[:, 1:], past.known[:, 1:])
        if self.age is not None:
            where = where + self.age(_age_group(older.age))
        there = older.there[..., None].expand(*older.there.shape, len(self.position))
        return (shown + where[..., None, :]).flatten(2, 3), there.flatten(2, 3)

    def _code_vectors(self, codes: Tensor) -> Float[Tensor, "B T h w E"]:
        offsets = torch.arange(self.num_codebooks, device=codes.device) * self.num_codes
        return self.code(codes + offsets).sum(-2)

    def _blocks_of(self, vectors: Float[Tensor, "B T h w E"]) -> Float[Tensor, "B T P mmE"]:
        m = self.config.merge
        rows, columns = self.grid[0] // m, self.grid[1] // m
        tiles = vectors.unflatten(3, (columns, m)).unflatten(2, (rows, m))
        return tiles.transpose(3, 4).flatten(4, 6).flatten(2, 3)

    def _embed(self, codes: Tensor, variables: Tensor, past: Past) -> Float[Tensor, "B T P D"]:
        x = self.merge(self._blocks_of(self._code_vectors(codes)))
        if self.unseen is not None:
            x = torch.where(past.hidden[..., None, None], self.unseen, x)
        x = x + self.position + self.variable(self._standardised(variables))[:, :, None]
        if self.age is not None:
            x = x + self.age(_age_group(past.age))[:, :, None]
        if self.place is not None:
            x = x + self.place.embed(past.poses, past.known)
        return x

    def _shown(self, codes: Tensor, hidden: Tensor) -> Float[Tensor, "B T P D"]:
        """Frames as the backbone takes them in; zeros where they are hidden."""
        x = self.merge(self._blocks_of(self._code_vectors(codes)))
        return torch.where(hidden[..., None, None], 0.0, x)

    def _standardised(self, variables: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        return (variables - self.variable_mean) / self.variable_std

    def _context(
        self, states: Tensor, codes: Tensor, hidden: Tensor | None = None
    ) -> Float[Tensor, "B T n D"]:
        """What the head is told of each token of the next frame."""
        m, (height, width) = self.config.merge, self.grid
        tiles = self.split(states).unflatten(-1, (m, m, -1)).unflatten(2, (height // m, width // m))
        far = tiles.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # (B, T, h, w, D) after the next
        vectors = self._code_vectors(codes)
        if hidden is not None:
            vectors = torch.where(hidden[..., None, None, None], 0.0, vectors)
        vectors = vectors.flatten(0, 1).permute(0, 3, 1, 2)
        near = self.nearby(vectors).permute(0, 2, 3, 1).unflatten(0, codes.shape[:2])
        context = far.reshape(near.shape) + near
        return context.flatten(2, 3).repeat_interleave(self.num_codebooks, 2)

    def _arrival(
        self, variables: Float[Tensor, "*batch V"], next_variables: Float[Tensor, "*batch V"]
    ) -> Float[Tensor, "*batch features V"]:
        """What the outcomes are told of each variable's change, in `ARRIVAL_FEATURES` numbers."""
        features = [
            self._standardised(next_variables),
            (next_variables - variables) / self.variable_std,
            (next_variables <= self.variable_low).float(),
            (next_variables >= self.variable_high).float(),
        ]
        return torch.stack(features, -2)

    def _recent(self, variables: Float[Tensor, "B T V"]) -> Float[Tensor, "B T changes"]:
        """What the outcomes after each frame are told of the variables up to it."""
        time, window = torch.arange(variables.shape[1]), self.config.window
        known = time[:, None] + torch.arange(window) >= window - 1  # (T, window), the newest last
        padded = F.pad(self._standardised(variables), (0, 0, window - 1, 0))
        last = padded.unfold(1, window, 1).mT  # (B, T, window, V)
        return recent_changes(last, known.to(last.device).expand(last.shape[:-1]))

    def _remembered(self, memory: Memory) -> Float[Tensor, "B changes"]:
        """`_recent` at the newest frame of a memory."""
        window, device = self.config.window, memory.time.device
        slots = (memory.time[:, None] + torch.arange(1, window + 1, device=device)) % window
        dreams = torch.arange(len(slots), device=device)[:, None]
        standardised = self._standardised(memory.variables[dreams, slots])
        return recent_changes(standardised, memory.filled[dreams, slots])

    def _foretell(
        self, states: Tensor, next_codes: Tensor, recent: Float[Tensor, "B T changes"]
    ) -> OutcomeLogits:
        arrived = self.next_code(self._blocks_of(self._code_vectors(next_codes)))
        return self.outcome(states + arrived, recent)


def _age_group(age: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """0 of what was given; 1, 2, 3 to 4, 5 to 8 and so on steps have a number each."""
    group = 1 + age.clamp(min=1).double().log2().ceil().long()
    return torch.where(age > 0, group.clamp(max=NUM_AGES - 1), 0)


def _keep(
    keyframes: Keyframes,
    dreams: Int[Tensor, " B"],
    time: Int[Tensor, " B"],
    codes: Int[Tensor, "B h w q"],
    here: Here,
) -> None:
    """Write the frames of this time into the keyframes' storage."""
    slots = time // KEYFRAME_STEPS % KEYFRAMES
    keyframes.codes[dreams, slots] = codes.to(keyframes.codes.dtype)
    keyframes.poses[dreams, slots] = here.pose
    keyframes.known[dreams, slots] = here.known
    keyframes.age[dreams, slots] = here.age
    keyframes.times[dreams, slots] = time
