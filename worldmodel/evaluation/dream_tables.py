"""The tables of a dream's report, from numbers that went through `to_json`."""

import math
from typing import Any

from worldmodel.evaluation.tables import Blocks, Table, interval, number


def tokenizer_blocks(n: dict[str, Any]) -> Blocks:
    return [
        Table(
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
    ]


def likelihood_blocks(n: dict[str, Any]) -> Blocks:
    def row(name: str, nats: float, shown: str, accuracy: float | None) -> list[str]:
        return [name, shown, number(nats / math.log(2)), number(accuracy, 3)]

    mean = n["nats_a_token"]
    return [
        Table(
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
        f"{n['num_clips']} clips, {n['num_tokens']} tokens; the prior takes "
        f"{number(n['bits_a_pixel_channel'], 4)} bits a pixel-channel for the codes (not for "
        f"the exact pixels). Copying: the last frame's token with probability "
        f"{n['copy_weight']:g} (the best for these clips), else the training split's unigram."
        + _given_poses(n["pose_nats"]),
        _curves(
            "nats a token, by real frames seen",
            n["frames_seen"],
            {"prior": "prior", "copy": "copying, else unigram", "unigram": "unigram"},
        ),
        _curves(
            "nats a token of the real frame, at steps ahead",
            n["steps_ahead"],
            {
                "prior": "prior, past dreamed since the given frames",
                "teacher_forced": "prior, past real",
                "copy": "copying the last given frame, else unigram",
                "unigram": "unigram",
            },
        ),
        f"{n['num_given']} frames are given. A past that is dreamed under the recorded actions "
        "drifts from the real one, so its curve says how fast the future opens, and how sure "
        "the prior is of what didn't come.",
    ]


def _lost_in_poses(nats: float | None) -> str:
    return "" if nats is None else f" (given the poses; these lose {number(nats)} nats a frame)"


def _given_poses(nats: float | None) -> str:
    if nats is None:
        return ""
    return (
        " Codes are predicted given the recorded pose of their frame, as copying and unigram are "
        f"not; the pose itself takes {number(nats)} nats a frame, of the density of how it moved "
        "in standard steps."
    )


def _curves(what: str, curves: dict[str, Any], names: dict[str, str]) -> Table:
    """Some points of curves by a number of frames."""
    points = list(next(iter(curves.values())))
    last = points[-1]
    chosen = [k for k in points if int(k).bit_count() == 1 or k == last]
    rows = [[title, *[interval(curves[name][k]) for k in chosen]] for name, title in names.items()]
    return Table([what, *chosen], rows)


def horizon_blocks(n: dict[str, Any]) -> Blocks:
    curves, over = n["psnr"], n["one_over_copy"]
    names = {
        "copy": "copying the last given frame",
        "one": "dream, one sample",
        "sharp": "the same as it is shown",
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
        Table(["PSNR, dB, at steps ahead", *curves["one"]], rows),
        f"{n['num_clips']} clips of {n['num_episodes']} test episodes, {n['num_given']} frames "
        "given; PSNR of the mean squared error over clips; 95 % intervals by drawing episodes "
        f"again, paired for differences; best of {n['num_samples']} for each clip and each "
        "number of steps by its squared error.",
        Table(
            ["SSIM, at steps ahead", *n["ssim"]["one"]],
            [
                [names[name], *[interval(entry, 3) for entry in n["ssim"][name].values()]]
                for name in names
                if name in n["ssim"]
            ],
        ),
        "SSIM of Wang et al. 2004, mean over colours: 1 for equal pictures; it minds structure "
        "more than light.",
    ]


def actions_blocks(n: dict[str, Any]) -> Blocks:
    kinds = ["still", "real", "reconstructed", "dreamed"]
    edge = n["edge_frames"]
    rows = [
        _row_of_all(n, kinds),
        [f"first {edge} frames", *[number(n["first"][kind], 3) for kind in kinds], ""],
        [f"last {edge} frames", *[number(n["last"][kind], 3) for kind in kinds], ""],
        *_rows_of_each(n["each"], kinds),
        ["uniformly random actions", "", "", "", number(n["random_actions"]["dreamed"], 3), ""],
    ]
    by_policy = ", ".join(f"{k} {number(v, 3)}" for k, v in n["real_by_policy"].items())
    lost = ", ".join(f"{k}: {interval(v, 1)}" for k, v in n["shuffled"]["db_lost"].items())
    return [
        Table([f"inverse dynamics, {n['measure']}", *kinds, "dreamed over real"], rows),
        f"{n['num_clips']} clips, {n['num_pairs']} pairs of frames. Real frames by who acted: "
        f"{by_policy}. With the actions of another clip, the prior loses "
        f"{interval(n['shuffled']['nats_lost'], 3)} nats a token"
        f"{_lost_in_poses(n['shuffled']['pose_nats_lost'])}, and dreams lose, in dB at "
        f"steps ahead, {lost}. Still: the first frame of a real pair twice, which shows habits "
        "but no motion.",
        _by_who_acted(n["ratio_by_policy"]),
        "Players act for reasons that can be seen; a dream that has gone elsewhere lost them, and "
        "so shows fewer habits. Random players have none but to hold an action for some steps.",
        *_taught_by_random(n["taught_by_random"], n["measure"], kinds),
    ]


def _row_of_all(n: dict[str, Any], kinds: list[str]) -> list[str]:
    return ["all", *[interval(n[kind], 3) for kind in kinds], interval(n["ratio"], 3)]


def _rows_of_each(each: dict[str, Any], kinds: list[str]) -> list[list[str]]:
    return [
        [
            name + _how_common(of),
            *[number(of[kind], 3) for kind in kinds],
            interval(of["ratio"], 3),
        ]
        for name, of in each.items()
    ]


def _taught_by_random(n: dict[str, Any] | None, measure: str, kinds: list[str]) -> Blocks:
    if n is None:
        return []
    rows = [_row_of_all(n, kinds), *_rows_of_each(n["each"], kinds)]
    return [
        Table([f"taught by random players, {measure}", *kinds, "dreamed over real"], rows),
        "The same clips, read by a network that learned from random players alone, of whose steps "
        f"the train split has {n['num_steps']}. It knows no habit but theirs, to hold an action "
        "for some steps: what it tells beyond Still, the action did.",
    ]


def _by_who_acted(n: dict[str, Any]) -> Table:
    factors = list(next(iter(n.values()))["each"])
    return Table(
        ["dreamed over real, by who acted", "clips", "all", *factors],
        [
            [
                policy,
                str(of["num_clips"]),
                interval(of["all"]),
                *[interval(of["each"][factor]) for factor in factors],
            ]
            for policy, of in n.items()
        ],
    )


def _how_common(each: dict[str, Any]) -> str:
    """How often an action was taken, or how far guessing the commonest choice gets."""
    if "count" in each:
        return f" ({each['count']})"
    return f" (commonest {number(each['commonest'], 3)})" if "commonest" in each else ""


def stability_blocks(n: dict[str, Any]) -> Blocks:
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
        Table(header, rows),
        f"{n['num_dreams']} dreams of {n['num_steps']} steps under sticky random actions, means "
        f"of each block of {n['block_steps']} steps; {n['num_real_blocks']} real blocks. "
        f"Collapsed: {n['share_collapsed']:.0%} of the dreams ({n['collapse_criterion']}); "
        f"{n['share_of_blocks_outside']:.1%} of all blocks are outside. "
        f"{n['ends_passed_over']} ends were drawn; there the variables went back to those given.",
    ]


def outcomes_blocks(n: dict[str, Any]) -> Blocks:
    following, dreamed = n["next_step"], n["dreamed"]
    rows = [["reward", *[interval(e) for e in dreamed["reward_mae"].values()]]]
    for name, kinds in dreamed["variable_mae"].items():
        rows.append([name, *[interval(e) for e in kinds["dreamed"].values()]])
        rows.append([f"{name}, kept as given", *[interval(e) for e in kinds["kept"].values()]])
    return [
        Table(["mean absolute error after dreamed steps", *dreamed["reward_mae"]], rows),
        f"Given the real past ({following['num_steps']} steps) the reward's error is "
        f"{number(following['reward_mae'], 3)} (always the mean: "
        f"{number(following['reward_mae_of_the_mean'], 3)}).",
        Table(
            [
                "given the real past",
                "how many",
                "AUROC",
                "calibration error",
                "Brier score",
                "always the rate",
                "AUROC along dreams",
                "how many there",
            ],
            [_event_row(kind, following[kind], dreamed[kind]) for kind in ("ends", "events")],
        ),
        _event_words(n["common_reward"])
        + " Along dreams: their chance at the step where the real episode brought one, dreamed "
        f"under the recorded actions ({dreamed['ends']['num_steps']} steps; for ends, with "
        "windows that end real episodes, so only the order counts).",
        *_changes_blocks(following["changes"], dreamed["changes"]),
    ]


def _changes_blocks(foretold: dict[str, Any], dreamed: dict[str, Any]) -> Blocks:
    if not foretold:
        return []
    header = [
        "in 100 steps",
        "recorded",
        "predicted from the real past",
        "AUROC",
        "in the clips",
        "in dreams of them",
    ]

    def times(rate: dict[str, Any]) -> str:
        ends = {name: rate[name] and 100 * rate[name] for name in ("value", "low", "high")}
        return interval({**rate, **ends}, 2)

    rows = [
        [
            f"{name} {kind}",
            times(of["recorded"]),
            times(of["foretold"]),
            interval(of["auroc"], 3),
            times(dreamed[name][kind]["recorded"]),
            times(dreamed[name][kind]["dreamed"]),
        ]
        for name, kinds in foretold.items()
        for kind, of in kinds.items()
    ]
    return [
        Table(header, rows),
        "Dreams go under the recorded actions: what a player goes after or keeps away from comes "
        "less surely there than in the clips.",
    ]


def _event_row(kind: str, n: dict[str, Any] | None, dreamed: dict[str, Any] | None) -> list[str]:
    if n is None or dreamed is None:
        return [kind, *["-"] * 7]
    return [
        kind,
        str(n["count"]),
        interval(n["auroc"], 3),
        number(n["calibration_error"], 4),
        number(n["brier"], 5),
        number(n["brier_of_the_rate"], 5),
        interval(dreamed["auroc"], 3),
        str(dreamed["count"]),
    ]


def _event_words(common_reward: float | None) -> str:
    if common_reward is None:
        return "No reward is common enough here to call others events."
    return f"Event: a step with another reward than the commonest one, {common_reward:g}."


def policies_blocks(n: dict[str, Any]) -> Blocks:
    def rows(measure: str) -> list[list[str]]:
        return [
            [policy, str(of["num_clips"]), str(of["num_episodes"])]
            + ([interval(of["nats_a_token"])] if measure == "over_copy" else [])
            + [interval(of[measure][str(k)], 1) for k in n["steps"]]
            for policy, of in n["policies"].items()
        ]

    steps = [str(k) for k in n["steps"]]
    return [
        Table(
            ["dream over copying, dB, at steps ahead", "clips", "episodes", "nats a token", *steps],
            rows("over_copy"),
        ),
        Table(["PSNR of the dream, dB, at steps ahead", "clips", "episodes", *steps], rows("psnr")),
        "One dream of each clip; nats a token given the real past; intervals by drawing a "
        "policy's episodes again.",
    ]


def surprise_blocks(n: dict[str, Any]) -> Blocks:
    rows = []
    for name, of in n["kinds"].items():
        apart = [interval(of[key], 3) if key in of else "" for key in ("auroc", "auroc_of_means")]
        rise = interval(of["rise"]) if "rise" in of else ""
        rows.append([name, interval(of["nats_a_token"]), rise, *apart])
    together = f"means of {n['frames_of_a_mean']} frames"
    return [
        Table(
            ["frames", "surprise, nats a token", "rise", "AUROC, single frames", together],
            rows,
        ),
        f"{n['num_clips']} clips of {n['frames_a_clip']} frames. AUROC: the chance that a frame of "
        "this kind surprises more than a recorded one: 0.5 says nothing, 1 tells all. Mirrored, "
        "inverted and noisy clips are altered throughout, their given frames too, and keep their "
        "actions; a spliced frame follows the real past; noise by its standard deviation, pixels "
        "in [0, 1]. Dreams are drawn with the settings below: a temperature under 1 lowers their "
        "surprise, guidance may raise it.",
        "surprise-frames.png, rows from the top: " + ", ".join(n["shown"]) + ".",
    ]
