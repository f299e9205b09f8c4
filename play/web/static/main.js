/* The page: from the title card through the walk to its end. */

import { Controls, HeldKeys } from "./controls.js";
import { Film, save } from "./film.js";
import { Gamepads, listen, touchPad } from "./inputs.js";
import { Walk, walkFromAddress, walkFromFile } from "./session.js";
import { Bars, Surprise, Trail, drawFrame, inDigits } from "./view.js";

const SPEEDS = { most: 60, least: 1, change: 1.25 }; // steps a second
const MEASURED = 20; // steps over which speed is averaged
// A module that uses a SIMD instruction: (func (result v128) i32.const 0 i8x16.splat ...).
const WITH_SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15,
  253, 98, 11,
]);

// Commands that a button gives while the card is shown; any other key only takes it away.
const BUTTONS_ON_CARD = new Set(["o", "f", "h", "open", "film"]);

const element = (id) => document.getElementById(id);

class Page {
  constructor(site) {
    this.site = site;
    this.held = new HeldKeys();
    this.controls = new Controls(site.controls);
    this.phase = "loading"; // then: card, walking, over, failed
    this.paused = false;
    this.showsHelp = false;
    this.fps = site.fps;
    this.seed = crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
    this.episode = 0; // answers of an earlier one are ignored
    this.isStepping = false;
    this.nextStepAt = 0;
    this.replayed = []; // actions of a walk that is shown
    this.took = [];
    this.surprise = new Surprise(element("surprise"));
    document.title = `${site.title} · VideoGPT Dream`;
    element("title").textContent = site.title;
    fillKeys(element("keys"), site.steering);
    fillKeys(element("all-keys"), [...site.steering, ...site.commands]);
    touchPad(element("pad"), this.held, this.controls);
    if (matchMedia("(pointer: coarse)").matches) document.body.classList.add("touch");
    addEventListener("hashchange", () => this.followAddress());
    addEventListener("touchstart", () => document.body.classList.add("touch"), { once: true });
    listen(element("screen"), this.held, () => this.controls, (key) => this.command(key));
    this.gamepads = new Gamepads(this.held, () => this.controls, (key) => this.command(key));
    document.addEventListener("click", (event) => this.onClick(event));
    document.addEventListener("pointerdown", (event) => {
      if (this.phase === "card" && event.target.closest(".stage, .pad")) this.command(null);
    });
    document.addEventListener("visibilitychange", () => document.hidden && this.pause(true));
    element("file").addEventListener("change", (event) => this.openFile(event.target));
    this.load();
    requestAnimationFrame(() => this.everyFrame());
  }

  load() {
    this.worker = new Worker("worker.js", { type: "module" });
    this.worker.onmessage = ({ data }) => this[`on_${data.type}`](data);
    this.worker.onerror = (event) => this.on_error({ text: event.message || "The dream failed to load." });
    this.worker.postMessage({ type: "load", site: this.site });
  }

  on_progress({ share }) {
    element("progress").value = share;
    element("loading").textContent = share < 1 ? `loading, ${Math.round(100 * share)} %` : "waking";
  }

  on_ready({ description, numStarts }) {
    this.description = description;
    this.numStarts = numStarts;
    this.bars = new Bars(element("bars"), description.variables);
    this.trail = new Trail(element("map"), description);
    element("map-button").hidden = !this.trail.exists;
    this.start = this.seed % numStarts;
    if (!this.followAddress()) this.begin();
  }

  /** Show the walk in the address; returns whether there is one. */
  followAddress() {
    try {
      const walk = walkFromAddress(location.hash, this);
      if (walk) this.replay(walk);
      return walk !== null;
    } catch (error) {
      this.note(error.message);
      return false;
    }
  }

  replay({ seed, start, actions }) {
    this.seed = seed;
    this.start = start;
    this.begin(actions);
  }

  /** Start an episode from `seed` and `start`, and first walk the given actions again. */
  begin(actions = []) {
    this.episode += 1;
    this.replayed = [...actions];
    this.walk = new Walk(this.seed, this.start);
    this.total = 0;
    this.isStepping = true; // until the dream has begun
    this.trail.clear();
    this.surprise.clear();
    if (this.phase === "over") this.phase = "walking";
    element("end").hidden = element("help").hidden = true;
    this.showsHelp = false;
    const { seed, start, episode } = this;
    this.worker.postMessage({ type: "begin", seed, start, episode });
    this.showStatus(null);
  }

  on_preview({ frame, size, episode }) {
    if (episode === this.episode) drawFrame(element("screen"), frame, size);
  }

  on_begun({ mark, variables, pose, episode }) {
    if (episode !== this.episode) return;
    this.walk.mark = mark;
    this.isStepping = false;
    this.bars.show(variables);
    this.trail.add(pose);
    this.trail.draw();
    if (this.phase !== "loading") return;
    this.phase = "card";
    element("loading").hidden = element("progress").hidden = true;
    element("enter").hidden = false;
    const isTouched = matchMedia("(pointer: coarse)").matches;
    const what = this.replayed.length ? "watch the walk" : "enter";
    element("enter").textContent = `${isTouched ? "Tap" : "Press a key"} to ${what}`;
  }

  on_stepped(happened) {
    if (happened.episode !== this.episode) return;
    this.isStepping = false;
    this.walk.add(happened.action, happened.mark);
    this.total += happened.reward;
    this.took.push(performance.now());
    if (this.took.length > MEASURED) this.took.shift();
    drawFrame(element("screen"), happened.frame, happened.size);
    this.film?.draw();
    this.variables = happened.variables;
    this.bars.show(happened.variables);
    this.trail.add(happened.pose);
    this.surprise.add(happened.nats);
    this.surprise.draw();
    if (!element("map").hidden) this.trail.draw();
    this.showStatus(happened);
    if (happened.terminated) this.over();
  }

  on_error({ text }) {
    this.phase = "failed";
    element("card").hidden = false;
    element("end").hidden = element("help").hidden = true;
    element("progress").hidden = element("enter").hidden = true;
    element("loading").hidden = false;
    element("loading").textContent = text;
  }

  over() {
    this.phase = "over";
    const health = this.description.variables.findIndex(({ name }) => name === "health");
    const isDead = health >= 0 && this.variables[health] <= 0;
    element("ended").textContent = isDead ? "You died: no health is left" : "This life is over";
    const steps = this.walk.actions.length;
    element("score").textContent = `return ${this.total.toFixed(1)} in ${steps} steps`;
    element("end").hidden = false;
  }

  everyFrame() {
    requestAnimationFrame(() => this.everyFrame());
    this.gamepads.poll();
    const now = performance.now();
    const waits = this.paused || this.showsHelp || this.isStepping || now < this.nextStepAt;
    if (this.phase !== "walking" || waits) return;
    // Late steps are not made up for.
    this.nextStepAt = Math.max(now, this.nextStepAt + 1000 / this.fps);
    this.step();
  }

  step() {
    if (this.isStepping || this.phase !== "walking") return;
    const taken = this.held.take();
    const isReplay = this.replayed.length > 0;
    const action = isReplay ? this.replayed.shift() : this.controls.resolve(taken);
    if (isReplay && !this.replayed.length) this.note("the walk is over: you steer now");
    this.isStepping = true;
    this.worker.postMessage({ type: "step", action, episode: this.episode });
    element("action").textContent = this.controls.words(action) + (isReplay ? " (replay)" : "");
  }

  showStatus(happened) {
    element("return").textContent = this.total.toFixed(1);
    element("steps").textContent = this.walk.actions.length;
    element("nats").textContent = happened ? happened.nats.toFixed(2) : "-";
    const span = this.took.at(-1) - this.took[0];
    const speed = this.took.length > 2 && !this.paused ? (1000 * (this.took.length - 1)) / span : null;
    element("speed").textContent = `${speed ? speed.toFixed(1) : "-"} of ${inDigits(this.fps)}`;
  }

  note(text) {
    element("note").textContent = text;
  }

  pause(wanted) {
    if (this.phase !== "walking" && wanted) return;
    this.paused = wanted;
    this.took = [];
    element("pause").textContent = wanted ? "Resume" : "Pause";
    element("pause").setAttribute("aria-pressed", wanted);
    this.note(wanted ? "paused" : "");
  }

  onClick(event) {
    const button = event.target.closest("button");
    if (button?.id === "enter") this.command(null);
    else if (button?.dataset.command) this.command(button.dataset.command);
    if (button && button.closest(".tools")) button.blur(); // keys steer again
  }

  /** Do what a key or a button says; null: any other key. Returns whether it was taken. */
  command(key) {
    if (this.phase === "card") {
      this.phase = "walking";
      this.nextStepAt = 0;
      element("card").hidden = true;
      this.held.releaseAll();
      if (!BUTTONS_ON_CARD.has(key)) return true;
    }
    const commands = {
      p: () => this.pause(!this.paused),
      space: () => this.pause(!this.paused),
      ".": () => {
        this.pause(true);
        this.step();
      },
      r: () => this.begin(),
      n: () => this.anotherStart(),
      "+": () => this.speed(SPEEDS.change),
      "=": () => this.speed(SPEEDS.change),
      "-": () => this.speed(1 / SPEEDS.change),
      o: () => this.toggleMap(),
      f: () => this.fullScreen(),
      h: () => this.toggleHelp(),
      escape: () => this.showsHelp && this.toggleHelp(),
      film: () => this.toggleFilm(),
      share: () => this.share(),
      save: () => this.saveWalk(),
      open: () => element("file").click(),
    };
    if (!commands[key] || !["walking", "over"].includes(this.phase)) return false;
    commands[key]();
    return true;
  }

  anotherStart() {
    this.seed += 1;
    this.start = (this.start + 1) % this.numStarts;
    this.begin();
    this.note(`start ${this.start} of ${this.numStarts}`);
  }

  speed(factor) {
    this.fps = Math.min(Math.max(this.fps * factor, SPEEDS.least), SPEEDS.most);
    this.took = [];
    this.showStatus(null);
  }

  toggleMap() {
    if (!this.trail.exists) return this.note("this world doesn't tell where you are");
    const map = element("map");
    map.hidden = !map.hidden;
    element("map-button").setAttribute("aria-pressed", !map.hidden);
    this.trail.draw();
  }

  toggleHelp() {
    this.showsHelp = !this.showsHelp;
    element("help").hidden = !this.showsHelp;
    this.held.releaseAll();
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.querySelector(".stage").requestFullscreen?.().catch(() => {});
  }

  async toggleFilm() {
    const button = element("film");
    if (this.film) {
      const { blob, ending } = await this.film.finish();
      this.film = null;
      button.textContent = "Film";
      save(blob, `${this.site.name}.${ending}`);
    } else {
      try {
        this.film = new Film(element("screen"));
        button.textContent = "Stop film";
      } catch (error) {
        this.note(error.message);
      }
    }
    button.setAttribute("aria-pressed", Boolean(this.film));
  }

  async share() {
    const address = this.walk.toAddress();
    if (!address) return this.note("this walk is too long for a link: save it as a file");
    history.replaceState(null, "", address);
    try {
      await navigator.clipboard.writeText(location.href);
      this.note("the link to this walk is copied");
    } catch {
      this.note("the link to this walk is in the address bar");
    }
  }

  saveWalk() {
    if (!this.walk.mark) return this.note("the dream has not begun yet");
    const text = this.walk.toFile(this);
    save(new Blob([text], { type: "application/json" }), `${this.site.name}-walk.json`);
  }

  async openFile(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      this.replay(walkFromFile(await file.text(), this));
      this.pause(false);
    } catch (error) {
      this.note(error.message);
    }
  }
}

function fillKeys(list, lines) {
  for (const [keys, what] of lines) {
    const term = document.createElement("dt");
    const meaning = document.createElement("dd");
    term.textContent = keys;
    meaning.textContent = what;
    list.append(term, meaning);
  }
}

async function main() {
  const fail = (text) => {
    element("progress").hidden = true;
    element("loading").textContent = text;
  };
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(WITH_SIMD)) {
    return fail("This browser has no WebAssembly with SIMD: use a newer one.");
  }
  if (!globalThis.crypto?.subtle) {
    return fail("This page needs https, or the address 127.0.0.1.");
  }
  let site = null;
  try {
    site = await (await fetch("site.json")).json();
  } catch {
    return fail("site.json could not be loaded: load the page again, or build it again.");
  }
  globalThis.page = new Page(site);
  if ("serviceWorker" in navigator) navigator.serviceWorker.register("offline.js").catch(() => {});
}

main();
