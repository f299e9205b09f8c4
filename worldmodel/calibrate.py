"""Calibrate long dreams: python -m worldmodel.calibrate RUN --data DIR

A prior that predicts single steps well still drifts in a long dream: small and rare things
disappear a little more often than they appear, and after a few dozen steps they are gone. Here
dreams continue recorded moments under the recorded actions, and the bias of each code's logit is
adjusted until dreamed frames show each code as often as the recorded frames do, as Braverman et
al. 2020 (Calibration, Entropy Rates, and Memory in Language Models) do for the entropy of text. The
biases are valid for the temperature and guidance that they were fitted with.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from worldmodel import randomness
from worldmodel.checkpoint import (
    Checkpoint,
    carry_policy,
    check_same_world,
    find_checkpoint,
    finish_save,
    folder_for_another,
    is_or_was_saved,
    load_checkpoint,
    save_checkpoint,
    weights_digest,
)
from worldmodel.checkpoint.card import with_note
from worldmodel.command import (
    check_numbers,
    parse_options,
    progress_bar,
    run_command,
    say,
    usable_device,
)
from worldmodel.data import ClipSampler, EpisodeReader
from worldmodel.dream import WorldModel
from worldmodel.errors import UserError, printable
from worldmodel.evaluation.dreaming import dream_on
from worldmodel.evaluation.held_out import TEACHER_FORCED_CLIPS
from worldmodel.evaluation.predicting import predict, shown
from worldmodel.interface.sampling import Sampling, SamplingOptions
from worldmodel.pretrained import shipped_names
from worldmodel.storage.files import locked

RATE = 0.4  # below 1: over a dream, a bias has more effect than in a single step
LARGEST_MOVE = 1.0  # nats a round, before the rate, for codes that dreams never show
DREAMS_AT_ONCE = 64
NOTE = "Calibrated since (`worldmodel.calibrate`): numbers below are of the weights before."


@dataclass(frozen=True)
class Calibrate:
    """Make long dreams show things as often as the data do."""

    checkpoint: tyro.conf.Positional[str]
    """A run's folder; with --out also a shipped name or a Hugging Face Hub id."""
    data: Path
    """Folder of the episodes that it was trained on."""
    out: Path | None = None
    """Folder of the calibrated checkpoint; by default the run's own."""
    rounds: int = 10
    """Rounds of adjusting the biases; the result is the mean of the last half."""
    dreams: int = 128
    """Dreams per round, each from another recorded moment."""
    steps: int = 32
    """Length of each dream."""
    temperature: float = 1.0
    """Temperature of the dreams, and the checkpoint's default from then on."""
    guidance: float | None = None
    """Guidance by the action, and the checkpoint's default from then on; if not given, the
    checkpoint's own. Where `evaluate` shows that dreams follow their actions less than real frames
    do, try 0.5 to 1: it costs PSNR in the first steps, and a step takes nearly twice as long."""
    overwrite: bool = False
    """Replace another checkpoint in --out."""
    device: str = "auto"
    """auto, cpu or cuda."""
    seed: int = 0
    """Seed of the moments and the dreams."""


class Drift(NamedTuple):
    """How far a model's dreams drift from one set of clips."""

    apart: float  # KL(recorded || dreamed) of the codes' frequencies, in nats a token
    nats: float  # a token, one step ahead of real frames


class Dreams(NamedTuple):
    """How dreams are sampled, and what to call after each step of a batch."""

    sampling: Sampling
    advance: Callable[[], object] = lambda: None


def main() -> None:
    options = parse_options(Calibrate, "worldmodel.calibrate", __doc__)
    run_command(lambda: calibrate(options), stopped="stopped; the checkpoint is as it was")


def calibrate(options: Calibrate) -> None:
    """Calibrate a checkpoint.

    Raises:
        UserError: the checkpoint is missing or damaged; an option is not usable; or the data are
            missing, damaged, of another world, or their episodes too short.
        OSError: the checkpoint can't be written; the existing one is unchanged.
    """
    check_numbers(options, above_zero=["temperature"], rounds=1, dreams=1, steps=1, seed=0)
    with ExitStack() as locks:
        folder, out = _lock(options, locks)
        device = usable_device(options.device, or_auto=True)
        checkpoint = load_checkpoint(str(folder), device=device)
        chosen = SamplingOptions(temperature=options.temperature, guidance=options.guidance)
        sampling = chosen.applied_to(checkpoint.world.sampling)
        reader = EpisodeReader(options.data)
        check_same_world(checkpoint, reader, options.checkpoint, same_environment=True)
        reader.check_splits()
        before, after = _move(checkpoint.model, reader, options, sampling, out)
        _save(checkpoint, reader, sampling, folder, out)
    print(
        f"{printable(str(out))} is calibrated for temperature {sampling.temperature:g} and "
        f"guidance {sampling.guidance:g}: on {options.dreams} validation clips, {options.steps} "
        f"steps ahead, dreams' codes are {after.apart:.4f} nats a token from those recorded "
        f"({before.apart:.4f} before); one step ahead of real frames a code costs "
        f"{after.nats:.3f} nats ({before.nats:.3f} before)"
    )


def _lock(options: Calibrate, locks: ExitStack) -> tuple[Path, Path]:
    """The folders of the checkpoint and of the calibrated one, which is locked; where they are the
    same, it is locked before the checkpoint is looked up."""
    own, is_shipped = Path(options.checkpoint), options.checkpoint in shipped_names()
    if options.out is None and not is_shipped and is_or_was_saved(own):
        locks.enter_context(locked(own))
        finish_save(own)
    folder = find_checkpoint(options.checkpoint)
    out = options.out or folder
    if options.out is None and folder != own:
        raise UserError(f"{options.checkpoint} can't be overwritten: give --out")
    if out.resolve() != folder.resolve():
        locks.enter_context(folder_for_another(out, [], overwrite=options.overwrite))
    elif options.out is not None:
        locks.enter_context(locked(out))
    return folder, out


def _move(
    model: WorldModel, reader: EpisodeReader, options: Calibrate, sampling: Sampling, out: Path
) -> tuple[Drift, Drift]:
    """Calibrate the model; returns its drift on validation clips before and after."""
    num_frames = model.config.prior.window + options.steps
    train, validation = (
        ClipSampler(reader, split, num_frames) for split in ("train", "validation")
    )
    rows = validation.draw(randomness.generator(options.seed, "drift windows"), options.dreams)
    say(
        f"dreaming {(options.rounds + 2) * options.dreams * options.steps} steps, {DREAMS_AT_ONCE} "
        f"at a time; the progress bar shows the time left; then the checkpoint is written to {out}"
    )
    with progress_bar() as bar:
        total = (options.rounds + 2) * -(-options.dreams // DREAMS_AT_ONCE) * options.steps
        task = bar.add_task("calibrating", total=total)
        dreams = Dreams(sampling, lambda: bar.advance(task))
        before = measure_drift(model, validation, rows, dreams, seed=options.seed)
        rng = randomness.generator(options.seed, "calibration")
        move_biases(model, train, dreams, rounds=options.rounds, num_dreams=options.dreams, rng=rng)
        return before, measure_drift(model, validation, rows, dreams, seed=options.seed)


def _save(
    checkpoint: Checkpoint, reader: EpisodeReader, sampling: Sampling, folder: Path, out: Path
) -> None:
    card = folder / "README.md"
    old_card = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    calibrated = {
        "temperature": sampling.temperature,
        "guidance": sampling.guidance,
        "data_sha256": reader.digest(),
        "from_weights_sha256": weights_digest(folder),
    }
    checkpoint = replace(
        checkpoint,
        world=replace(checkpoint.world, sampling=sampling),
        lineage={**checkpoint.lineage, "calibrated": calibrated},
    )
    save_checkpoint(out, checkpoint, card=with_note(old_card, NOTE), compact=False)
    carry_policy(folder, out)


@torch.no_grad()
def move_biases(
    model: WorldModel,
    clips: ClipSampler,
    dreams: Dreams,
    *,
    rounds: int,
    num_dreams: int,
    rng: np.random.Generator,
) -> None:
    """Adjust the biases of the codes' logits until dreams show each code as often as clips do.

    Codebooks share these logits: code k of one counts together with code k of another.

    Args:
        clips: longer than the model's window; dreams begin where it is full.
        dreams: sampled at a temperature above 0.
        rounds: of dreaming and adjusting; the result is the mean over the last half.
        num_dreams: per round.
    """
    bias = model.prior.head.logits.bias
    found = []
    for _ in range(rounds):
        rows = clips.draw(rng, num_dreams)
        recorded, dreamed = _code_frequencies(model, clips, rows, dreams, rng)
        move = (recorded / dreamed).log().clamp(-LARGEST_MOVE, LARGEST_MOVE)
        bias += RATE * dreams.sampling.temperature * move
        found.append(bias.clone())
    bias.copy_(torch.stack(found[rounds // 2 :]).mean(0))


def measure_drift(
    model: WorldModel, clips: ClipSampler, rows: np.ndarray, dreams: Dreams, *, seed: int
) -> Drift:
    """How far dreams are from the clips that they continue (given by their rows), and how well
    single steps are predicted."""
    rng = randomness.generator(seed, "drift dreams")
    recorded, dreamed = _code_frequencies(model, clips, rows, dreams, rng)
    nats = []
    for part in _parts(rows, TEACHER_FORCED_CLIPS):
        given = clips.read(part)
        codes = model.encode(torch.from_numpy(given.frames).to(recorded.device))
        predicted = predict(model, shown(model, codes, given.action, given.variables, given.pose))
        nats.append(predicted.nats[:, model.config.prior.window - 1 :])
    apart = (recorded * (recorded / dreamed).log()).sum()
    return Drift(float(apart), float(np.concatenate(nats).mean()))


def _code_frequencies(
    model: WorldModel,
    clips: ClipSampler,
    rows: np.ndarray,
    dreams: Dreams,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
    """The frequency of each code in the clips' frames after the window, and in dreams of them.

    A frame is weighted, in a clip and in its dream, by the probability that the dream hasn't ended
    before: the data don't show what follows an end. One is added to every count, so that no
    frequency is zero.
    """
    window, num_codes = model.config.prior.window, model.config.tokenizer.num_codes
    device = next(model.parameters()).device
    counts = torch.ones(2, num_codes, device=device)
    model.eval()
    for part in _parts(rows, DREAMS_AT_ONCE):
        given = clips.read(part)
        dreamed = dream_on(
            model,
            given,
            window,
            given.action[:, window - 1 :],
            rng=rng,
            sampling=dreams.sampling,
            advance=dreams.advance,
        )
        alive = torch.from_numpy(1 - dreamed.end_probability).cumprod(1).roll(1, 1).to(device)
        alive[:, 0] = 1
        real = model.encode(torch.from_numpy(given.frames[:, window:]).to(device))
        for n, codes in enumerate((real, torch.from_numpy(dreamed.codes).to(device))):
            weights = alive[..., None, None, None].expand(codes.shape)
            counts[n] += torch.bincount(codes.flatten(), weights.flatten(), num_codes)
    recorded, dreamed = counts / counts.sum(1, keepdim=True)
    return recorded, dreamed


def _parts(rows: np.ndarray, at_once: int) -> list[np.ndarray]:
    return np.array_split(rows, -(-len(rows) // at_once))


if __name__ == "__main__":
    main()
