"""Episodes on disk: writing, reading, splits, and clips drawn from them."""

from worldmodel.data.clips import Clips, ClipSampler, spread_windows
from worldmodel.data.episodes import DatasetInfo, Episode
from worldmodel.data.reader import SPLITS, EpisodeReader, Split, split_of
from worldmodel.data.writer import EpisodeWriter

__all__ = [
    "SPLITS",
    "ClipSampler",
    "Clips",
    "DatasetInfo",
    "Episode",
    "EpisodeReader",
    "EpisodeWriter",
    "Split",
    "split_of",
    "spread_windows",
]
