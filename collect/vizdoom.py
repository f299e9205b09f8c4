"""Record a ViZDoom scenario: python -m collect.vizdoom --scenario hgs --out data/doom-hgs

Trains a policy when none is given, measures it beside a random one, then records episodes with
parallel workers. If it is interrupted, the same command resumes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from collect.battle2_bot import Battle2Bot
from collect.explorer import Explorer
from collect.recorder import BOT, BOT_WITH_NOISE, EXPLORER, POLICY, POLICY_WITH_NOISE, RANDOM
from collect.recording import Options, World, record_set
from collect.rewards import battle_reward, dodging_reward, pickup_reward
from collect.score import Measure
from collect.training import Training
from worldmodel.command import run_command
from worldmodel.data import DatasetInfo, Episode
from worldmodel.errors import UserError

# The noise takes a world model to places where nobody would go, and covers every action.
WITH_POLICY = {POLICY: 0.45, POLICY_WITH_NOISE: 0.35, RANDOM: 0.2}
# Exploring players see the level from everywhere, and come back to what they have seen.
EXPLORING = {EXPLORER: 0.45, POLICY: 0.15, POLICY_WITH_NOISE: 0.2, RANDOM: 0.2}
WITH_BOT = {
    EXPLORER: 0.4,
    BOT: 0.1,
    BOT_WITH_NOISE: 0.1,
    POLICY: 0.1,
    POLICY_WITH_NOISE: 0.1,
    RANDOM: 0.2,
}


@dataclass(frozen=True)
class Collect(Options):
    """Record a ViZDoom scenario, played by a trained policy, by that policy with noise, and at
    random. If it is interrupted, the same command resumes."""

    scenario: str = "hgs"
    """What to play. hgs: Health Gathering Supreme; take-cover: Take Cover; battle2: Battle2, whose
    policy first learns from a bot that is told what is on the screen."""
    length: int = 100
    """Most steps an episode; 8.75 steps are a second."""
    out: Path = Path("data/doom-SCENARIO")
    """Folder of the data set; SCENARIO stands for the scenario's name."""
    train_steps: int | None = None
    """Environment steps of PPO, in all. Default: 500,000 for hgs, 300,000 for take-cover, 150,000
    for battle2."""


def main() -> None:
    options = tyro.cli(Collect, prog="python -m collect.vizdoom", description=__doc__)
    run_command(lambda: collect(options))


def collect(options: Collect) -> None:
    """Do what `Collect` says. Raises UserError as `record_set` does."""
    if options.scenario not in SCENARIOS:
        known = ", ".join(SCENARIOS)
        raise UserError(f"unknown scenario {options.scenario!r}; the known ones are: {known}")
    out = Path(str(options.out).replace("SCENARIO", options.scenario))
    world = SCENARIOS[options.scenario]
    if options.train_steps is not None:
        assert world.training is not None
        world = replace(world, training=replace(world.training, num_steps=options.train_steps))
    record_set(replace(options, out=out), world)


def _gained(game: Episode, info: DatasetInfo, name: str) -> float:
    """What a variable rose by, falls left out."""
    changes = np.diff(game.variables[:, info.variable_names.index(name)])
    return float(changes[changes > 0].sum())


def _tics(game: Episode, info: DatasetInfo) -> float:
    return info.frame_skip * game.length


SURVIVED = Measure(lambda game, info: float(game.truncated[-1]))
SCENARIOS = {
    "hgs": World(
        env_id="DoomHealthGatheringSupreme-v0",
        env_kwargs={},
        shares=EXPLORING,
        explorer=Explorer,
        measures={
            "tics": Measure(_tics, is_main=True),
            "medikits": Measure(lambda game, info: _gained(game, info, "pickups")),
            "survived": SURVIVED,
        },
        training=Training("frames", 500_000, 21_000, reward=pickup_reward),
    ),
    "take-cover": World(
        env_id="DoomTakeCover-v0",
        env_kwargs={},
        shares=WITH_POLICY,
        measures={
            "tics": Measure(_tics, is_main=True),
            "survived": SURVIVED,
        },
        training=Training("frames", 300_000, 21_000, reward=dodging_reward),
    ),
    "battle2": World(
        env_id="DoomBattle2-v0",
        env_kwargs={},
        shares=WITH_BOT,
        explorer=Explorer,
        measures={
            "kills": Measure(lambda game, info: _gained(game, info, "kills"), is_main=True),
            "tics": Measure(_tics),
            "survived": SURVIVED,
        },
        training=Training("frames", 150_000, 12_000, reward=battle_reward, bot=Battle2Bot),
    ),
}


if __name__ == "__main__":
    main()
