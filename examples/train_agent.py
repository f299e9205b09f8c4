"""Train an agent in dreams, then try it in the real game: python -m examples.train_agent

PPO of stable-baselines3 learns in a batch of dreams alone. Its policy is saved, and then plays real
games beside a random player. `python -m collect.transfer` does the same with more care: several
seeds, snapshots, and PPO in the real game for comparison.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from collect.cloning import save_whole
from collect.policies import FRAME_RECIPE, rewarded, stacked_frames
from collect.transfer import STEPS_A_MINUTE
from collect.transfer_worlds import DreamWorlds, RandomPlayer
from envs.sb3 import DreamVecEnv
from worldmodel.command import (
    check_numbers,
    duration,
    parse_options,
    progress_bar,
    python_command,
    run_command,
    say,
)
from worldmodel.errors import UserError
from worldmodel.storage.files import refuse_existing

REAL_GAMES_AT_ONCE = 4


@dataclass(frozen=True)
class TrainAgent:
    """Train an agent in dreams, and try it in the real game."""

    dream: str = "dream-doom"
    """A shipped name, a folder, or a Hugging Face Hub id."""
    steps: int = 100_000
    """Steps to learn for, in all dreams together; rounded up to whole rollouts of 128 in each."""
    envs: int = 16
    """Number of dreams in the batch."""
    horizon: int = 50
    """Steps after which a dream is cut off: long ones drift away from the game."""
    games: int = 20
    """Real games for each player."""
    out: Path = Path("runs/agent")
    """Folder of the policy."""
    seed: int = 0
    """Seed of the dreams and of PPO."""
    overwrite: bool = False
    """Replace a policy in the folder."""


def main() -> None:
    options = parse_options(TrainAgent, "examples.train_agent", __doc__)
    run_command(lambda: train_agent(options), stopped="stopped")


def train_agent(options: TrainAgent) -> tuple[float, float]:
    """Returns the mean scores in the real game: of a random player, and of the agent.

    Raises:
        UserError: there is no such dream, its game can't be made, an option is out of range, or the
            folder has a policy or can't be written to.
    """
    check_numbers(options, steps=1, envs=1, horizon=1, games=1, seed=0)
    path = options.out / "policy.zip"
    refuse_existing(path, overwrite=options.overwrite)
    options.out.mkdir(parents=True, exist_ok=True)  # now: not after half an hour of learning
    if not os.access(options.out, os.W_OK):
        raise UserError(f"{options.out} may not be written to: choose another --out")
    worlds = DreamWorlds(options.dream, None)  # the dream, and the game that it was recorded in
    worlds.check([])
    minutes = duration(options.steps / STEPS_A_MINUTE * 60)
    say(f"learning for {options.steps:,} steps in dreams: about {minutes} on one core")
    dreams = DreamVecEnv(options.envs, checkpoint=options.dream, horizon=options.horizon)
    model = learn(dreams, worlds, options)
    save_whole(model, path)
    before, after = (
        score(player, worlds.scoring("real", REAL_GAMES_AT_ONCE), options)
        for player in (RandomPlayer(dreams.action_space, REAL_GAMES_AT_ONCE), model)
    )
    print(f"mean score in {options.games} real games: a random player {before:.1f}, ", end="")
    print(f"trained in dreams {after:.1f}")
    print(f"watch it: {python_command('play', '--env', options.dream, '--policy', str(path))}")
    return before, after


def learn(dreams: VecEnv, worlds: DreamWorlds, options: TrainAgent) -> PPO:
    """Learn from the last few frames, and from the rewards that suit the game: in Health Gathering
    those of medikits, since its own say only that the player lives."""
    recipe = FRAME_RECIPE | {"batch_size": FRAME_RECIPE["n_steps"] * options.envs // 4}
    environments = stacked_frames(rewarded(dreams, worlds.rule))  # monitored: SB3 prints returns
    model = PPO("CnnPolicy", environments, **recipe, seed=options.seed, device="cpu", verbose=1)
    with progress_bar() as bar:
        task = bar.add_task("learning in dreams", total=options.steps)

        def show(*_: object) -> bool:
            bar.update(task, completed=model.num_timesteps)
            return True  # continue

        model.learn(options.steps, callback=show)
    return model


def score(player: PPO | RandomPlayer, games: VecEnv, options: TrainAgent) -> float:
    """The mean return of real games, by the game's own rewards. Closes them."""
    games.seed(options.seed)
    with progress_bar(transient=True) as bar:
        task = bar.add_task("playing real games", total=options.games)
        returns, _ = evaluate_policy(
            player,  # pyright: ignore[reportArgumentType]
            stacked_frames(games),
            n_eval_episodes=options.games,
            deterministic=False,
            callback=lambda state, _: bar.advance(task, bool(state["done"])),
            return_episode_rewards=True,
        )
    games.close()
    return float(np.mean(returns))


if __name__ == "__main__":
    main()
