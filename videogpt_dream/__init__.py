"""Record a simulator, learn it with VideoGPT, live in it.

    import gymnasium, videogpt_dream

    env = gymnasium.make("VideoGPTDream-v0", checkpoint="dream-doom")

Importing it registers the environments. In a clone the packages `worldmodel`, `envs`, `collect` and
`play` lie beside this one; when installed they are inside it, so that your own modules may have
these names (see setup.py).
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import envs

if TYPE_CHECKING:
    from envs.dream import DreamEnv
    from envs.sb3 import DreamVecEnv
    from envs.vector_dream import DreamVectorEnv
    from worldmodel.data import DatasetInfo, Episode, EpisodeReader, EpisodeWriter

__all__ = [
    "DatasetInfo",
    "DreamEnv",
    "DreamVecEnv",
    "DreamVectorEnv",
    "Episode",
    "EpisodeReader",
    "EpisodeWriter",
    "shipped_names",
]
__version__ = version("videogpt-dream")
PACKAGE_PREFIX = envs.__name__.removesuffix("envs")  # of the packages: "" in a clone
shipped_names = envs.shipped_names
_MODULE_OF = {
    "DreamEnv": "envs.dream",
    "DreamVecEnv": "envs.sb3",
    "DreamVectorEnv": "envs.vector_dream",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(PACKAGE_PREFIX + _MODULE_OF.get(name, "worldmodel.data"))
    return getattr(module, name)
