"""Teach a stable-baselines3 policy what a bot does, by looking at frames alone.

DAgger (Ross et al. 2011): first the bot plays; then more and more games are played by the policy
as it is so far, and the bot says at every step what it would have done.
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

from collect.recorder import Actor, Bot
from envs.policy import FramePolicy
from envs.trust import remember
from worldmodel import randomness

FRAME_STACK = 2  # frames that a policy looks at
NUM_ROUNDS = 6
STEPS_A_ROUND = 25_000
BATCHES_A_ROUND = 1_500
BATCH_SIZE = 256
LEARNING_RATE = 5e-4
VALUE_WEIGHT = 0.05  # the value is learned along, so that PPO can go on from here


@dataclass
class Lessons:
    """Frames seen, what the bot would have done there, and what came of it.

    Attributes:
        frames: uint8 (H, W, 3), of all games one after the other.
        steps_before: of each frame, in its game.
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
        """uint8 (len(at), 3 * FRAME_STACK, H, W): each frame behind those before it, black before
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
    seed: int,
    on_progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Teach `model` what the bot does and save it to `path`, whole or not at all.

    A call that was stopped goes on behind its last finished round (its lessons are gone, what the
    policy learned from them is not): such a run can't be repeated to the bit.

    Args:
        model: on stacked frames, new.
        make_env: the environment with the rewards that PPO will go on with.
        on_progress: called with the share that is done.
    """
    first_round = 0
    for kept in _rounds_kept(path)[-1:]:
        model.set_parameters(str(kept), device="cpu")
        first_round = int(kept.stem[-2:])
    lessons, env = Lessons(), make_env()
    try:
        teacher = bot(env)
        for number in range(first_round, NUM_ROUNDS):
            # What the games are played with; its name says the round, so that a kill can't part
            # the two.
            so_far = path.with_name(f"cloning-{number:02d}.zip")
            save_whole(model, so_far)
            share_of_policy = number / (NUM_ROUNDS - 1)
            _play(
                env,
                lessons,
                teacher,
                FramePolicy(so_far, trusted=False, seed=seed),
                share_of_policy=share_of_policy,
                gamma=model.gamma,
                seed=seed,
                number=number,
                on_step=lambda done, n=number: on_progress((n + done / 2) / NUM_ROUNDS),
            )
            _fit(
                model,
                lessons,
                seed=seed,
                number=number,
                on_batch=lambda done, n=number: on_progress((n + 0.5 + done / 2) / NUM_ROUNDS),
            )
    finally:
        env.close()
    save_whole(model, path)
    for kept in _rounds_kept(path):
        kept.unlink()


def _rounds_kept(path: Path) -> list[Path]:
    """The policies that rounds began with, in order."""
    return sorted(path.parent.glob("cloning-[0-9][0-9].zip"))


def _play(
    env: gymnasium.Env[Any, Any],
    lessons: Lessons,
    teacher: Actor,
    student: FramePolicy,
    *,
    share_of_policy: float,
    gamma: float,
    seed: int,
    number: int,
    on_step: Callable[[float], None],
) -> None:
    """Add games to the lessons until the round's steps are played."""
    rng = randomness.generator(seed, "cloning: who plays", number)
    enough = len(lessons) + STEPS_A_ROUND
    game = 0
    while len(lessons) < enough:
        path = ("cloning: game", number, game)
        env_seed = randomness.integer(seed, *path, "environment")
        game += 1
        student_plays = rng.random() < share_of_policy
        frame, _ = env.reset(seed=env_seed)
        teacher.reset(seed=randomness.integer(seed, *path, "teacher"))
        student.reset(seed=randomness.integer(seed, *path, "student"))
        rewards: list[float] = []
        over = False
        while not over and len(lessons) < enough:
            told = teacher.act(frame)
            taken = student.act(frame) if student_plays else told
            lessons.frames.append(frame)
            lessons.steps_before.append(len(rewards))
            lessons.actions.append(told)
            frame, reward, terminated, truncated, _ = env.step(taken)
            rewards.append(float(reward))
            over = terminated or truncated
            on_step(1 - (enough - len(lessons)) / STEPS_A_ROUND)
        lessons.returns += _discounted(rewards, gamma)


def _discounted(rewards: list[float], gamma: float) -> list[float]:
    total, returns = 0.0, []
    for reward in reversed(rewards):
        total = reward + gamma * total
        returns.append(total)
    return returns[::-1]


def _fit(
    model: PPO,
    lessons: Lessons,
    *,
    seed: int,
    number: int,
    on_batch: Callable[[float], None],
) -> None:
    """Train the policy on all lessons so far."""
    policy = model.policy
    policy.set_training_mode(True)
    optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, BATCHES_A_ROUND)
    rng = randomness.generator(seed, "cloning batches", number)
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
        on_batch((batch + 1) / BATCHES_A_ROUND)
    policy.set_training_mode(False)


def save_whole(model: BaseAlgorithm, path: Path) -> None:
    """Save so that a kill leaves the old file or the new one, never half of one; it is trusted."""
    unfinished = path.with_suffix(".unfinished.zip")
    model.save(unfinished)
    remember(unfinished)
    os.replace(unfinished, path)
