/* The dream's own thread: loads it, steps it, and sends frames to the page. */

import { Dream } from "./dream.js";
import * as ort from "./runtime/ort.wasm.min.mjs";

const MARK_DIGITS = 8; // of the hash of a frame's codes, as in a session of `play`
const GRAPHS = ["decode", "step"];

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
ort.env.logLevel = "error";

let dream = null;
let size = null;
let newest = 0; // episode; older ones that wait are skipped
let queue = Promise.resolve(); // requests are answered one after the other

onmessage = ({ data }) => {
  newest = data.episode ?? newest;
  queue = queue.then(() => answer(data)).catch((error) => {
    postMessage({ type: "error", text: inWords(error) });
  });
};

async function answer(request) {
  if (request.type === "load") await load(request.site);
  if (request.type === "begin" && request.episode === newest) await begin(request);
  if (request.type === "step") await step(request);
}

async function load(site) {
  const description = JSON.parse(await text("dream/dream.json"));
  const starts = JSON.parse(await text("dream/starts.json"));
  size = description.frame_shape;
  const sessions = {};
  let loaded = 0;
  const total = GRAPHS.reduce((sum, name) => sum + site.bytes[`dream/${name}.onnx`], 0);
  for (const name of GRAPHS) {
    const { file, sha256 } = description.graphs[name];
    const content = await download(`dream/${file}`, (bytes) => {
      loaded += bytes;
      postMessage({ type: "progress", share: loaded / total });
    });
    await check(content, sha256, file);
    sessions[name] = await ort.InferenceSession.create(content, {
      executionProviders: ["wasm"],
      graphOptimizationLevel: "all",
    });
  }
  dream = new Dream(ort, description, starts, sessions, site.stream);
  postMessage({ type: "ready", description, numStarts: starts.codes.length });
}

async function begin({ seed, start, episode }) {
  const show = (frame) => postMessage({ type: "preview", frame, size, episode });
  await dream.begin(seed, start, show);
  const mark = await markOf(dream.state.recent.data.slice(-numCodes()));
  const { variables, pose } = dream;
  postMessage({ type: "begun", mark, variables, pose, episode });
}

async function step({ action, episode }) {
  const { frame, codes, reward, terminated, nats } = await dream.step(action);
  const { variables, pose } = dream;
  const mark = await markOf(codes);
  const happened = { frame, size, reward, terminated, nats, variables, pose, mark };
  postMessage({ type: "stepped", action, episode, ...happened }, [frame.buffer]);
}

function numCodes() {
  return dream.inputs.recent.shape.slice(1).reduce((product, count) => product * count, 1);
}

/** The first digits of the sha256 of int64 codes. */
async function markOf(codes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", codes.slice().buffer));
  return hex(hash).slice(0, MARK_DIGITS);
}

async function text(file) {
  return new TextDecoder().decode(await download(file, () => {}));
}

async function download(file, advance) {
  const response = await fetch(new URL(file, import.meta.url));
  if (!response.ok) throw new Error(`${file} could not be loaded (${response.status})`);
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    advance(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function check(content, sha256, file) {
  const found = hex(new Uint8Array(await crypto.subtle.digest("SHA-256", content)));
  if (found !== sha256) {
    throw new Error(`${file} is damaged: load the page again, or build it again`);
  }
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function inWords(error) {
  const text = String(error?.message ?? error);
  if (error instanceof RangeError || /memory|allocat/i.test(text)) {
    return "There is not enough memory for the dream: close other tabs and load the page again.";
  }
  return text;
}
