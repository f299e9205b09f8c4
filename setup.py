"""What is installed: one package, `videogpt_dream`, with the repository's packages inside.

A user's own project may have modules named `envs` or `play`. So a wheel contains
`videogpt_dream.envs` and so on, whose modules import each other by these names. An editable
installation, such as `make setup` makes, leaves everything where it is.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

OUTER = "videogpt_dream"
INNER = ("worldmodel", "envs", "collect", "play")
_NAMES = "|".join(INNER)
_IMPORT = re.compile(rf"^( *)import ({_NAMES})\b(?!\.)", re.MULTILINE)
_FROM = re.compile(rf"^( *from )(?=({_NAMES})[ .])", re.MULTILINE)
# `python -m worldmodel.train`, even if a line or a string ends before the module's name.
_COMMAND = re.compile(rf'python -m(\s+(?:f?"\s+f?")?)((?:{_NAMES})(?:\.\w+)*)')
_TEXTS = (".py", ".md", ".jinja", ".js", ".html")


def renamed(text: str) -> str:
    """A file's text with the imports and commands that work once it is installed."""
    text = _IMPORT.sub(rf"\1import {OUTER}.\2 as \2", text)
    text = _FROM.sub(rf"\1{OUTER}.", text)
    return _COMMAND.sub(_short_command, text)


def _short_command(found: re.Match[str]) -> str:
    words = found[2].removeprefix("worldmodel.").replace(".", " ")
    return f"videogpt-dream{found[1]}{words}"


class BuildInside(build_py):
    """Builds the packages, then puts them inside `videogpt_dream`."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        built = Path(self.build_lib)
        if built.resolve() == Path.cwd():
            raise SystemExit("build somewhere else: the modules are changed where they are built")
        for name in (OUTER, *INNER):  # of an earlier build
            shutil.rmtree(built / name, ignore_errors=True)
        super().run()
        for name in INNER:
            shutil.move(built / name, built / OUTER / name)
        for path in (built / OUTER).rglob("*"):
            if path.suffix in _TEXTS:
                path.write_text(renamed(path.read_text("utf-8")), "utf-8")


class WithoutTopLevel(egg_info):
    """Doesn't write top_level.txt, which would name the packages of an editable installation."""

    def run(self) -> None:
        super().run()
        (Path(self.egg_info) / "top_level.txt").unlink(missing_ok=True)


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildInside, "egg_info": WithoutTopLevel})
