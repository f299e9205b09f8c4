"""A batch of dreams for stable-baselines3: PPO("CnnPolicy", DreamVecEnv(16, horizon=200))"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from envs.vector_dream import DreamVectorEnv, info_of
from worldmodel.errors import UserError


class DreamVecEnv(VecEnv):
    """A `DreamVectorEnv` with stable-baselines3's interface.

    Each info has the dream's game variables and its surprise; where a dream has ended, also
    "terminal_observation" and "TimeLimit.truncated".

    Args:
        num_envs: number of dreams.
        dream: arguments of `DreamVectorEnv`, except the autoreset mode.
    """

    def __init__(self, num_envs: int = 16, **dream: Any) -> None:
        self.dreams = DreamVectorEnv(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **dream)
        self.render_mode = self.dreams.render_mode
        super().__init__(
            num_envs, self.dreams.single_observation_space, self.dreams.single_action_space
        )
        self.metadata = self.dreams.metadata
        self._actions: np.ndarray | None = None

    def reset(self) -> VecEnvObs:
        options = [option for option in self._options if option]
        if options and any(option != options[0] for option in self._options):
            raise UserError("all dreams need the same reset options")
        seeds = None if self._seeds[0] is None else list(self._seeds)
        frames, infos = self.dreams.reset(seed=seeds, options=options[0] if options else None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [info_of(infos, i) for i in range(self.num_envs)]
        return frames

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        frames, rewards, terminated, truncated, infos = self.dreams.step(self._actions)
        finals, final_infos = infos.pop("final_obs", None), infos.pop("final_info", {})
        over = terminated | truncated
        of_each = []
        for i in range(self.num_envs):
            info = info_of(final_infos if over[i] else infos, i)
            info["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            if over[i]:
                assert finals is not None
                info["terminal_observation"] = finals[i]
                self.reset_infos[i] = info_of(infos, i)
            of_each.append(info)
        return frames, rewards.astype(np.float32), over, of_each

    def close(self) -> None:
        self.dreams.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.dreams.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.dreams, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError("dreams share their attributes: set them when making DreamVecEnv")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        raise NotImplementedError("dreams are one batch: call methods of `dreams`")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
