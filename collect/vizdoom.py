"""Record a ViZDoom scenario: python -m collect.vizdoom --scenario hgs --out data/doom-hgs

Trains a policy if none is given, scores it next to a random player, then records episodes with
parallel workers. If interrupted, rerun the same command to resume.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from collect.battle2_bot import Battle2Bot
from collect.explorer import Explorer
from collect.recorder import BOT, BOT_WITH_NOISE, EXPLORER, POLICY, POLICY_WITH_NOISE, RANDOM
from collect.recording import Options, World, record_set
from collect.rewards import Training, battle_reward, dodging_reward, pickup_reward
from collect.score import Measure
from worldmodel.command import parse_options, run_command
from worldmodel.data import DatasetInfo, Episode
from worldmodel.errors import UserError

# Noise leads to states that no policy visits, and covers every action.
WITH_POLICY = {POLICY: 0.45, POLICY_WITH_NOISE: 0.35, RANDOM: 0.2}
# Explorers see the level from everywhere, and return to what they have seen.
WITH_EXPLORER = {EXPLORER: 0.45, POLICY: 0.15, POLICY_WITH_NOISE: 0.2, RANDOM: 0.2}
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
    random. If interrupted, rerun the same command to resume."""

    scenario: str = "hgs"
    """What to play. hgs: Health Gathering Supreme; take-cover: Take Cover; battle2: Battle2, whose
    policy first imitates a bot that reads object positions from the engine."""
    length: int = 100
    """Maximum number of steps per episode; there are 8.75 steps per second."""
    out: Path = Path("data/doom-SCENARIO")
    """Folder of the data set; SCENARIO stands for the scenario's name."""
    train_steps: int | None = None
    """Environment steps of PPO, in total. Default: 500,000 for hgs, 300,000 for take-cover, 150,000
    for battle2."""


def main() -> None:
    options = parse_options(Collect, "collect.vizdoom", __doc__)
    run_command(lambda: collect(options))


def collect(options: Collect) -> None:
    """Run the command. Raises UserError as `record_set` does."""
    if options.scenario not in SCENARIOS:
        known = ", ".join(SCENARIOS)
        raise UserError(f"unknown scenario {options.scenario!r}; the known ones are: {known}")
    out = Path(str(options.out).replace("SCENARIO", options.scenario))
    world = SCENARIOS[options.scenario]
    if options.train_steps is not None:
        assert world.training is not None
        world = replace(world, training=replace(world.training, num_steps=options.train_steps))
    record_set(replace(options, out=out), world)


def _gained(game: Episode, info: DatasetInfo, *, name: str) -> float:
    """The sum of a variable's increases."""
    changes = np.diff(game.variables[:, info.variable_names.index(name)])
    return float(changes[changes > 0].sum())


def _tics(game: Episode, info: DatasetInfo) -> float:
    return info.frame_skip * game.length


TICS = Measure(_tics, is_main=True)
SURVIVED = Measure(lambda game, info: float(game.truncated[-1]))
SCENARIOS = {
    "hgs": World(
        "DoomHealthGatheringSupreme-v0",
        WITH_EXPLORER,
        {
            "tics": TICS,
            "medikits": Measure(partial(_gained, name="pickups")),
            "survived": SURVIVED,
        },
        training=Training("frames", 500_000, 21_000, reward=pickup_reward),
        explorer=Explorer,
    ),
    "take-cover": World(
        "DoomTakeCover-v0",
        WITH_POLICY,
        {"tics": TICS, "survived": SURVIVED},
        training=Training("frames", 300_000, 21_000, reward=dodging_reward),
    ),
    "battle2": World(
        "DoomBattle2-v0",
        WITH_BOT,
        {
            "kills": Measure(partial(_gained, name="kills"), is_main=True),
            "tics": Measure(_tics),
            "survived": SURVIVED,
        },
        training=Training("frames", 150_000, 12_000, reward=battle_reward, bot=Battle2Bot),
        explorer=Explorer,
    ),
}


if __name__ == "__main__":
    main()
