"""Gymnasium environments: real games, and dreams learned from them.

Importing it registers them; nothing heavy is imported until `gymnasium.make`.
`envs.shipped_names()` lists the dreams that come with the project.
"""

import gymnasium

from worldmodel.pretrained import shipped_names as shipped_names

# Short names of the real environments, for commands.
REAL_WORLDS = {
    "doom-hgs": "DoomHealthGatheringSupreme-v0",
    "doom-battle2": "DoomBattle2-v0",
    "doom-take-cover": "DoomTakeCover-v0",
    "robot-pushing": "RobotPushing-v0",
}

for _id, _scenario in (
    ("DoomHealthGatheringSupreme-v0", "health_gathering_supreme"),
    ("DoomBattle2-v0", "battle2"),
    ("DoomTakeCover-v0", "take_cover"),
):
    gymnasium.register(_id, f"{__name__}.doom:DoomEnv", kwargs={"scenario": _scenario})
gymnasium.register(id="Pixels-v0", entry_point=f"{__name__}.pixels:PixelsEnv")
gymnasium.register(id="RobotPushing-v0", entry_point=f"{__name__}.pushing:make")
gymnasium.register(
    id="VideoGPTDream-v0",
    entry_point=f"{__name__}.dream:DreamEnv",
    vector_entry_point=f"{__name__}.vector_dream:DreamVectorEnv",
)
