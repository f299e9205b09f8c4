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
from worldmodel.data import Clips, ClipSampler, EpisodeReader, Split
from worldmodel.dream import WorldModel
from worldmodel.interface.sampling import Sampling
from worldmodel.media.frames import to_float
from worldmodel.prior.layers import encode_actions
from worldmodel.prior.memory import Here, Past
from worldmodel.prior.stepping import prefill, step
from worldmodel.storage.tensors import save_tensors
from worldmodel.vqvae.vqvae import VQVAE

DREAMED_STEPS = 64  # of each dream, after the window
CLIPS_A_BATCH = 8  # dreams in stock for each clip of a batch
SAMPLING = Sampling()


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
    """Dreams along recorded clips, under their actions and poses, from the recorded first window.
    They are the same for every seed.

    Args:
        num_dreams: dreams in stock.
        num_frames: of a training clip: no dream is shorter.
        split: whose episodes.
        dreamed_steps: of each dream, after the window.

    Attributes:
        age: (frames,), for how many steps each frame of a dream was dreamed; 0: recorded.
        state: to be saved with the training: "episodes" (episode and first frame of each dream),
            "codes", "renewed" (how often, and at which step of the training for the last time).
    """

    def __init__(
        self,
        model: WorldModel,
        coded: CodedEpisodes,
        num_dreams: int,
        num_frames: int,
        split: Split = "train",
        *,
        dreamed_steps: int = DREAMED_STEPS,
    ) -> None:
        self.model, self.window = model, model.config.prior.window
        has_pose = model.prior.place is not None
        lengths = [
            int(coded.reader.index["episode_length"][i]) + 1
            for i in coded.reader.split(split)
            if coded.has_pose(int(i)) or not has_pose
        ]
        # As long as half of the episodes allow: else a few long ones would be dreamed repeatedly.
        longest = max(int(np.median(lengths or [0])), num_frames)
        self.num_frames = min(longest, max(self.window + dreamed_steps, num_frames))
        self.age = np.maximum(0, np.arange(self.num_frames) - self.window + 1)
        shape = (num_dreams, self.num_frames, *coded.codes.shape[1:])
        self.state = {
            "episodes": torch.zeros(num_dreams, 2, dtype=torch.int64),
            "codes": torch.zeros(shape, dtype=torch.int16),
            "renewed": torch.zeros(2, dtype=torch.int64),
        }
        self._sampler = ClipSampler(
            coded.reader,
            split,
            self.num_frames,
            frames_of=coded.codes_of,
            with_pose=has_pose,
        )

    @property
    def times_renewed(self) -> int:
        return int(self.state["renewed"][0])

    def renew_if_due(self, step: int, every: int) -> None:
        """Dream again where that was last done so many steps of the training ago, or never."""
        if not self.times_renewed or step - int(self.state["renewed"][1]) >= every:
            self.renew(step)

    @torch.no_grad()
    def renew(self, step: int = 0) -> None:
        """Dream again, along other clips.

        Args:
            step: of the training.
        """
        rng = randomness.generator(0, "own dreams", self.times_renewed)
        episodes = self._sampler.draw(rng, len(self.state["episodes"]))
        clips = self._sampler.read(episodes)
        self.state["episodes"].copy_(torch.from_numpy(episodes))
        self.state["codes"][:, : self.window] = torch.from_numpy(clips.frames[:, : self.window])
        self._dream(clips, rng)
        self.state["renewed"].copy_(torch.tensor([self.times_renewed + 1, step]))

    def _dream(self, clips: Clips, rng: np.random.Generator) -> None:
        """Dream the codes after the first window."""
        prior, w = self.model.prior, self.window
        device = prior.position.device
        ages = np.broadcast_to(self.age, (len(clips.frames), self.num_frames)).copy()
        codes, age, variables, poses = (
            torch.as_tensor(part).to(device)
            for part in (self.state["codes"], ages, clips.variables, clips.pose)
        )
        actions = encode_actions(
            self.model.config.actions, torch.from_numpy(clips.action).to(device)
        )
        poses = poses[..., : len(prior.world.used_pose)]
        known = torch.full_like(age, prior.place is not None, dtype=torch.bool)
        none_hidden = torch.zeros_like(known[:, : w - 1])
        past = Past(poses[:, :w], known[:, :w], age[:, : w - 1], none_hidden)
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
