"""The prior over codes (VideoGPT Sec. 3): what comes next, given the past and the conditions."""

from worldmodel.prior.frame_gpt import FrameGPT, Outcome
from worldmodel.prior.gpt import GPT, Conditions

__all__ = ["GPT", "Conditions", "FrameGPT", "Outcome"]
