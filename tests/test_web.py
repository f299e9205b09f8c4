"""The page in a real browser: headless Chromium, driven by Playwright."""

import json
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from conftest import one_line_error
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from envs.exporting import seed_path
from envs.vector_dream import STREAM
from play.replay_pilot import ReplayPilot
from play.session import read_session
from play.web import runtime
from play.web.__main__ import main
from play.web.server import HOST, served
from play.web.site import build, is_built
from play.worlds import choose_world
from worldmodel import randomness
from worldmodel.checkpoint import load_checkpoint
from worldmodel.errors import UserError
from worldmodel.interface.actions import ActionSpec
from worldmodel.interface.controls import Controls, default_controls
from worldmodel.interface.sampling import SamplingOptions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAKES_MS = 60_000
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install Debian's package chromium"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("web") / "site"
    with pytest.MonkeyPatch.context() as patched:
        # The checks of shapes are no code that torch can trace.
        patched.setattr(jaxtyping.config, "jaxtyping_disable", True)
        try:
            runtime.runtime_files()
        except UserError as error:
            pytest.skip(str(error))
        build("dream-doom", out, SamplingOptions())
    return out


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site, port=0) as at:
        yield at


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1000, "height": 1000})
    yield opened
    opened.close()


class Visit:
    """An opened page, and what it said and asked for."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.page: Page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def wake(self) -> "Visit":
        self.page.wait_for_selector("#enter:not([hidden])", timeout=WAKES_MS)
        return self

    def enter(self, *, paused: bool = False) -> "Visit":
        self.wake()
        self.run(f"page.paused = {json.dumps(paused)}")
        self.page.keyboard.press("x")
        return self

    def run(self, code: str):
        return self.page.evaluate(code)

    def picture(self) -> str:
        return self.run("document.getElementById('screen').toDataURL()")

    def until(self, condition: str) -> None:
        """Wait for it; the page's policy forbids Playwright's own way."""
        for _ in range(100):
            if self.run(condition):
                return
            self.page.wait_for_timeout(100)
        pytest.fail(f"never: {condition}")

    def walk(self, actions: list[int]) -> None:
        """Take these actions as fast as possible."""
        self.run(
            f"""(async () => {{
              for (const action of {json.dumps(actions)}) {{
                while (page.isStepping) await new Promise((done) => setTimeout(done));
                if (page.phase === "over") break;
                page.replayed = [action];
                page.step();
              }}
              while (page.isStepping) await new Promise((done) => setTimeout(done));
            }})()"""
        )


def test_a_walk_in_the_browser_is_the_walk_of_pytorch(context, address, tmp_path):
    visit = Visit(context, address).enter(paused=True)
    rng = np.random.default_rng(0)
    env = choose_world("dream-doom").open(print)
    same = 0
    for number in range(5):
        visit.run(f"page.seed = {1000 + number}, page.start = {3 * number}, page.begin()")
        visit.walk(rng.integers(0, 4, 10).repeat(4).tolist())
        file = tmp_path / f"walk-{number}.json"
        file.write_text(visit.run("page.walk.toFile(page)"))
        session = read_session(file)
        pilot = ReplayPilot(env, session)
        while not pilot.is_over:
            pilot.step(0)
        assert pilot.num_frames > 20
        same += pilot.first_difference is None
    env.close()
    assert same >= 4  # rounding may change one code in thousands
    assert visit.said == []


def test_people_walk_with_keys_and_nothing_else_is_asked(context, address):
    visit = Visit(context, address).wake()
    expect(visit.page.locator("#title")).to_have_text("A dream of Doom: Health Gathering Supreme")
    expect(visit.page.locator("#keys")).to_contain_text("forward")
    visit.run("page.seed = 1000, page.start = 0, page.begin()")  # nobody dies soon
    first = visit.picture()
    assert len(first) > 1000  # a picture, not one colour
    visit.page.keyboard.press("ArrowUp")
    expect(visit.page.locator("#card")).to_be_hidden()
    visit.page.keyboard.down("ArrowUp")
    expect(visit.page.locator("#action")).to_have_text("forward", timeout=5000)
    visit.page.wait_for_timeout(1500)
    visit.page.keyboard.up("ArrowUp")
    assert visit.picture() != first
    steps = int(visit.page.inner_text("#steps"))
    assert steps >= 3
    visit.page.keyboard.press("p")
    expect(visit.page.locator("#note")).to_have_text("paused")
    visit.page.wait_for_timeout(300)
    paused = visit.page.inner_text("#steps")
    visit.page.wait_for_timeout(500)
    assert visit.page.inner_text("#steps") == paused
    visit.page.keyboard.press(".")
    expect(visit.page.locator("#steps")).to_have_text(str(int(paused) + 1))
    visit.page.keyboard.press("h")
    expect(visit.page.locator("#help")).to_contain_text("restart from the same moment")
    visit.page.keyboard.press("h")
    visit.page.keyboard.press("n")
    expect(visit.page.locator("#note")).to_contain_text("of 16")
    expect(visit.page.locator("#steps")).to_have_text("0")
    assert float(visit.page.inner_text("#bars output >> nth=0")) > 0
    assert all(url.startswith((address, f"blob:{address}")) for url in visit.asked)
    assert visit.said == []


def test_an_address_shows_the_same_walk(context, address):
    visit = Visit(context, address).enter(paused=True)
    visit.walk([3, 3, 1, 1, 3, 0])
    visit.run("page.share()")
    shared = visit.page.url
    assert "#seed=" in shared
    other = Visit(context, shared).wake()
    expect(other.page.locator("#enter")).to_have_text("Press a key to watch the walk")
    other.page.keyboard.press("x")
    expect(other.page.locator("#note")).to_have_text("the walk is over: you steer now")
    other.until("page.walk.marks.length >= 6")
    taken = "[page.walk.seed, page.walk.start, page.walk.marks.slice(0, 6)]"
    assert other.run(taken) == visit.run(taken)
    for hash, message in (
        ("#seed=1&start=0&walk=%%%", "The walk in this address is damaged."),
        ("#seed=1&start=99", "starts at a moment that this dream doesn't have"),
        ("#seed=-1&start=0", "has no seed, or starts at"),
        ("#seed=1&start=0&walk=W1szLDRlOV0sWzMsLTRlOV1d", "The walk in this address is damaged."),
        ("#seed=1&start=0&walk=W1s5LDFdXQ", "has actions that this world doesn't know"),
    ):
        said = visit.run(
            f"""import("./session.js").then(({{ walkFromAddress }}) => {{
              try {{ return walkFromAddress({json.dumps(hash)}, page); }}
              catch (error) {{ return error.message; }}
            }})"""
        )
        assert message in said


def test_files_of_walks_are_opened_and_others_refused(context, address, tmp_path):
    visit = Visit(context, address).enter(paused=True)
    visit.walk([3, 2, 2, 3])
    with visit.page.expect_download() as saved:
        visit.page.click("text=Save walk")
    file = tmp_path / "walk.json"
    saved.value.save_as(file)
    assert read_session(file).episodes[0].actions == (3, 2, 2, 3)
    marks = visit.run("page.walk.marks")
    visit.run("page.anotherStart()")
    visit.page.set_input_files("#file", file)
    visit.until("page.walk.marks.length >= 4")
    assert visit.run("page.walk.marks.slice(0, 4)") == marks
    file.write_text("no JSON")
    visit.page.set_input_files("#file", file)
    expect(visit.page.locator("#note")).to_have_text("This is no session: it is not JSON.")
    head, begun = json.loads(saved.value.path().read_text())[:2]
    for other, actions, message in (
        ({"checkpoint": "dream-battle2"}, [], "This walk is of another dream: dream-battle2."),
        ({}, [[9, "a"]], "This walk has actions that this world doesn't know."),
    ):
        file.write_text(json.dumps([head | other, begun, *actions]))
        visit.page.set_input_files("#file", file)
        expect(visit.page.locator("#note")).to_have_text(message)


def test_the_page_works_without_a_network(browser, site, tmp_path):
    context = browser.new_context()
    with served(site, port=0) as address:
        visit = Visit(context, address).wake()
        visit.run("navigator.serviceWorker.ready.then(() => true)")
    # The server is gone.
    visit.page.reload()
    visit.enter(paused=True)
    visit.walk([3, 3])
    assert visit.run("page.walk.actions") == [3, 3]
    # Another dream at the same address takes its place at once.
    port = int(address.rsplit(":", 1)[1].strip("/"))
    other = shutil.copytree(site, tmp_path / "other")
    description = json.loads((other / "site.json").read_text())
    changed = {**description, "version": "another", "title": "Another dream"}
    (other / "site.json").write_text(json.dumps(changed))
    with served(other, port=port):
        visit.page.reload()
        visit.wake()
        expect(visit.page.locator("#title")).to_have_text("Another dream")
    context.close()


def test_a_phone_steers_by_touch(browser, address):
    context = browser.new_context(
        viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True
    )
    visit = Visit(context, address).wake()
    assert visit.run("document.documentElement.scrollWidth") <= 320
    visit.page.tap("#enter")
    expect(visit.page.locator(".stick")).to_be_visible()
    box = visit.page.locator(".stick").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + 5
    touch = {"pointerId": 1, "pointerType": "touch", "clientX": x, "clientY": y, "bubbles": True}
    visit.run(
        "Element.prototype.setPointerCapture = Element.prototype.hasPointerCapture = () => true"
    )
    visit.page.dispatch_event(".stick", "pointerdown", touch)
    expect(visit.page.locator("#action")).to_have_text("forward")
    visit.page.dispatch_event(".stick", "pointerup", touch)
    expect(visit.page.locator("#action")).to_have_text("noop")
    context.close()


def test_a_gamepad_steers(browser, address):
    context = browser.new_context()
    context.add_init_script(
        "navigator.getGamepads = () => [{axes: [1, 0, 0, 0], buttons: []}, null, null, null]"
    )
    visit = Visit(context, address).enter()
    expect(visit.page.locator("#action")).to_have_text("right")
    context.close()


def test_a_film_is_saved(context, address, tmp_path):
    visit = Visit(context, address).enter()
    visit.page.click("#film")
    visit.page.wait_for_timeout(1500)
    with visit.page.expect_download() as saved:
        visit.page.click("#film")
    assert saved.value.suggested_filename == "dream-doom.webm"
    saved.value.save_as(tmp_path / "film.webm")
    content = (tmp_path / "film.webm").read_bytes()
    assert content.startswith(b"\x1a\x45\xdf\xa3")
    assert len(content) > 5000


def test_errors_are_in_words(browser, address):
    context = browser.new_context(service_workers="block")
    context.route("**/step.onnx", lambda route: route.fulfill(body=b"something else"))
    visit = Visit(context, address)
    expect(visit.page.locator("#loading")).to_contain_text("step.onnx is damaged", timeout=WAKES_MS)
    context.unroute("**/step.onnx")
    context.route("**/step.onnx", lambda route: route.fulfill(status=404))
    visit = Visit(context, address)
    expect(visit.page.locator("#loading")).to_contain_text(
        "could not be loaded (404)", timeout=WAKES_MS
    )
    context.close()
    context = browser.new_context()
    context.add_init_script("WebAssembly.validate = () => false")
    visit = Visit(context, address)
    expect(visit.page.locator("#loading")).to_contain_text("no WebAssembly with SIMD")
    context.close()


def test_random_numbers_are_those_of_numpy(context, address):
    visit = Visit(context, address)
    seeds = [0, 1, 2**31 - 1, 2**32, 2**40 + 7, *range(100, 110)]
    found = visit.run(
        f"""import("./random.js").then(({{ Random }}) => {json.dumps(seeds)}.map((seed) => {{
          const random = new Random(seed, {json.dumps(seed_path())});
          return [...random.uniforms(67), ...random.uniforms(66)];
        }}))"""
    )
    for seed, numbers in zip(seeds, found, strict=True):
        rng = randomness.generator(seed, STREAM)
        wanted = np.concatenate([rng.random(67, np.float32), rng.random(66, np.float32)])
        np.testing.assert_array_equal(np.asarray(numbers, np.float32), wanted)


def _worlds() -> list[Controls]:
    controls = []
    for name in ("dream-doom", "dream-battle2", "dream-pushing"):
        checkpoint = load_checkpoint(name)
        spec, own = checkpoint.model.config.actions, checkpoint.world.controls
        controls.append(Controls.from_json(own, spec) if own else default_controls(spec))
    controls.append(default_controls(ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 0.5))))
    controls.append(default_controls(ActionSpec("multi_discrete", sizes=(2, 3, 7))))
    return controls


def test_keys_mean_the_same_as_in_the_window(context, address, site):
    from play.web.site import for_the_page

    visit = Visit(context, address)
    rng = np.random.default_rng(0)
    for controls in _worlds():
        keys = sorted(controls.key_names)
        held = [rng.permutation(keys)[: rng.integers(0, 5)].tolist() for _ in range(60)]
        moved = rng.integers(-300, 300, (60, 2)).tolist()
        given = json.dumps([for_the_page(controls), held, moved])
        found = visit.run(
            f"""import("./controls.js").then(({{ Controls }}) => {{
              const [given, held, moved] = {given};
              const controls = new Controls(given);
              return held.map((keys, i) => {{
                const action = controls.resolve({{ keys, motion: moved[i] }});
                return [action, controls.words(action)];
              }});
            }})"""
        )
        for keys, motion, (action, words) in zip(held, moved, found, strict=True):
            wanted = controls.resolve(keys, tuple(motion))
            assert controls.actions.plain(action) == wanted
            assert words == controls.words(wanted)


def test_a_page_is_built_once_and_only_into_a_folder_of_its_own(site, tmp_path):
    assert is_built("dream-doom", site, SamplingOptions())
    assert not is_built("dream-doom", site, SamplingOptions(temperature=0.5))
    before = (site / "site.json").stat().st_mtime_ns
    build("dream-doom", site, SamplingOptions())
    assert (site / "site.json").stat().st_mtime_ns == before
    (tmp_path / "own").write_text("mine")
    with pytest.raises(UserError, match="is a folder of something else: choose another name"):
        build("dream-doom", tmp_path, SamplingOptions())
    assert (tmp_path / "own").read_text() == "mine"
    with pytest.raises(UserError, match="only dreams run in a browser"):
        build("doom-hgs", tmp_path / "site", SamplingOptions())


def test_a_runtime_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = tmp_path / "onnxruntime-web" / "-" / f"onnxruntime-web-{runtime.VERSION}.tgz"
    package.parent.mkdir(parents=True)
    package.write_bytes(b"something else")
    with served(tmp_path, port=0) as registry:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", registry)
        with pytest.raises(UserError, match="has an unexpected checksum"):
            runtime.runtime_files()
        package.unlink()
        with pytest.raises(UserError, match=r"could not be downloaded from .* \(HTTP Error 404"):
            runtime.runtime_files()


def test_the_server_is_for_this_machine_alone(site):
    with served(site, port=0) as address:
        port = int(address.rsplit(":", 1)[1].strip("/"))
        assert address.startswith(f"http://{HOST}:")
        with urllib.request.urlopen(f"{address}runtime/ort-wasm-simd-threaded.wasm") as response:
            assert response.headers["Content-Type"] == "application/wasm"
        with (
            pytest.raises(UserError, match=f"port {port} can't be used: "),
            served(site, port=port),
        ):
            pass
        with served(site) as usual, served(site) as other:
            assert usual != other
        # Another address of this machine, where a server for everybody would answer.
        with socket.socket() as elsewhere, pytest.raises(ConnectionRefusedError):
            elsewhere.connect(("127.0.0.2", port))


def test_mistakes_of_the_command_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["web", "--env", "doom-hgs", "--out", str(tmp_path / "x")])
    assert "only dreams run in a browser" in one_line_error(main)
