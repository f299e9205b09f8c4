"""The prior over codes (VideoGPT Sec. 3): what comes next, given the past and the actions."""

from worldmodel.prior.frame_gpt import FrameGPT, Outcome

__all__ = ["FrameGPT", "Outcome"]
