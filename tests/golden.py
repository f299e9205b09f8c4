"""Numbers that must survive any rearrangement of the code: python tests/golden.py --write

Everything is measured through the commands and `gym.make`, so that nothing in here depends on how
the code is laid out: dreams of the shipped checkpoints, the weights after ten training steps of
every stage and family of presets, the numbers of reports, and recorded episodes.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
import torch
from conftest import write_toy_data
from safetensors.torch import load_file

import envs  # noqa: F401  registers the environments

FILE = Path(__file__).with_name("golden.json")
SHIPPED = ("dream-doom", "dream-battle2", "dream-pushing")
NUM_STEPS = 6
# What says when, where or from what a report was measured, not what.
NOT_MEASURED = {"seconds", "date", "machine", "commit", "command", "digest", "sha256", "format"}


def alone(name: str) -> dict[str, Any]:
    """A few steps of one dream."""
    env = gymnasium.make("VideoGPTDream-v0", checkpoint=name)
    env.action_space.seed(7)
    frame, _ = env.reset(seed=7, options={"start": 3})
    told: dict[str, Any] = {"brightness": [float(frame.mean())], "reward": [], "info": []}
    for _ in range(NUM_STEPS):
        frame, reward, terminated, _, info = env.step(env.action_space.sample())
        told["brightness"].append(float(frame.mean()))
        told["reward"].append(float(reward))
        told["info"].append([float(info[k]) for k in sorted(info) if np.ndim(info[k]) == 0])
        if terminated:
            break
    env.close()
    return told


def batched(name: str) -> dict[str, Any]:
    """The same of three dreams in one batch, each from its own start."""
    many = gymnasium.make_vec("VideoGPTDream-v0", num_envs=3, checkpoint=name)
    many.action_space.seed(7)
    frames, _ = many.reset(seed=7)
    told: dict[str, Any] = {"brightness": [frames.mean((1, 2, 3)).tolist()], "reward": []}
    for _ in range(NUM_STEPS):
        frames, rewards, *_ = many.step(many.action_space.sample())
        told["brightness"].append(frames.mean((1, 2, 3)).tolist())
        told["reward"].append(rewards.tolist())
    many.close()
    return told


def trained(folder: Path) -> dict[str, Any]:
    """Ten steps of each stage: sums over all weights, which no renaming changes."""
    from worldmodel import train as dreams
    from worldmodel.videogpt import train as clips

    plain, posed = folder / "plain", folder / "posed"
    write_toy_data(plain)
    write_toy_data(posed, posed=True)
    runs: dict[str, Any] = {
        "dream": dreams.Train("tiny", plain),
        "posed dream": dreams.Train("tiny", posed),
        "posed dream, sharp": dreams.Train("tiny", posed, stage="decoder", decoder_steps=10),
        "videogpt": clips.Train("tiny-videogpt", plain, conditions="actions"),
        "videogpt on frames": clips.Train("tiny-videogpt", plain, conditions="frames"),
    }
    told = {}
    for name, options in runs.items():
        out = folder / name.split(",")[0] if "sharp" in name else folder / name
        settings: dict[str, Any] = {
            "tokenizer_steps": 10,
            "prior_steps": 10,
            "device": "cpu",
            "precision": "fp32",
        }
        product: Any = clips if name.startswith("videogpt") else dreams
        product.train(product.Train(**{**vars(options), **settings, "out": out}))
        told[name] = sums(out / "weights.safetensors")
    return told


def sums(path: Path) -> dict[str, float]:
    """Of a checkpoint's weights."""
    weights = [w.double() for w in load_file(path).values() if w.is_floating_point()]
    return {
        "absolute": math.fsum(float(w.abs().sum()) for w in weights),
        "squared": math.fsum(float(w.square().sum()) for w in weights),
    }


def reported(folder: Path) -> dict[str, Any]:
    """The reports of what `trained` has left."""
    from worldmodel import evaluate as dreams
    from worldmodel.videogpt import evaluate as clips

    small: dict[str, Any] = {
        "clips": 4,
        "samples": 2,
        "horizon": 4,
        "frames": 16,
        "inverse_dynamics_steps": 2,
        "stability_steps": 12,
    }
    told = {}
    for name, data in (("dream", "plain"), ("posed dream", "posed"), ("videogpt", "plain")):
        out = folder / f"report of {name}"
        product, options = (clips, {"clips": 4}) if name == "videogpt" else (dreams, small)
        asked = product.Evaluate(str(folder / name), folder / data, out, **options)
        product.evaluate(asked, command="")
        report = json.loads((out / "report.json").read_text())
        told[name] = dict(numbers(report, ""))
    return told


def numbers(node: Any, path: str) -> Iterator[tuple[str, float]]:
    """Every number in nested JSON, by its path."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not any(word in key for word in NOT_MEASURED):
                yield from numbers(value, f"{path}/{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from numbers(value, f"{path}/{i}")
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path, float(node)


def recorded(folder: Path) -> dict[str, str]:
    """Digests of what is in recorded episodes: real ViZDoom, real MuJoCo (physics alone)."""
    from collect.pushing import Collect as Pushing
    from collect.pushing import collect as collect_pushing
    from collect.vizdoom import Collect as Doom
    from collect.vizdoom import collect as collect_doom

    small: dict[str, Any] = {
        "episodes": 2,
        "length": 30,
        "workers": 1,
        "policy": "random",
        "evaluate_episodes": 0,
    }
    collect_doom(Doom(scenario="hgs", out=folder / "doom", **small))
    collect_pushing(Pushing(out=folder / "pushing", **small))
    return {name: episodes_digest(folder / name) for name in ("doom", "pushing")}


def episodes_digest(folder: Path) -> str:
    from worldmodel.data import EpisodeReader

    reader, digest = EpisodeReader(folder), hashlib.sha256()
    for i in range(len(reader)):
        episode = reader.episode(i)
        for part in (episode.action, episode.reward, episode.variables, episode.pose):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def measure() -> dict[str, Any]:
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    try:
        return {
            "alone": {name: alone(name) for name in SHIPPED},
            "batched": {name: batched(name) for name in SHIPPED},
            "trained": trained(folder),
            "reported": reported(folder),
            "recorded": recorded(folder),
        }
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the golden file")
    write = parser.parse_args().write
    found = json.loads(json.dumps(measure()))
    if write:
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        return
    wanted = dict(leaves(json.loads(FILE.read_text())))
    found = dict(leaves(found))
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            print(f"{path}: {wanted.get(path)} before, {found.get(path)} now")
    sys.exit(wanted != found)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, node


if __name__ == "__main__":
    main()
