"""Write a data set as one of LeRobot's: python -m worldmodel.data export-lerobot DIR OUT

LeRobot reads it with `LeRobotDataset("any/name", root=OUT)`; `worldmodel.data.importers.lerobot`
imports it again.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from av.error import FFmpegError

from worldmodel.data.importers.lerobot_files import require_pyarrow
from worldmodel.data.reader import EpisodeReader
from worldmodel.errors import UserError, os_error, printable


@dataclass(frozen=True)
class ExportLeRobot:
    """Write a data set in LeRobot's format, version 3. Actions, rewards, ends, variables and pose
    are exact."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The data set."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A new folder."""
    lossless: bool = False
    """Store frames to the bit, as H.264 of RGB: LeRobot reads it, browsers don't."""
    task: str | None = None
    """What is done, in words, for policies that read it; default: the environment's name."""

    def run(self) -> None:
        """The folder appears when it is complete.

        Raises:
            UserError: there is no such data set, or OUT exists or can't be written.
        """
        require_pyarrow()
        from worldmodel.data.lerobot_writing import SetWriter  # late: it imports pyarrow

        reader = EpisodeReader(self.folder)
        if reader.info.frame_shape[2] not in (1, 3):
            raise UserError(
                f"{self.folder}: frames are {reader.info.frame_shape}, not of 1 or 3 colours"
            )
        if self.out.exists():
            raise UserError(f"{self.out} already exists: choose another folder")
        unfinished = self.out.with_name(f".{self.out.name}.unfinished")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a killed export
            task = reader.info.env_id if self.task is None else self.task
            SetWriter(unfinished, reader.info, task, lossless=self.lossless).write(reader)
            unfinished.rename(self.out)
        except (OSError, FFmpegError) as error:
            reason = os_error(error) if isinstance(error, OSError) else error
            raise UserError(f"cannot write to {self.out}: {reason}") from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        print(printable(f"{self.out} holds {len(reader)} episodes for LeRobot"))
