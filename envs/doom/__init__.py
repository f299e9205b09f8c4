"""ViZDoom scenarios as Gymnasium environments."""

from envs.doom.env import DoomEnv as DoomEnv
