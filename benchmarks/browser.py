"""The page in a browser: python -m benchmarks.browser --env dream-doom

Opens the page in headless Chromium and walks through it: the time until one can enter, steps per
second of its one thread of WebAssembly beside those of PyTorch's, late frames at the game's own
pace, and the bytes that a host of static files sends.
"""

import gzip
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
from playwright.sync_api import sync_playwright

import envs  # noqa: F401  registers the environments
from benchmarks.measuring import MEBIBYTE, Output, Results, measured_on, run_benchmark
from play.web.server import served
from play.web.site import build
from worldmodel.command import check_numbers
from worldmodel.errors import UserError
from worldmodel.evaluation.tables import Blocks, Table
from worldmodel.interface.sampling import SamplingOptions

CHROMIUM = Path("/usr/bin/chromium")
TIMEOUT_MS = 120_000
LATE_MS = 100
# Takes steps as fast as the worker answers; returns the milliseconds of each.
WALK = """async (count) => {
  const { page } = window;
  const took = [];
  page.phase = "walking";
  page.paused = true;
  for (let i = 0; i < count; i++) {
    if (page.phase === "over") page.begin();
    while (page.isStepping) await new Promise((done) => setTimeout(done));
    const began = performance.now();
    page.isStepping = true;
    const action = page.controls.resolve({ keys: [], motion: [0, 0] });
    page.worker.postMessage({ type: "step", action, episode: page.episode });
    while (page.isStepping) await new Promise((done) => setTimeout(done));
    took.push(performance.now() - began);
  }
  return took;
}"""
# Walks at the game's own pace; returns the milliseconds between frames that were drawn.
PACE = """async (seconds) => {
  const { page } = window;
  const gaps = [];
  page.paused = false;
  let last = null;
  const end = performance.now() + 1000 * seconds;
  let before = page.walk.actions.length;
  while (performance.now() < end) {
    await new Promise(requestAnimationFrame);
    if (page.phase === "over") { page.begin(); last = null; }
    const now = page.walk.actions.length;
    if (now === before) continue;
    before = now;
    if (last !== null && now > 1) gaps.push(performance.now() - last);
    last = performance.now();
  }
  return gaps;
}"""


@dataclass(frozen=True)
class Options(Output):
    """Measure a dream's page in a browser."""

    env: str = "dream-doom"
    """The dream."""
    steps: int = 100
    """Steps as fast as possible."""
    seconds: float = 60
    """How long to walk at the game's own pace."""
    chromium: Path = CHROMIUM
    """The browser."""


def measure(options: Options) -> Results:
    check_numbers(options, above_zero=["seconds"], steps=2)
    if not options.chromium.exists():
        raise UserError(f"{options.chromium} does not exist: name a Chromium with --chromium")
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        build(options.env, site, SamplingOptions())
        sent = sum(len(gzip.compress(p.read_bytes())) for p in site.rglob("*") if p.is_file())
        with served(site, port=0) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=options.chromium, args=["--no-sandbox"]
            )
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("#enter:not([hidden])", timeout=TIMEOUT_MS)
            ready = time.perf_counter() - began
            took = sorted(page.evaluate(WALK, options.steps))
            gaps = page.evaluate(PACE, options.seconds)
            fps = page.evaluate("window.page.site.fps")
            browser.close()
    late = sum(gap > 1000 / fps + LATE_MS for gap in gaps)
    return {
        "env": options.env,
        "sent_mib": sent / MEBIBYTE,
        "ready_s": ready,
        "steps_per_s": 1000 * len(took) / sum(took),
        "step_ms": [took[0], took[len(took) // 2]],
        "torch_ms": _torch_ms(options),
        "frames": len(gaps),
        "late": late,
    }


def _torch_ms(options: Options) -> list[float]:
    """The fastest and the median step of the same dream in PyTorch."""
    env: Any = gymnasium.make("VideoGPTDream-v0", checkpoint=options.env)
    env.reset(seed=0)
    action = env.unwrapped.model.config.actions.idle
    took = []
    for _ in range(options.steps):
        began = time.perf_counter()
        *_, terminated, _, _ = env.step(action)
        took.append(1000 * (time.perf_counter() - began))
        if terminated:
            env.reset()
    took.sort()
    return [took[0], took[len(took) // 2]]


def tables(results: Results) -> Blocks:
    rows = [
        ["sent by a host, gzip, MiB", f"{results['sent_mib']:.1f}"],
        ["open to ready, s", f"{results['ready_s']:.1f}"],
        ["steps/s as fast as possible", f"{results['steps_per_s']:.1f}"],
        ["step, fastest and median, ms", _shown(results["step_ms"])],
        ["the same in PyTorch, ms", _shown(results["torch_ms"])],
        ["frames at the game's pace", f"{results['frames']}"],
        [f"of them over {LATE_MS} ms late", f"{results['late']}"],
    ]
    return [Table(["of the page", results["env"]], rows), measured_on(results)]


def _shown(milliseconds: list[float]) -> str:
    return ", ".join(f"{ms:.1f}" for ms in milliseconds)


if __name__ == "__main__":
    run_benchmark("browser", Options, measure, tables)
