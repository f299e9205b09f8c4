"""Work on data sets.

check and draw one    python -m worldmodel.data verify DIR

join several          python -m worldmodel.data merge A B --out C

share one             python -m worldmodel.data push DIR user/name

make or import one    python -m worldmodel.data digits --out data/moving-digits

export one            python -m worldmodel.data export-lerobot DIR OUT
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from worldmodel.command import parse_options, run_command
from worldmodel.data.importers.bair import ImportBair
from worldmodel.data.importers.lerobot import ImportLeRobot
from worldmodel.data.importers.moving import ImportDigits, ImportMovingMNIST
from worldmodel.data.importers.robonet import ImportRoboNet
from worldmodel.data.importers.videogpt_hdf5 import ImportVideoGPTHDF5
from worldmodel.data.importers.videos import ImportVideos
from worldmodel.data.lerobot_export import ExportLeRobot
from worldmodel.data.merge import merge
from worldmodel.data.verify import verify
from worldmodel.errors import printable


@dataclass(frozen=True)
class Verify:
    """Check a data set whole, say what is in it, and draw DIR/contact-sheet.png."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The data set."""

    def run(self) -> int:
        """Returns the exit status: 1 where there is a problem."""
        report = verify(self.folder)
        lines = [*report.lines, *(f"problem: {line}" for line in report.problems)]
        print("\n".join(map(printable, lines)))
        if report.problems:
            return 1
        print("no problem found")
        return 0


@dataclass(frozen=True)
class Merge:
    """Join data sets that were recorded separately, on several machines for example."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The data sets, two or more; the first one's episodes keep their ids."""
    out: Path
    """Where the joined set goes: a new folder, or the same merge stopped half way."""
    unknown_poses: bool = False
    """Join sets of which only some tell where the player is: for the others' episodes the pose is
    unknown."""

    def run(self) -> None:
        folders = list(self.folders)
        num_episodes, num_left_out = merge(folders, self.out, unknown_poses=self.unknown_poses)
        left_out = f"; {num_left_out} repeated ones were left out" if num_left_out else ""
        print(printable(f"{self.out} holds {num_episodes} episodes{left_out}"))


@dataclass(frozen=True)
class Push:
    """Check a data set and push it to the Hugging Face Hub, with a card that describes it.

    Log in first: `hf auth login`. Only the data set's own files are pushed. It is fetched with
    `hf download user/name --repo-type dataset --local-dir data/name`.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The data set."""
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """The repository, which is made if it doesn't exist."""
    license: str | None = None
    """Its licence, by the Hub's name: cc-by-4.0, for example. If not given, MIT for recordings of
    this project's own worlds, and none for others."""
    private: bool = False
    """Make a private repository. If not given, it becomes what the Hub's settings say: public,
    usually."""
    overwrite: bool = False
    """Replace a data set in the repository."""

    def run(self) -> None:
        from worldmodel.data.push import push_data_set  # late: the Hub's client is slow to import

        address = push_data_set(
            self.folder,
            self.name,
            license=self.license,
            private=self.private,
            overwrite=self.overwrite,
        )
        print(printable(f"pushed to {address}"))


Command = (
    Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Push, tyro.conf.subcommand("push")]
    | Annotated[ImportBair, tyro.conf.subcommand("bair")]
    | Annotated[ImportRoboNet, tyro.conf.subcommand("robonet")]
    | Annotated[ImportVideoGPTHDF5, tyro.conf.subcommand("videogpt-hdf5")]
    | Annotated[ImportDigits, tyro.conf.subcommand("digits")]
    | Annotated[ImportMovingMNIST, tyro.conf.subcommand("moving-mnist")]
    | Annotated[ImportVideos, tyro.conf.subcommand("videos")]
    | Annotated[ImportLeRobot, tyro.conf.subcommand("lerobot")]
    | Annotated[ExportLeRobot, tyro.conf.subcommand("export-lerobot")]
)


def main() -> None:
    command = parse_options(Command, "worldmodel.data", __doc__)
    run_command(command.run)


if __name__ == "__main__":
    main()
