"""The mean of checkpoints' weights: python -m worldmodel.average RUN RUN --out DIR

A checkpoint that is trained further improves on the new data and loses a little elsewhere. The mean
of both often combines their strengths, at no cost per step (Wortsman et al. 2022, Robust
fine-tuning of zero-shot models; with several runs it is called a model soup). It works for weights
of one lineage: one was trained further from the other, or all from the same start. Measure the
result, and calibrate it: the parts' calibrations need not hold for their mean.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from worldmodel.checkpoint import (
    Checkpoint,
    carry_policy,
    find_checkpoint,
    folder_for_another,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from worldmodel.checkpoint.card import model_card
from worldmodel.command import parse_options, run_command
from worldmodel.errors import UserError, printable
from worldmodel.prior.frame_gpt import FrameGPT

MADE = "The mean of {names} (`worldmodel.average`)."


@dataclass(frozen=True)
class Average:
    """Take the mean of checkpoints' weights."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Two or more runs' folders, shipped names or Hugging Face Hub ids, all with the same
    tokenizer. The mean takes its recorded moments and sampling settings from the first."""
    out: Path
    """Folder of the mean."""
    shares: tuple[float, ...] = ()
    """Weight of each checkpoint, in the same order; scaled to sum to 1. Default: equal."""
    overwrite: bool = False
    """Replace a checkpoint in --out."""


def main() -> None:
    options = parse_options(Average, "worldmodel.average", __doc__)
    run_command(lambda: average(options))


def average(options: Average) -> None:
    """Write the mean of the checkpoints.

    Raises:
        UserError: a checkpoint is missing or damaged, or its model, world or tokenizer differs
            from the first one's; the shares don't fit; or --out is not usable.
        OSError: the mean can't be written; an existing checkpoint is unchanged.
    """
    names = options.checkpoints
    if len(names) < 2:
        raise UserError(f"a mean takes two checkpoints or more, not {len(names)}")
    shares = options.shares or (1.0,) * len(names)
    if len(shares) != len(names):
        raise UserError(f"--shares: {len(shares)} are given for {len(names)} checkpoints")
    if not all(0 < share < float("inf") for share in shares):
        raise UserError(f"--shares must be above 0, not {' '.join(map(str, shares))}")
    folders = [find_checkpoint(name) for name in names]
    with folder_for_another(options.out, folders, overwrite=options.overwrite):
        _average(options, folders, shares)


def _average(options: Average, folders: list[Path], shares: tuple[float, ...]) -> None:
    names = options.checkpoints
    first, *others = [load_checkpoint(str(folder)) for folder in folders]
    for name, other in zip(names[1:], others, strict=True):
        _check_alike(first, other, names[0], name)
    mean_prior([checkpoint.model.prior for checkpoint in (first, *others)], shares)
    parts = [
        {"weights_sha256": weights_digest(folder), "share": share / sum(shares)}
        for folder, share in zip(folders, shares, strict=True)
    ]
    data = {k: v for k, v in first.lineage.items() if k == "data"}  # where the moments are from
    mean = replace(first, lineage={**data, "averaged_from": parts})
    what = ", ".join(
        f"{share / sum(shares):.2f} of {Path(name).name}"
        for share, name in zip(shares, names, strict=True)
    )
    card = model_card(mean, name=options.out.resolve().name, made=MADE.format(names=what))
    save_checkpoint(options.out, mean, card=card, compact=False)
    carry_policy(folders[0], options.out)
    print(printable(f"{options.out}: {what}"))


@torch.no_grad()
def mean_prior(priors: list[FrameGPT], shares: tuple[float, ...]) -> None:
    """Make the first prior the weighted mean of all; the others are changed, too.

    What depends on a prior's training data (the values of each outcome, how variables are
    standardised, their ranges) is taken from the first.
    """
    first = priors[0]
    for prior in priors[1:]:
        prior.standardise_by(first.outcome.variable_mean, first.outcome.variable_std)
        prior.outcome.list_values_of(first.outcome)
    for together in zip(*(prior.parameters() for prior in priors), strict=True):
        mean = sum(share * weights for share, weights in zip(shares, together, strict=True))
        together[0].copy_(mean / sum(shares))


def _pose_ranges(checkpoint: Checkpoint) -> dict[str, list[float]]:
    place = checkpoint.model.prior.place
    if place is None:
        return {}
    return {name: getattr(place.space, name).tolist() for name in ("low", "high", "scale")}


def _check_alike(first: Checkpoint, other: Checkpoint, first_name: str, name: str) -> None:
    """Raises UserError where the mean of the two would be meaningless."""
    worlds = [(c.world.env_id, c.world.env_kwargs) for c in (first, other)]
    digests = [c.model.tokenizer.digest() for c in (first, other)]
    ranges = [_pose_ranges(c) for c in (first, other)]
    for what, mine, others in (
        ("model", first.model.config, other.model.config),
        ("range of poses", *ranges),
        ("environment", *worlds),
        ("tokenizer", *digests),
    ):
        if mine != others:
            raise UserError(
                f"{name} has another {what} than {first_name}: a mean takes weights of which one "
                "was trained further from the other, or all from the same start"
            )


if __name__ == "__main__":
    main()
