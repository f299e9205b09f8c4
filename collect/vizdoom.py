"""Record a ViZDoom scenario: python -m collect.vizdoom --scenario hgs --out data/doom-hgs

Trains a policy when none is given, measures it beside a random one, then records episodes with
parallel workers. Stopped in whatever way, the same command goes on where it was.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from collect.recorder import POLICY, POLICY_WITH_NOISE, RANDOM
from collect.recording import Options, Training, World, record_set, report_errors
from collect.score import Measure
from worldmodel.data import DataError, DatasetInfo, Episode

SCENARIOS = {"hgs": "DoomHealthGatheringSupreme-v0"}
# The noise takes a world model to places where the policy would not go, and covers every action.
WITH_POLICY = {POLICY: 0.45, POLICY_WITH_NOISE: 0.35, RANDOM: 0.2}


@dataclass(frozen=True)
class Collect(Options):
    """Record a ViZDoom scenario, played by a trained policy, by that policy with noise, and at
    random. Stopped in whatever way, the same command goes on where it was."""

    scenario: str = "hgs"
    """What to play. hgs: Health Gathering Supreme."""
    length: int = 100
    """Most steps an episode; 8.75 steps are a second."""
    out: Path = Path("data/doom-hgs")
    """Folder of the data set. Its policy.zip is loaded to go on: use only sets that you trust."""
    train_steps: int = 500_000
    """Environment steps of the policy's training, in all."""


def main() -> None:
    options = tyro.cli(Collect, prog="python -m collect.vizdoom", description=__doc__)
    report_errors(lambda: collect(options))


def collect(options: Collect) -> None:
    """Do what `Collect` says.

    Raises:
        DataError: an option, the policy file or the folder is not usable; nothing was written.
        WorkerError: a worker failed. Finished episodes are kept.
    """
    if options.scenario not in SCENARIOS:
        known = ", ".join(SCENARIOS)
        raise DataError(f"unknown scenario {options.scenario!r}; the known ones are: {known}")
    world = World(
        env_id=SCENARIOS[options.scenario],
        env_kwargs={},
        shares=WITH_POLICY,
        measures={
            "tics": Measure(lambda game, info: info.frame_skip * game.length, is_main=True),
            "medikits": Measure(_medikits),
            "survived": Measure(lambda game, info: float(game.truncated[-1])),
        },
        training=Training("frames", options.train_steps),
    )
    record_set(options, world)


def _medikits(game: Episode, info: DatasetInfo) -> float:
    gained = np.diff(game.variables[:, info.variable_names.index("pickups")])
    return float(gained[gained > 0].sum())


if __name__ == "__main__":
    main()
