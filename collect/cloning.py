"""Train a stable-baselines3 policy to imitate a bot from frames alone.

DAgger (Ross et al. 2011): the bot plays the first games; then the current policy plays more and
more of them, and the bot labels every step with the action that it would have taken.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from torch.nn import functional as F

from collect.recorder import Bot
from collect.rewards import Rule
from envs.policy import FramePolicy
from envs.trust import remember
from worldmodel import randomness

FRAME_STACK = 2  # frames that a policy sees
NUM_ROUNDS = 6
STEPS_A_ROUND = 25_000
BATCHES_A_ROUND = 1_500
BATCH_SIZE = 256
LEARNING_RATE = 5e-4
VALUE_WEIGHT = 0.05  # the value is learned too, so that PPO can continue from here


@dataclass
class Lessons:
    """Frames, the bot's action for each, and the return that followed.

    Attributes:
        frames: uint8 (H, W, 3), all games in sequence.
        steps_before: number of steps before each frame in its game.
        actions: the bot's.
        returns: discounted, of the actions that were taken.
    """

    frames: list[np.ndarray] = field(default_factory=list)
    steps_before: list[int] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frames)

    def stacked(self, at: np.ndarray) -> torch.Tensor:
        """uint8 (len(at), 3 * FRAME_STACK, H, W): each frame after those before it, black before
        a game's first, as `FramePolicy` sees them."""
        black = np.zeros_like(self.frames[0])
        stacks = [
            np.concatenate(
                [
                    self.frames[i - back] if self.steps_before[i] >= back else black
                    for back in reversed(range(FRAME_STACK))
                ],
                axis=-1,
            )
            for i in at
        ]
        return torch.from_numpy(np.stack(stacks)).permute(0, 3, 1, 2)


def clone_bot(
    model: PPO,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    bot: Bot,
    path: Path,
    *,
    rule: Rule | None = None,
    seed: int,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> None:
    """Train `model` to do what the bot does and save it to `path` atomically.

    A call that was interrupted resumes after its last finished round. The policy of that round is
    on disk but its lessons are not, so a resumed run is not reproducible to the bit.

    Args:
        model: on stacked frames, new.
        rule: the reward that PPO will continue with; None: the environment's own.
        on_progress: called with the fraction that is done.
    """
    first_round = 0
    for saved in _round_files(path)[-1:]:
        model.set_parameters(str(saved), device="cpu")
        first_round = int(saved.stem[-2:])
    env = make_env()
    try:
        cloning = _Cloning(model, env, bot, rule, seed)
        for number in range(first_round, NUM_ROUNDS):
            # The round is part of the name, so a kill cannot separate it from the policy.
            student = path.with_name(f"cloning-{number:02d}.zip")
            save_whole(model, student)
            cloning.play(number, student, lambda x, n=number: on_progress((n + x / 2) / NUM_ROUNDS))
            cloning.fit(number, lambda x, n=number: on_progress((n + 0.5 + x / 2) / NUM_ROUNDS))
    finally:
        env.close()
    save_whole(model, path)
    for saved in _round_files(path):
        saved.unlink()


def _round_files(path: Path) -> list[Path]:
    """The policies that rounds began with, in order."""
    return sorted(path.parent.glob("cloning-[0-9][0-9].zip"))


class _Cloning:
    """A model that learns from a bot, and the lessons so far."""

    def __init__(
        self, model: PPO, env: gymnasium.Env[Any, Any], bot: Bot, rule: Rule | None, seed: int
    ) -> None:
        self.model, self.env, self.teacher, self.rule, self.seed = model, env, bot(env), rule, seed
        self.lessons = Lessons()

    def play(self, number: int, student_path: Path, on_progress: Callable[[float], None]) -> None:
        """Add a round's games to the lessons; the student plays more of them in later rounds."""
        student = FramePolicy(student_path, trusted=False, seed=self.seed)
        rng = randomness.generator(self.seed, "cloning: who plays", number)
        lessons, enough, game = self.lessons, len(self.lessons) + STEPS_A_ROUND, 0
        while len(lessons) < enough:
            path = ("cloning: game", number, game)
            game += 1
            student_plays = rng.random() < number / (NUM_ROUNDS - 1)
            frame, before = self.env.reset(seed=randomness.integer(self.seed, *path, "environment"))
            self.teacher.reset(seed=randomness.integer(self.seed, *path, "teacher"))
            student.reset(seed=randomness.integer(self.seed, *path, "student"))
            rewards: list[float] = []
            over = False
            while not over and len(lessons) < enough:
                label = self.teacher.act(frame)
                action = student.act(frame) if student_plays else label
                lessons.frames.append(frame)
                lessons.steps_before.append(len(rewards))
                lessons.actions.append(label)
                frame, reward, terminated, truncated, info = self.env.step(action)
                if self.rule is not None:
                    reward = self.rule(before, info, float(reward), terminated)
                rewards.append(float(reward))
                before, over = info, terminated or truncated
                on_progress(1 - (enough - len(lessons)) / STEPS_A_ROUND)
            lessons.returns += _discounted(rewards, self.model.gamma)

    def fit(self, number: int, on_progress: Callable[[float], None]) -> None:
        """Train the policy on all lessons so far."""
        policy, lessons = self.model.policy, self.lessons
        policy.set_training_mode(True)
        optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, BATCHES_A_ROUND)
        rng = randomness.generator(self.seed, "cloning batches", number)
        actions, returns = np.stack(lessons.actions), np.asarray(lessons.returns, np.float32)
        for batch in range(BATCHES_A_ROUND):
            at = rng.integers(len(lessons), size=BATCH_SIZE)
            values, log_prob, _ = policy.evaluate_actions(
                lessons.stacked(at), torch.from_numpy(actions[at])
            )
            value_loss = F.mse_loss(values[:, 0], torch.from_numpy(returns[at]))
            loss = VALUE_WEIGHT * value_loss - log_prob.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            on_progress((batch + 1) / BATCHES_A_ROUND)
        policy.set_training_mode(False)


def _discounted(rewards: list[float], gamma: float) -> list[float]:
    total, returns = 0.0, []
    for reward in reversed(rewards):
        total = reward + gamma * total
        returns.append(total)
    return returns[::-1]


def save_whole(model: BaseAlgorithm, path: Path) -> None:
    """Save atomically: a kill leaves the old file or the new one. The file is trusted."""
    unfinished = path.with_suffix(".unfinished.zip")
    model.save(unfinished)
    remember(unfinished)
    os.replace(unfinished, path)
