"""The prior's own dreams as pasts to learn from.

A prior that has only seen recorded pasts believes its own mistakes. Where poses are told, the
recorded frame at the recorded pose is what should come, whatever the dream went wrong before: the
prior dreams along recorded actions and poses, and learns to go on from there as recorded.
"""

import numpy as np
import torch

from worldmodel import randomness
from worldmodel.data import Clips, ClipSampler
from worldmodel.dream import WorldModel
from worldmodel.interface.sampling import Sampling
from worldmodel.prior.action_vectors import encode_actions
from worldmodel.prior.past import Here, Past
from worldmodel.prior.stepping import prefill, step
from worldmodel.training.coded_episodes import CodedEpisodes

DREAMED_STEPS = 28  # of each clip, after the window
CLIPS_A_BATCH = 8  # dreams that are kept, for each clip of a batch
GOES_ON = 0.5
SAMPLING = Sampling(temperature=0.8)


class OwnDreams:
    """Clips of the training split, their past dreamed by the prior under recorded actions and
    poses, but for the frames of the first window.

    Args:
        num_dreams: at a time.
        num_frames: of the clips that are learned: no dream is shorter.
        dreamed_steps: of each dream, after the window.
        goes_on: chance that a dream goes on along its episode, instead of a new one.

    Attributes:
        kept: what training has to save of it: "episodes" (episode and first frame of each dream),
            "codes" and "age", for how many steps each frame was dreamed.
    """

    def __init__(
        self,
        model: WorldModel,
        coded: CodedEpisodes,
        num_dreams: int,
        num_frames: int,
        *,
        dreamed_steps: int = DREAMED_STEPS,
        goes_on: float = GOES_ON,
    ) -> None:
        self.model, self.coded, self.reader = model, coded, coded.reader
        self.window, self._goes_on = model.config.prior.window, goes_on
        prior_has_no_pose = model.prior.place is None
        lengths = [
            int(self.reader.index["episode_length"][i]) + 1
            for i in self.reader.split("train")
            if prior_has_no_pose or coded.tells_pose(int(i))
        ]
        # As long as half of the episodes allow: a few long ones would be dreamed again and again.
        reached = max(int(np.median(lengths or [0])), num_frames)
        self.num_frames = min(reached, max(self.window + dreamed_steps, num_frames))
        shape = (num_dreams, self.num_frames)
        self.kept = {
            "episodes": torch.zeros(num_dreams, 2, dtype=torch.int64),
            "codes": torch.zeros(*shape, *coded.codes.shape[1:], dtype=torch.int16),
            "age": torch.zeros(shape, dtype=torch.int64),
            "renewed": torch.zeros(1, dtype=torch.int64),  # how often
        }
        self._sampler = ClipSampler(
            self.reader,
            "train",
            self.num_frames,
            frames_of=coded.codes_of,
            with_pose=not prior_has_no_pose,
        )

    @property
    def there(self) -> bool:
        return int(self.kept["renewed"]) > 0

    @torch.no_grad()
    def renew(self) -> None:
        """Dream again, from recorded frames or on from where a dream has come."""
        rng = randomness.generator(0, "own dreams", int(self.kept["renewed"]))
        episodes, given, given_age = self._begin(rng)
        w, num_dreamed = self.window, self.num_frames - self.window
        age = np.concatenate([given_age, given_age[:, -1:] + 1 + np.arange(num_dreamed)], 1)
        self.kept["episodes"].copy_(torch.from_numpy(episodes))
        self.kept["age"].copy_(torch.from_numpy(age))
        self.kept["codes"][:, :w] = torch.from_numpy(given)
        self._dream(self._sampler.read(episodes), rng)
        self.kept["renewed"] += 1

    def _begin(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Episode and first frame of each dream, and codes and age of the frames given to it."""
        kept = {name: tensor.numpy() for name, tensor in self.kept.items()}
        num_dreams, w = len(kept["episodes"]), self.window
        episodes = self._sampler.draw(rng, num_dreams)
        goes_on = rng.random(num_dreams) < (self._goes_on if self.there else 0.0)
        onward = kept["episodes"] + np.array([0, self.num_frames - w])
        lengths = self.reader.index["episode_length"][onward[:, 0]] + 1
        goes_on &= onward[:, 1] + self.num_frames <= lengths
        episodes = np.where(goes_on[:, None], onward, episodes)
        recorded = self._sampler.read(episodes).frames[:, :w]
        given = np.where(
            goes_on.reshape(-1, *[1] * (recorded.ndim - 1)), kept["codes"][:, -w:], recorded
        )
        return episodes, given, np.where(goes_on[:, None], kept["age"][:, -w:], 0)

    def _dream(self, clips: Clips, rng: np.random.Generator) -> None:
        """Fill in the codes after the first window."""
        prior, w = self.model.prior, self.window
        device = prior.position.device
        codes, age, variables, poses = (
            torch.as_tensor(part).to(device)
            for part in (self.kept["codes"], self.kept["age"], clips.variables, clips.pose)
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
                variables[:, t - 1],  # the recorded ones: what comes with the recorded frame
                uniforms.to(device),
                SAMPLING,
                Here(poses[:, t - 1], known[:, t - 1], age[:, t - 1]),
                poses[:, t],
            )
            now = outcome.codes
            self.kept["codes"][:, t] = now.to(self.kept["codes"])
        prior.train(was_training)
