"""The prior over codes (VideoGPT Sec. 3): what comes next, given the past and the conditions."""
