"""Build a dream's page: python -m play.web --env dream-doom --out page

The folder can go to any host of static files: GitHub Pages, a Hugging Face Space, a folder of a web
server. It runs in the browser alone and asks no other host for anything.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from play.web.site import build
from worldmodel.command import parse_options, run_command
from worldmodel.errors import printable
from worldmodel.interface.sampling import Sampling, SamplingOptions


@dataclass(frozen=True)
class Web:
    """Build a dream's page."""

    out: Path
    """Folder for the page: new, or of an earlier page."""
    env: str = "dream-doom"
    """A shipped dream, the folder of a checkpoint, or a Hugging Face Hub id."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = SamplingOptions()
    """How the dream is sampled."""


def main() -> None:
    options = parse_options(Web, "play.web", __doc__)
    run_command(lambda: web(options), stopped="stopped; the same command starts again")


def web(options: Web) -> None:
    """Build the page. Raises as `play.web.site.build`."""
    options.sampling.applied_to(Sampling())  # or UserError, before anything is loaded
    build(options.env, options.out, options.sampling)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(printable(f"{options.out}: {size / 2**20:.1f} MiB; open it with a web server"))


if __name__ == "__main__":
    main()
