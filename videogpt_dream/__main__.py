"""The command `videogpt-dream`: every command of the project by a short name."""

import importlib
import sys
from collections.abc import Callable, Iterable

from videogpt_dream import PACKAGE_PREFIX, __version__
from worldmodel.command import FAILED, run_command

COMMANDS = {
    "play": "play a dream or a real game: in a window, a browser, or without a display",
    "play web": "make a static web page that plays a dream",
    "collect vizdoom": "record Health Gathering Supreme, Battle2 or Take Cover",
    "collect pushing": "record the robot bin",
    "collect gym": "record any Gymnasium environment",
    "collect minari": "import and export Minari data sets",
    "data": "verify, merge, import, export, push and describe recordings",
    "train": "train a dream on recordings",
    "calibrate": "keep long dreams' codes as common as recorded ones",
    "evaluate": "measure a dream against recordings, and write a report",
    "collect returns": "look away and come back, in the dream and in the game",
    "collect transfer": "train an agent in the dream, and score it in the game",
    "collect ship_policy": "ship a policy with a dream, for the key m",
    "sample": "film several futures of a moment",
    "average": "average two checkpoints",
    "ship": "make a checkpoint small, and push it to the Hugging Face Hub",
    "export": "write a dream as ONNX",
    "videogpt train": "train VideoGPT as published",
    "videogpt sample": "sample clips from it",
    "videogpt evaluate": "measure it",
    "videogpt ablate": "train and measure the rows of one of the paper's tables",
}
USAGE = """usage: videogpt-dream COMMAND [options]
       videogpt-dream COMMAND --help
       videogpt-dream --version
"""


def main() -> None:
    """Run a command. Exits with its status, or with 2 if there is no such command."""
    run_command(_main)


def _main() -> int:
    words = sys.argv[1:]
    if words in (["--version"], ["-V"]):
        print(f"videogpt-dream {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(USAGE + "\n" + _listed(COMMANDS))
        return 0
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS and len(words) >= count:
            sys.argv = [f"videogpt-dream {name}", *words[count:]]
            _main_of(name)()
            return 0
    among = [name for name in COMMANDS if name.split()[0] == words[0]]
    print(f"error: there is no command {' '.join(words[:2])!r}", file=sys.stderr)
    print(_listed(among or COMMANDS), file=sys.stderr)
    return FAILED


def module_of(name: str) -> str:
    """The module that a command runs, as `python -m` takes it."""
    parts = name.split()
    inside = parts[0] in ("play", "collect")
    return PACKAGE_PREFIX + ".".join(parts if inside else ["worldmodel", *parts])


def _main_of(name: str) -> Callable[[], None]:
    module = importlib.import_module(module_of(name))
    if hasattr(module, "__path__"):  # a package
        module = importlib.import_module(f"{module.__name__}.__main__")
    return module.main


def _listed(names: Iterable[str]) -> str:
    width = max(map(len, COMMANDS)) + 2
    return "commands:\n" + "\n".join(f"  {name:{width}}{COMMANDS[name]}" for name in names)


if __name__ == "__main__":
    main()
