"""Play a dream of Doom, Doom itself, or another world, with keyboard and mouse.

python -m play
python -m play --env doom-hgs --policy runs/policy.zip --trust
python -m play --env robot-pushing --keys my-keys.json
python -m play --env runs/doom --start 3 --record walk.mp4
python -m play --replay walk.json
python -m play --headless --record walk.mp4 --steps 200 --seed 1
"""

import sys
import time

STARTED_S = time.perf_counter()  # before the imports, which take part of the time


def main() -> None:
    """Run the command line and exit."""
    from play.command import PlayOptions, parse, run
    from worldmodel.command import run_command

    options: PlayOptions = parse(sys.argv[1:])
    run_command(lambda: run(options, started_s=STARTED_S), stopped="stopped")


if __name__ == "__main__":
    main()
