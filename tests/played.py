"""Sessions as the game writes them, for tests."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from play.pilot import Moment
from play.session import PlayedEpisode, Session, SessionFile, read_session
from play.worlds import UnopenedWorld


def session_of(moments: Iterable[Moment], path: Path) -> Session:
    """What was seen, written as a session and read again."""
    file = SessionFile(path, UnopenedWorld("x"), overwrite=True)
    for moment in moments:
        file.add(moment)
    file.finish()
    return read_session(path)


def write_session(path: Path, session: Session) -> None:
    """A session of made-up content, as the game would write it."""
    world = UnopenedWorld(session.env_id, session.checkpoint, session.sampling)
    file = SessionFile(path, world, overwrite=True)
    for episode in session.episodes:
        for step, (action, mark) in enumerate(
            zip((None, *episode.actions), episode.marks, strict=True)
        ):
            file.add(
                Moment(
                    frame=np.zeros((*session.frame_size, 3), np.uint8),
                    action=action,
                    reward=0.0,
                    info={},
                    terminated=False,
                    truncated=False,
                    total_reward=0.0,
                    step_number=step,
                    mark=mark,
                    seed=episode.seed,
                    steered_by="person",
                    start=episode.start,
                    real=None,
                )
            )
    file.finish()


def played_episode(seed: int, start: int | None, *actions) -> PlayedEpisode:
    """An episode whose marks are made up."""
    marks = tuple(f"{number:08x}" for number in range(len(actions) + 1))
    return PlayedEpisode(seed, start, actions, marks)
