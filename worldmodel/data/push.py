"""Push a data set to the Hugging Face Hub."""

import re
from pathlib import Path

from worldmodel.command import say
from worldmodel.data.card import data_card
from worldmodel.data.left_out import LEFT_OUT
from worldmodel.data.shards import waiting_files
from worldmodel.data.verify import verify
from worldmodel.errors import UserError
from worldmodel.storage.files import locked
from worldmodel.storage.hub import Kind, Repository, find_repository, push

DATA_SET = Kind(
    "dataset",
    "data set",
    marks=(r"meta\.json", r"shard-[0-9]{1,9}\.h5"),
    others=(re.escape(LEFT_OUT), r"contact-sheet\.png", r"floor-plan\.png"),
)


def push_data_set(
    folder: Path, name: str, *, license: str | None, private: bool, overwrite: bool
) -> str:
    """Check a data set, draw it, and push it with a card; other files in its folder stay here.

    Args:
        name: of the repository: user/name.
        license: for the card, see `data_card`.
        private, overwrite: see `find_repository`.

    Returns:
        The repository's address.

    Raises:
        UserError: there is no data set or it has a problem, or as `find_repository` and `push`.
    """
    repository = find_repository(name, DATA_SET, private=private, overwrite=overwrite)
    with locked(folder):  # nobody records into it meanwhile
        if waiting_files(folder):
            raise UserError(
                f"{folder} is not finished: rerun the command that records or imports it, then push"
            )
        return _push(repository, folder, license)


def _push(repository: Repository, folder: Path, license: str | None) -> str:
    report = verify(folder)
    if report.problems:
        raise UserError(
            f"{report.problems[0]}. Nothing was pushed: `python -m worldmodel.data verify` lists "
            "all problems"
        )
    card = data_card(folder, report, name=repository.name, license=license)
    files = DATA_SET.files_in(folder)
    num_bytes = sum(path.stat().st_size for path in files.values())
    say(f"pushing {len(files)} files, {num_bytes / 2**20:.1f} MiB, to {repository.name}")
    return push(repository, files, card)
