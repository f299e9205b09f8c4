"""Walk through a dream of Doom, through Doom itself, or elsewhere, with keys and mouse.

python -m play
python -m play --env doom-hgs --policy runs/policy.zip --trust
python -m play --env robot-pushing --keys my-keys.json
python -m play --env runs/doom --start 3 --record walk.mp4
python -m play --replay walk.json
python -m play --headless --record walk.mp4 --steps 200 --seed 1
"""

import sys
import time

STARTED_S = time.perf_counter()  # before the imports, which are part of the wait


def main() -> None:
    """Run the command line and exit."""
    from play.session import PlayOptions, parse, run
    from worldmodel.command import run_command

    options: PlayOptions = parse(sys.argv[1:])
    run_command(lambda: run(options, started_s=STARTED_S), stopped="stopped")


if __name__ == "__main__":
    main()
