"""Gymnasium environments: real games, and the dreams learned from them.

`import envs` registers them; nothing heavy is imported until `gymnasium.make`. The dreams in
`envs.shipped_names()` come with the project.
"""

import gymnasium

from worldmodel.pretrained import shipped_names as shipped_names

# What commands call the real ones that come with the project.
REAL_WORLDS = {
    "doom-hgs": "DoomHealthGatheringSupreme-v0",
    "doom-battle2": "DoomBattle2-v0",
    "doom-take-cover": "DoomTakeCover-v0",
    "robot-pushing": "RobotPushing-v0",
}

gymnasium.register(
    id="DoomHealthGatheringSupreme-v0",
    entry_point="envs.doom:DoomEnv",
    kwargs={"scenario": "health_gathering_supreme"},
)
gymnasium.register(
    id="DoomBattle2-v0", entry_point="envs.doom:DoomEnv", kwargs={"scenario": "battle2"}
)
gymnasium.register(
    id="DoomTakeCover-v0", entry_point="envs.doom:DoomEnv", kwargs={"scenario": "take_cover"}
)
gymnasium.register(id="Pixels-v0", entry_point="envs.pixels:PixelsEnv")
gymnasium.register(id="RobotPushing-v0", entry_point="envs.pushing:make")
gymnasium.register(
    id="VideoGPTDream-v0",
    entry_point="envs.dream:DreamEnv",
    vector_entry_point="envs.vector_dream:DreamVectorEnv",
)
