"""The report: numbers with where they come from, as JSON for machines and tables for people."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.checkpoint import VIDEOGPT
from worldmodel.evaluation.published import (
    fvd_lines,
    inception_score_lines,
    likelihood_lines,
    reconstruction_lines,
)
from worldmodel.evaluation.tables import interval, number, table
from worldmodel.files import written_whole
from worldmodel.metrics import Interval

FORMAT_VERSION = 1


def weights_digest(folder: Path) -> str:
    """sha256 of a checkpoint's weights."""
    with (folder / "weights.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_report(path: Path, digest: str) -> dict[str, Any]:
    """The report at `path` if it is about the weights `digest`, else a new one without parts."""
    try:
        report = json.loads(path.read_bytes())
        if report["format_version"] == FORMAT_VERSION and report["weights_sha256"] == digest:
            return report
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or another program's: a new one takes its place
    return {"format_version": FORMAT_VERSION, "weights_sha256": digest, "parts": {}}


def write_report(folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Write report.json and report.md, each whole or not at all; returns what JSON holds."""
    plain = to_json(report)
    for name, text in (
        ("report.json", json.dumps(plain, indent=2, allow_nan=False) + "\n"),
        ("report.md", to_markdown(plain)),
    ):
        with written_whole(folder / name) as unfinished:
            unfinished.write_text(text)
    return plain


def to_json(value: Any) -> Any:
    """The same in JSON's types: keys as text, intervals as objects, NaN and infinity as null."""
    if isinstance(value, Interval):
        return to_json(value._asdict())
    if isinstance(value, dict):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_json(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def to_markdown(report: dict[str, Any]) -> str:
    """Tables of a report that went through `to_json`."""
    lines = [f"# {report.get('checkpoint', '')}: {report.get('env_id', '')}", ""]
    is_dream = report.get("model") != VIDEOGPT
    tables = {
        "tokenizer": _tokenizer_lines,
        "reconstruction": reconstruction_lines,
        # A dream's likelihood is of frames given the frames before, a clip's of all its codes.
        "likelihood": _likelihood_lines if is_dream else likelihood_lines,
        "horizon": _horizon_lines,
        "actions": _actions_lines,
        "stability": _stability_lines,
        "outcomes": _outcomes_lines,
        "samples": _samples_lines,
        "fvd": fvd_lines,
        "inception": inception_score_lines,
    }
    for name, of_part in tables.items():
        if name in report["parts"]:
            part = report["parts"][name]
            lines += [f"## {name.capitalize()}", "", *of_part(part["numbers"]), "", _source(part)]
            lines.append("")
    return "\n".join(lines)


def _source(part: dict[str, Any]) -> str:
    how, on = part["settings"], part["machine"]
    commit = (part["commit"] or "unknown")[:12]
    return (
        f"seed {how['seed']}, temperature {how['temperature']:g}, top-k {how['top_k']}, "
        f"top-p {how['top_p']}; {on['gpu'] if part['device'] == 'cuda' else on['cpu']}, "
        f"torch {on['torch']}, commit {commit}; `{part['command']}`, {part['seconds']:.0f} s"
    )


def _tokenizer_lines(n: dict[str, Any]) -> list[str]:
    return table(
        ["frames", "PSNR, dB", "NMSE", "codes in use", "perplexity", "unigram nats a token"],
        [
            [
                str(n["num_frames"]),
                interval(n["psnr"]),
                number(n["nmse"], 4),
                f"{n['codes_used']} of {n['num_codes']}",
                number(n["perplexity"], 0),
                number(n["unigram_nats"]),
            ]
        ],
    )


def _likelihood_lines(n: dict[str, Any]) -> list[str]:
    def row(name: str, nats: float, shown: str, accuracy: float | None) -> list[str]:
        return [name, shown, number(nats / math.log(2)), number(accuracy, 3)]

    mean = n["nats_a_token"]
    return [
        *table(
            ["", "nats a token", "bits a token", "tokens guessed right"],
            [
                row("prior", mean["value"], interval(mean, 3), n["accuracy"]),
                row(
                    "copying, else unigram",
                    n["copy_nats"],
                    number(n["copy_nats"], 3),
                    n["copy_accuracy"],
                ),
                row(
                    "unigram at each position",
                    n["position_unigram_nats"],
                    number(n["position_unigram_nats"], 3),
                    None,
                ),
                row("unigram", n["unigram_nats"], number(n["unigram_nats"], 3), None),
            ],
        ),
        "",
        f"{n['num_clips']} clips, {n['num_tokens']} tokens; the prior takes "
        f"{number(n['bits_a_pixel_channel'], 4)} bits a pixel-channel for the codes (not for "
        f"the exact pixels). Copying: the last frame's token with probability "
        f"{n['copy_weight']:g} (the best for these clips), else the training split's unigram.",
    ]


def _horizon_lines(n: dict[str, Any]) -> list[str]:
    curves, over = n["psnr"], n["one_over_copy"]
    names = {
        "copy": "copying the last given frame",
        "one": "dream, one sample",
        "mean": "dream, mean over samples",
        "best": "dream, best sample",
        "ceiling": "tokenizer's ceiling",
    }
    rows = [
        [title, *[interval(entry, 1) for entry in curves[name].values()]]
        for name, title in names.items()
    ]
    rows.append(["one sample over copying, dB", *[interval(e["db"], 1) for e in over.values()]])
    rows.append(
        [
            "clips closer than copying",
            *[interval(e["share_of_clips_closer"]) for e in over.values()],
        ]
    )
    return [
        *table(["PSNR, dB, at steps ahead", *curves["one"]], rows),
        "",
        f"{n['num_clips']} clips of {n['num_episodes']} test episodes, {n['num_given']} frames "
        "given; PSNR of the mean squared error over clips; 95 % intervals by drawing episodes "
        f"again, paired for differences; best of {n['num_samples']} for each clip and each "
        "number of steps by its squared error.",
    ]


def _actions_lines(n: dict[str, Any]) -> list[str]:
    kinds = ["real", "reconstructed", "dreamed"]
    edge = n["edge_frames"]
    rows = [
        ["all", *[interval(n[kind], 3) for kind in kinds], interval(n["ratio"], 3)],
        [f"first {edge} frames", *[number(n["first"][kind], 3) for kind in kinds], ""],
        [f"last {edge} frames", *[number(n["last"][kind], 3) for kind in kinds], ""],
        *[
            [
                name + _how_common(each),
                *[number(each[kind], 3) for kind in kinds],
                interval(each["ratio"], 3),
            ]
            for name, each in n["each"].items()
        ],
        ["uniformly random actions", "", "", number(n["random_actions"]["dreamed"], 3), ""],
    ]
    by_policy = ", ".join(f"{k} {number(v, 3)}" for k, v in n["real_by_policy"].items())
    lost = ", ".join(f"{k}: {interval(v, 1)}" for k, v in n["shuffled"]["db_lost"].items())
    return [
        *table([f"inverse dynamics, {n['measure']}", *kinds, "dreamed over real"], rows),
        "",
        f"{n['num_clips']} clips, {n['num_pairs']} pairs of frames. Real frames by who acted: "
        f"{by_policy}. With the actions of another clip, the prior loses "
        f"{interval(n['shuffled']['nats_lost'], 3)} nats a token, and dreams lose, in dB at "
        f"steps ahead, {lost}.",
    ]


def _how_common(each: dict[str, Any]) -> str:
    """How often an action was taken, or how far guessing the commonest choice gets."""
    if "count" in each:
        return f" ({each['count']})"
    return f" (commonest {number(each['commonest'], 3)})" if "commonest" in each else ""


def _stability_lines(n: dict[str, Any]) -> list[str]:
    blocks = range(len(next(iter(n["dreamed"].values()))))
    header = ["", "real", "real, reconstructed: mean, 5 to 95 %"]
    header += [f"{(b + 1) * n['block_steps']}" for b in blocks]
    rows = []
    for name, values in n["dreamed"].items():
        again, digits = n["reconstructed"][name], 1 if name == "code_perplexity" else 3
        span = f"{number(again['p5'], digits)} to {number(again['p95'], digits)}"
        shown = [number(n["real"][name], digits), f"{number(again['mean'], digits)}, {span}"]
        rows.append([name.replace("_", " "), *shown, *[number(v, digits) for v in values]])
    return [
        *table(header, rows),
        "",
        f"{n['num_dreams']} dreams of {n['num_steps']} steps under sticky random actions, means "
        f"of each block of {n['block_steps']} steps; {n['num_real_blocks']} real blocks. "
        f"Collapsed: {n['share_collapsed']:.0%} of the dreams ({n['collapse_criterion']}); "
        f"{n['share_of_blocks_outside']:.1%} of all blocks are outside. "
        f"{n['ends_passed_over']} ends were drawn; there the variables went back to those given.",
    ]


def _outcomes_lines(n: dict[str, Any]) -> list[str]:
    following, dreamed = n["next_step"], n["dreamed"]
    rows = [["reward", *[interval(e) for e in dreamed["reward_mae"].values()]]]
    for name, kinds in dreamed["variable_mae"].items():
        rows.append([name, *[interval(e) for e in kinds["dreamed"].values()]])
        rows.append([f"{name}, kept as given", *[interval(e) for e in kinds["kept"].values()]])
    return [
        *table(["mean absolute error after dreamed steps", *dreamed["reward_mae"]], rows),
        "",
        f"Given the real past ({following['num_steps']} steps): reward error "
        f"{number(following['reward_mae'], 3)} (always the mean: "
        f"{number(following['reward_mae_of_the_mean'], 3)}); ends "
        f"({following['num_ends']}): AUROC {number(following['end_auroc'], 4)}, Brier score "
        f"{number(following['end_brier'], 5)} (always the rate: "
        f"{number(following['end_brier_of_the_mean'], 5)}). Along dreams of "
        f"{dreamed['ends']['num_steps']} steps with {dreamed['ends']['num_ends']} real ends: "
        f"AUROC {number(dreamed['ends']['auroc'], 4)}.",
    ]


def _samples_lines(n: dict[str, Any]) -> list[str]:
    given = f", {n['num_given']} frame given (red)" if n["num_given"] else ""
    return [
        f"samples.png, samples.gif: {n['num_clips']} test clips, each above (left of) its "
        f"reconstruction and a sample under its conditions{given}."
    ]
