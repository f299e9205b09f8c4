"""Codes of recorded episodes, from which the prior learns."""

from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open

from worldmodel.command import track
from worldmodel.data import EpisodeReader, Split
from worldmodel.media.frames import to_float
from worldmodel.storage.tensors import save_tensors
from worldmodel.vqvae.vqvae import VQVAE


class CodedEpisodes:
    """Codes, poses and actions of every episode, in memory.

    Args:
        path: a cache of the codes; it is reused while tokenizer, data and precision are the same.
        fabric: provides device and precision.

    Attributes:
        codes: int16 (frames, h, w, q) of all episodes in the order of the index.
        poses: float32 (frames, P), likewise.
        actions: (frames, *shape), taken there; 0 at the last frame of each episode.
    """

    def __init__(self, tokenizer: VQVAE, reader: EpisodeReader, path: Path, fabric: Fabric) -> None:
        self.reader, self.device = reader, fabric.device
        self.codes = _encode_all(tokenizer, reader, path, fabric)
        steps = [reader.steps(i) for i in track(range(len(reader)), "reading poses and actions")]
        self.poses = np.concatenate([of["pose"] for of in steps])
        self.actions = np.concatenate(
            [taken for of in steps for taken in (of["action"], np.zeros_like(of["action"][:1]))]
        )
        self._ends = np.cumsum(reader.index["episode_length"] + 1)

    def codes_of(self, i: int) -> np.ndarray:
        """Codes (T+1, h, w, q) of the i-th episode."""
        return self.codes[self.first(i) : self._ends[i]]

    def poses_of(self, i: int) -> np.ndarray:
        """Poses (T+1, P) of the i-th episode."""
        return self.poses[self.first(i) : self._ends[i]]

    def has_pose(self, i: int) -> bool:
        """Whether the i-th episode's pose is known; False in worlds without one."""
        return self.poses.shape[1] > 0 and bool(np.isfinite(self.poses[self.first(i)]).all())

    def posed(self, split: Split) -> list[int]:
        """The episodes of a split whose pose is known."""
        return [int(i) for i in self.reader.split(split) if self.has_pose(int(i))]

    def first(self, i: int) -> int:
        """Index of the i-th episode's first frame in `codes` and `poses`."""
        return int(self._ends[i] - self.reader.index["episode_length"][i] - 1)


@torch.no_grad()
def _encode_all(tokenizer: VQVAE, reader: EpisodeReader, path: Path, fabric: Fabric) -> np.ndarray:
    """`CodedEpisodes.codes`, cached at `path`.

    In the precision of the training: bf16 takes a third of the time, and one code in 40 differs,
    at the same squared error.
    """
    key = f"{tokenizer.digest()} {reader.digest()} {fabric.strategy.precision.precision}"
    try:
        with safe_open(path, "np") as file:
            if (file.metadata() or {}).get("key") == key:
                return file.get_tensor("codes")
    except (OSError, SafetensorError):
        pass  # missing or truncated: encode again
    tokenizer.eval()
    parts = []
    for i in track(range(len(reader)), "encoding the episodes"):
        frames = torch.from_numpy(reader.frames(i))
        for some in frames.split(128):
            with fabric.autocast():
                codes = tokenizer.encode(to_float(some.to(fabric.device)))
            parts.append(codes.to(torch.int16).cpu())
    codes = torch.cat(parts)
    save_tensors(path, {"codes": codes}, {"key": key})
    return codes.numpy()
