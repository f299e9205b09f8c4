"""Pushing to the Hugging Face Hub: one commit, and only the files that are named."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from worldmodel.errors import UserError, one_line

CARD = "README.md"
LOG_IN = "log in with `hf auth login`, with a token that may write"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class Kind:
    """What a repository holds.

    Attributes:
        repo_type: the Hub's name for it.
        what: the same in words: "data set".
        marks: regular expressions, each of the name of a file that every such repository has.
        others: of the names of files that it may have. Only files of these two, and a card, are
            pushed.
    """

    repo_type: Literal["model", "dataset"]
    what: str
    marks: tuple[str, ...]
    others: tuple[str, ...]

    def files_in(self, folder: Path) -> dict[str, Path]:
        """The folder's files of this kind, by name."""
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        return {path.name: path for path in paths if self.takes(path.name)}

    def takes(self, name: str) -> bool:
        """Whether a file of this name may be one of such a repository."""
        return any(re.fullmatch(pattern, name) for pattern in (*self.marks, *self.others))

    def is_in(self, names: Collection[str]) -> bool:
        """Whether a repository with files of these names is of this kind."""
        return all(any(re.fullmatch(mark, name) for name in names) for mark in self.marks)


@dataclass(frozen=True)
class Repository:
    """Where to push to.

    Attributes:
        name: "user/name".
        present: names of its files; None: it doesn't exist yet.
        private: whether it should be private if it is made.
    """

    name: str
    kind: Kind
    present: frozenset[str] | None
    private: bool


def find_repository(name: str, kind: Kind, *, private: bool, overwrite: bool) -> Repository:
    """Find out what can be known of a repository before there is anything to push: not whether the
    login may write to it, which the Hub says only when files are pushed.

    Args:
        private: a new repository becomes private; one that exists must be.
        overwrite: whether files of this kind that are there may be replaced.

    Raises:
        UserError: the name is not valid, nobody is logged in, the Hub can't be reached, or the
            repository holds something that may not be replaced.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name!r} can't be a repository's name: {error}") from None
    if "/" not in name:
        raise UserError(f"{name!r} should be user/name: a user or an organisation of the Hub first")
    if get_token() is None:
        raise UserError(f"nobody is logged in to the Hugging Face Hub: {LOG_IN}")
    ask = HfApi().dataset_info if kind.repo_type == "dataset" else HfApi().model_info
    with _errors_of_hub(name):
        try:
            info = ask(name)
        except RepositoryNotFoundError:
            return Repository(name, kind, None, private)
    present = frozenset(file.rfilename for file in info.siblings or []) - {".gitattributes"}
    if present and not kind.is_in(present):
        shown = ", ".join(sorted(present)[:3])
        raise UserError(f"{name} holds no {kind.what} but {shown}: choose another name")
    if present and not overwrite:
        raise UserError(f"{name} exists already: choose another name, or allow it with --overwrite")
    if private and not info.private:
        raise UserError(
            f"{name} is public: choose another name, leave out --private, or make it private in "
            "its settings on the Hub"
        )
    return Repository(name, kind, present, private)


def push(repository: Repository, files: Mapping[str, Path], card: str) -> str:
    """Upload files and their card in one commit, and make the repository if it doesn't exist.

    Files of its kind that it has from an earlier push, and that are not among these, are removed;
    other files stay. A push that fails leaves the repository as it was, or empty.

    Args:
        files: by their names in the repository.
        card: the text of its README.md.

    Returns:
        The repository's address.

    Raises:
        UserError: the Hub can't be reached, or refuses.
        OSError: a file can't be read.
    """
    name, kind = repository.name, repository.kind
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(file, path) for file, path in files.items()
    ]
    operations.append(CommitOperationAdd(CARD, card.encode()))
    old = {file for file in repository.present or () if kind.takes(file)}
    operations += [CommitOperationDelete(file) for file in sorted(old - set(files))]
    api = HfApi()
    with _errors_of_hub(name):
        if repository.present is None:
            api.create_repo(name, repo_type=kind.repo_type, private=repository.private or None)
        api.create_commit(
            name, operations, commit_message=f"Push a {kind.what}", repo_type=kind.repo_type
        )
    prefix = "datasets/" if kind.repo_type == "dataset" else ""
    return f"{api.endpoint}/{prefix}{name}"


def license_line(license: str | None) -> str:
    """The line of a card's header that names the license, by the Hub's name; empty without one.

    Raises:
        UserError: it can't be such a name.
    """
    if license is None:
        return ""
    if not _LICENSE.fullmatch(license):
        raise UserError(f"--license takes a name like mit or cc-by-4.0, not {license!r}")
    return f"license: {license}\n"


@contextmanager
def _errors_of_hub(name: str) -> Iterator[None]:
    """What the Hub's client raises becomes a UserError that says what to do."""
    try:
        yield
    except Exception as error:  # the client raises many kinds
        # An upload's error wraps the reason.
        wrapped = error.__cause__ if type(error) is RuntimeError else None
        raise UserError(_what_to_do(wrapped or error, name)) from None


def _what_to_do(error: BaseException, name: str) -> str:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return f"the Hugging Face Hub rejects your token: {LOG_IN}"
        if status == 403:
            return f"you may not write to {name}: choose a name of your own, or {LOG_IN}"
        return f"the Hugging Face Hub refuses {name}: {one_line(error.server_message or error)}"
    if isinstance(error, ValueError):
        return f"the Hugging Face Hub refuses {name}: {error}"
    reason = one_line(error, most=200)
    return (
        f"the Hugging Face Hub can't be reached ({type(error).__name__}: {reason}): look at the "
        "network, then push again"
    )
