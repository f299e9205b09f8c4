"""Record the robot bin: python -m collect.pushing --out data/pushing

Trains a policy on the bin's state when none is given, measures it beside a random one, then records
episodes with parallel workers: a third by the policy, a third by it with noise, a third at random.
If it is interrupted, the same command resumes.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from collect.recorder import POLICY, Behaviour
from collect.recording import Options, World, record_set
from collect.score import Measure
from collect.training import Training
from worldmodel.command import run_command
from worldmodel.data import DatasetInfo, Episode

NOISE = Behaviour("policy+noise", actor="policy", random_start=0.15, max_hold=2)
BRIEFLY_HELD = Behaviour("random", actor=None, random_start=1.0, max_hold=2)
WITH_POLICY = {POLICY: 1 / 3, NOISE: 1 / 3, BRIEFLY_HELD: 1 / 3}


@dataclass(frozen=True)
class Collect(Options):
    """Record the robot bin, played by a trained policy, by that policy with noise, and at random.
    If it is interrupted, the same command resumes."""

    length: int = 30
    """Steps an episode; 12.5 steps are a second. BAIR's have 30."""
    out: Path = Path("data/pushing")
    """Folder of the data set."""
    train_steps: int = 60_000
    """Environment steps of the policy's training, in all."""


def main() -> None:
    options = tyro.cli(Collect, prog="python -m collect.pushing", description=__doc__)
    run_command(lambda: collect(options))


def collect(options: Collect) -> None:
    """Do what `Collect` says. Raises UserError as `record_set` does."""
    world = World(
        env_id="RobotPushing-v0",
        env_kwargs={"length": options.length},
        shares=WITH_POLICY,
        measures={
            "metres": Measure(_metres, is_main=True),
            "reward": Measure(lambda episode, info: float(episode.reward.sum())),
        },
        training=Training("state", options.train_steps, 8_000),
    )
    record_set(options, world)


def _metres(episode: Episode, info: DatasetInfo) -> float:
    """How far targets moved."""
    return float(episode.variables[-1, info.variable_names.index("moved")])


if __name__ == "__main__":
    main()
