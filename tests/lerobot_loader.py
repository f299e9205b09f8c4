"""Runs where LeRobot is installed: reads sets with its loader, or writes one with its writer.

python tests/lerobot_loader.py read SET OUT.npz [SET OUT.npz ...]
python tests/lerobot_loader.py write SET
"""

import sys
from typing import Any

import numpy as np
import torch

try:
    import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
except RuntimeError:
    # Compiled for CUDA, beside a torch without it: these operators, used nowhere here, are missing.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from ledataset.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]

LENGTHS = (5, 8, 6)
SIDES = (32, 48, 3)


def read(folder: str, out: str) -> None:
    data = LeRobotDataset("any/name", root=folder)
    items = [data[i] for i in range(len(data))]
    numbers: dict[str, Any] = {
        name: np.stack([item[name].numpy() for item in items])
        for name in items[0]
        if name != "task"
    }
    # Windows, as a policy is trained on them: two frames and three actions.
    fps = data.meta.fps
    camera = data.meta.camera_keys[0]
    times = {camera: [-1 / fps, 0.0], "action": [0.0, 1 / fps, 2 / fps]}
    window = LeRobotDataset("any/name", root=folder, delta_timestamps=times)[1]
    lengths = np.array([row["length"] for row in data.meta.episodes])
    np.savez(
        out,
        lengths=lengths,
        tasks=[item["task"] for item in items],
        window_frames=window[camera].numpy(),
        window_actions=window["action"].numpy(),
        action_max=data.meta.stats["action"]["max"],
        **numbers,
    )


def write(folder: str) -> None:
    def feature(dtype: str, *shape: int, names: object = None) -> dict:
        return {"dtype": dtype, "shape": shape, "names": names}

    axes = ["height", "width", "channels"]
    data = LeRobotDataset.create(
        "any/name",
        10,
        {
            "observation.images.top": feature("video", *SIDES, names=axes),
            "observation.images.wrist": feature("image", *SIDES, names=axes),
            "observation.state": feature("float32", 3, names=["x", "y", "grip"]),
            "action": feature("float32", 2, names=["dx", "dy"]),
            "next.reward": feature("float32", 1),
            "next.done": feature("bool", 1),
        },
        root=folder,
        vcodec="libsvtav1",
    )
    rng = np.random.default_rng(0)
    for episode, num_rows in enumerate(LENGTHS):
        for row in range(num_rows):
            frame = np.full(SIDES, 60 * episode + 10 * row, np.uint8)
            data.add_frame(
                {
                    "observation.images.top": frame,
                    "observation.images.wrist": 255 - frame,
                    "observation.state": np.array([row, episode, row / 2], np.float32),
                    "action": rng.uniform(-1, 1, 2).astype(np.float32),
                    "next.reward": np.array([row], np.float32),
                    "next.done": np.array([row == num_rows - 1]),
                    "task": "push",
                }
            )
        data.save_episode()
    data.finalize()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "write":
        write(*arguments)
    else:
        for folder, out in zip(arguments[::2], arguments[1::2], strict=True):
            read(folder, out)
