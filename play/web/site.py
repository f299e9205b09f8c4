"""Build the page: the dream's export, the runtime, and the files in `static`."""

import hashlib
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envs import shipped_names
from envs.trust import cache_folder
from play.commands import COMMAND_KEYS, command_lines, layout_of
from play.web.runtime import VERSION, runtime_files
from play.worlds import DREAM_ID, choose_world
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.controls import Controls, default_controls
from worldmodel.interface.sampling import SamplingOptions
from worldmodel.storage.files import LOCK_NAME, locked, read_json, write_json
from worldmodel.storage.parsed import parsed

STATIC = Path(__file__).parent / "static"
SITE = "site.json"  # its version says what the folder was built from
TITLES = {
    "dream-doom": "A dream of Doom: Health Gathering Supreme",
    "dream-battle2": "A dream of Doom: Battle 2",
    "dream-pushing": "A dream of a robot pushing things",
}
ELSEWHERE = ("policy", "real", "pixels", "quit")  # commands that a page doesn't have
MOST_BYTES = 2**24  # of JSON


def cached_site(name: str, sampling: SamplingOptions) -> Path:
    """Where the page of a dream is kept: a folder in the user's cache."""
    place = Path(name).absolute() if os.path.isdir(name) else name
    kept = hashlib.sha256(f"{place} {sampling}".encode()).hexdigest()[:16]
    return cache_folder() / "pages" / kept


def is_built(name: str, out: Path, sampling: SamplingOptions) -> bool:
    """Whether a folder holds the page that `build` would make. Raises UserError as `build`."""
    return _version_in(out) == _version(name, sampling)


def build(name: str, out: Path, sampling: SamplingOptions) -> None:
    """Build a dream's page into a folder, unless it is there already.

    Args:
        name: a shipped dream, a folder, or a Hugging Face Hub id.
        sampling: changes to the dream's own.

    Raises:
        UserError: there is no such dream, the folder holds something else, a package is missing, or
            the runtime can't be downloaded.
        OSError: the folder can't be written to.
    """
    wanted = _version(name, sampling)
    if _version_in(out) == wanted:
        return
    from envs.exporting import export_to_play

    others = [path for path in out.iterdir() if path.name != LOCK_NAME] if out.is_dir() else []
    if others and not (out / SITE).is_file():
        raise UserError(f"{out} is a folder of something else: choose another name")
    runtime = runtime_files()
    with locked(out):
        write_json(out / SITE, {"version": None})  # until it is whole
        (out / "runtime").mkdir(exist_ok=True)
        for path in runtime:
            shutil.copyfile(path, out / "runtime" / path.name)
        for path in STATIC.iterdir():
            shutil.copyfile(path, out / path.name)
        export_to_play(name, out / "dream", sampling)
        description = read_json(out / "dream" / "dream.json", most_bytes=MOST_BYTES)
        write_json(out / SITE, _site(description, out, wanted, sampling))


def _version_in(out: Path) -> str | None:
    """What the page in a folder was built from; None: there is no whole page."""
    if not (out / SITE).is_file():
        return None
    return read_json(out / SITE, most_bytes=MOST_BYTES).get("version")


def _version(name: str, sampling: SamplingOptions) -> str:
    """A hash of what a page is made from: the dream, its settings, and the code.

    Raises:
        UserError: there is no such dream.
    """
    if not choose_world(name).is_dream:
        raise UserError(f"{name} is a real game: only dreams run in a browser")
    from envs.exporting import digest_of, exporter_digest  # slow: imports torch

    dream = digest_of(name)
    digest = hashlib.sha256()
    parts = [VERSION, name, dream, exporter_digest(), repr(sampling)]
    digest.update("\n".join(parts).encode())
    for path in (*sorted(STATIC.iterdir()), *sorted(STATIC.parent.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _site(
    description: dict[str, Any], out: Path, wanted: str, sampling: SamplingOptions
) -> dict[str, Any]:
    """What the page has to know besides the dream's own description."""
    from envs.exporting import seed_path

    actions = parsed(ActionSpec, description["actions"])
    given = description["controls"]
    controls = Controls.from_json(given, actions) if given else default_controls(actions)
    name = description["name"]
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LOCK_NAME]
    return {
        "version": wanted,
        "name": name,
        "title": TITLES.get(name, name) if name in shipped_names() else name,
        "fps": description["fps"],
        "dreamId": DREAM_ID,
        "sampling": sampling.given,
        "stream": seed_path(),
        "steering": controls.help_lines(),
        "commands": command_lines(
            controls, [entry for entry in COMMAND_KEYS if entry.command not in ELSEWHERE]
        ),
        "controls": for_the_page(controls),
        "bytes": {
            **{path.relative_to(out).as_posix(): path.stat().st_size for path in files},
            SITE: 0,
        },
    }


def for_the_page(controls: Controls) -> dict[str, Any]:
    """Controls as the page takes them, with all defaults filled in."""
    axes = {"x": controls.mouse.x, "y": controls.mouse.y}
    layout = layout_of(controls)
    return {
        "isDiscrete": controls.actions.kind == "discrete",
        "idle": controls.actions.numbers(controls.idle),
        "bindings": [
            {"keys": b.keys, "sets": list(b.sets.items()), "name": b.name} for b in controls.keys
        ],
        "mouse": {name: None if axis is None else axis.model_dump() for name, axis in axes.items()},
        "layout": {"stick": layout.stick, "buttons": layout.buttons},
        "components": [
            {**asdict(c), "isInteger": c.is_integer, "isButton": c.is_button}
            for c in controls.actions.components
        ],
    }
