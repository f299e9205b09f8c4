"""Record the robot bin: python -m collect.pushing --out data/pushing

Trains a policy on the bin's state if none is given, scores it next to a random player, then records
episodes with parallel workers: a third by the policy, a third by it with noise, a third at random.
If interrupted, rerun the same command to resume.
"""

from dataclasses import dataclass
from pathlib import Path

from collect.recorder import POLICY, Behaviour
from collect.recording import Options, World, record_set
from collect.rewards import Training
from collect.score import Measure
from worldmodel.command import parse_options, run_command
from worldmodel.data import DatasetInfo, Episode

NOISE = Behaviour("policy+noise", actor="policy", random_start=0.15, max_hold=2)
AT_RANDOM = Behaviour("random", actor=None, random_start=1.0, max_hold=2)
WITH_POLICY = {POLICY: 1 / 3, NOISE: 1 / 3, AT_RANDOM: 1 / 3}


@dataclass(frozen=True)
class Collect(Options):
    """Record the robot bin, played by a trained policy, by that policy with noise, and at random.
    If interrupted, rerun the same command to resume."""

    length: int = 30
    """Steps per episode; there are 12.5 steps per second. BAIR's episodes have 30."""
    out: Path = Path("data/pushing")
    """Folder of the data set."""
    train_steps: int = 60_000
    """Environment steps of PPO, in total."""


def main() -> None:
    options = parse_options(Collect, "collect.pushing", __doc__)
    run_command(lambda: collect(options))


def collect(options: Collect) -> None:
    """Run the command. Raises UserError as `record_set` does."""
    world = World(
        "RobotPushing-v0",
        WITH_POLICY,
        {
            "metres": Measure(_metres, is_main=True),
            "reward": Measure(lambda episode, info: float(episode.reward.sum())),
        },
        env_kwargs={"length": options.length},
        training=Training(
            "state",
            options.train_steps,
            8_000,
            gamma=0.9,
            cheapest_frames={"renderer": "rays", "obs_size": 1},
        ),
    )
    record_set(options, world)


def _metres(episode: Episode, info: DatasetInfo) -> float:
    """The total distance that targets moved."""
    return float(episode.variables[-1, info.variable_names.index("moved")])


if __name__ == "__main__":
    main()
