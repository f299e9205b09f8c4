"""Codes that the prior learns from: those of recorded episodes, and of its own dreams.

A prior that has only seen recorded pasts trusts its own mistakes. In worlds with a pose the
recorded frame at the recorded pose is the right next frame, whatever went wrong in the dream
before: so the prior dreams under recorded actions and poses, and learns to continue as recorded.
"""

from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open

from worldmodel import randomness
from worldmodel.command import track
from worldmodel.data import Clips, ClipSampler, EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.interface.sampling import Sampling
from worldmodel.media.frames import to_float
from worldmodel.prior.layers import encode_actions
from worldmodel.prior.memory import Here, Past
from worldmodel.prior.stepping import prefill, step
from worldmodel.storage.tensors import save_tensors
from worldmodel.vqvae.vqvae import VQVAE

DREAMED_STEPS = 28  # of each dream, after the window
CLIPS_A_BATCH = 8  # dreams in stock for each clip of a batch
CONTINUED = 0.5  # chance that a dream continues
SAMPLING = Sampling(temperature=0.8)


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


class OwnDreams:
    """Dreams along clips of the training split, under their actions and poses. The first window is
    recorded, or the end of the dream that is continued. They are the same for every seed.

    Args:
        num_dreams: dreams in stock.
        num_frames: of a training clip: no dream is shorter.
        dreamed_steps: of each dream, after the window.
        continued: chance that a dream continues along its episode when dreams are renewed; else
            another one begins.

    Attributes:
        state: to be saved with the training: "episodes" (episode and first frame of each dream),
            "codes", "age" (for how many steps each frame was dreamed), "renewed" (how often).
    """

    def __init__(
        self,
        model: WorldModel,
        coded: CodedEpisodes,
        num_dreams: int,
        num_frames: int,
        *,
        dreamed_steps: int = DREAMED_STEPS,
        continued: float = CONTINUED,
    ) -> None:
        self.model, self.reader = model, coded.reader
        self.window, self._continued = model.config.prior.window, continued
        has_pose = model.prior.place is not None
        lengths = [
            int(self.reader.index["episode_length"][i]) + 1
            for i in self.reader.split("train")
            if coded.has_pose(int(i)) or not has_pose
        ]
        # As long as half of the episodes allow: else a few long ones would be dreamed repeatedly.
        longest = max(int(np.median(lengths or [0])), num_frames)
        self.num_frames = min(longest, max(self.window + dreamed_steps, num_frames))
        shape = (num_dreams, self.num_frames)
        self.state = {
            "episodes": torch.zeros(num_dreams, 2, dtype=torch.int64),
            "codes": torch.zeros(*shape, *coded.codes.shape[1:], dtype=torch.int16),
            "age": torch.zeros(shape, dtype=torch.int64),
            "renewed": torch.zeros(1, dtype=torch.int64),
        }
        self._sampler = ClipSampler(
            self.reader,
            "train",
            self.num_frames,
            frames_of=coded.codes_of,
            with_pose=has_pose,
        )

    @property
    def times_renewed(self) -> int:
        return int(self.state["renewed"])

    @torch.no_grad()
    def renew(self) -> None:
        """Dream again: from recorded frames, or continuing a dream."""
        rng = randomness.generator(0, "own dreams", self.times_renewed)
        episodes, given, given_age = self._begin(rng)
        w, num_dreamed = self.window, self.num_frames - self.window
        age = np.concatenate([given_age, given_age[:, -1:] + 1 + np.arange(num_dreamed)], 1)
        self.state["episodes"].copy_(torch.from_numpy(episodes))
        self.state["age"].copy_(torch.from_numpy(age))
        self.state["codes"][:, :w] = torch.from_numpy(given)
        self._dream(self._sampler.read(episodes), rng)
        self.state["renewed"] += 1

    def _begin(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Episode and first frame of each dream, and codes and age of the first window."""
        state = {name: tensor.numpy() for name, tensor in self.state.items()}
        num_dreams, w = len(state["episodes"]), self.window
        episodes = self._sampler.draw(rng, num_dreams)
        continued = rng.random(num_dreams) < (self._continued if self.times_renewed else 0.0)
        onward = state["episodes"] + np.array([0, self.num_frames - w])
        lengths = self.reader.index["episode_length"][onward[:, 0]] + 1
        continued &= onward[:, 1] + self.num_frames <= lengths
        episodes = np.where(continued[:, None], onward, episodes)
        recorded = self._sampler.read(episodes).frames[:, :w]
        given = np.where(
            continued.reshape(-1, *[1] * (recorded.ndim - 1)), state["codes"][:, -w:], recorded
        )
        return episodes, given, np.where(continued[:, None], state["age"][:, -w:], 0)

    def _dream(self, clips: Clips, rng: np.random.Generator) -> None:
        """Dream the codes after the first window."""
        prior, w = self.model.prior, self.window
        device = prior.position.device
        codes, age, variables, poses = (
            torch.as_tensor(part).to(device)
            for part in (self.state["codes"], self.state["age"], clips.variables, clips.pose)
        )
        actions = encode_actions(
            self.model.config.actions, torch.from_numpy(clips.action).to(device)
        )
        poses = poses[..., : len(prior.world.used_pose)]
        known = torch.full_like(age, prior.place is not None, dtype=torch.bool)
        past = Past(poses[:, :w], known[:, :w], age[:, : w - 1], ~known[:, : w - 1])
        now = codes[:, :w].long()
        was_training = prior.training
        prior.eval()
        memory = prefill(prior, now[:, :-1], actions[:, : w - 1], variables[:, : w - 1], past)
        now = now[:, -1]
        for t in range(w, self.num_frames):
            uniforms = torch.from_numpy(rng.random((len(now), self.model.num_uniforms), np.float32))
            outcome, memory = step(
                prior,
                memory,
                now,
                actions[:, t - 1],
                variables[:, t - 1],  # as recorded
                uniforms.to(device),
                SAMPLING,
                Here(poses[:, t - 1], known[:, t - 1], age[:, t - 1]),
                poses[:, t],
            )
            now = outcome.codes
            self.state["codes"][:, t] = now.to(self.state["codes"])
        prior.train(was_training)
