/* What was walked: as a file of `python -m play --replay`, and in the page's address. */

const FORMAT = "videogpt-dream session";
const VERSION = 4;
const MOST_ADDRESS = 4000; // characters; longer walks go into a file
const MOST_STEPS = 100000;

/** The current walk: seed, start, and every action with the mark of what came after it. */
export class Walk {
  constructor(seed, start) {
    Object.assign(this, { seed, start, mark: null, actions: [], marks: [] });
  }

  add(action, mark) {
    this.actions.push(action);
    this.marks.push(mark);
  }

  /** The text of a session file. */
  toFile({ description, site }) {
    const head = {
      format: FORMAT,
      version: VERSION,
      env_id: site.dreamId,
      checkpoint: description.checkpoint,
      ...site.sampling,
      frame_size: description.frame_shape.slice(0, 2),
    };
    const begun = { seed: this.seed, start: this.start, mark: this.mark };
    const steps = this.actions.map((action, i) => [action, this.marks[i]]);
    return `[\n${[head, begun, ...steps].map((entry) => JSON.stringify(entry)).join(",\n")}\n]\n`;
  }

  /** The walk for the address, or null if it is too long for one. */
  toAddress() {
    const runs = [];
    for (const action of this.actions) {
      const last = runs.at(-1);
      if (last && JSON.stringify(last[0]) === JSON.stringify(action)) last[1] += 1;
      else runs.push([action, 1]);
    }
    const text = btoa(JSON.stringify(runs)).replaceAll("+", "-").replaceAll("/", "_");
    const address = `#seed=${this.seed}&start=${this.start}&walk=${text.replace(/=+$/, "")}`;
    return address.length <= MOST_ADDRESS ? address : null;
  }
}

/** The first episode of a session file. Throws an Error in words. */
export function walkFromFile(text, world) {
  let entries;
  try {
    entries = JSON.parse(text);
  } catch {
    throw new Error("This is no session: it is not JSON.");
  }
  const [head, begun, ...rest] = Array.isArray(entries) ? entries : [];
  if (head?.format !== FORMAT || head.version !== VERSION || !begun) {
    throw new Error("This is no session of this program.");
  }
  if (head.checkpoint !== world.description.checkpoint) {
    throw new Error(`This walk is of another dream: ${head.checkpoint}.`);
  }
  const end = rest.findIndex((entry) => !Array.isArray(entry));
  const steps = end < 0 ? rest : rest.slice(0, end);
  return checked(begun.seed, begun.start, steps.map(([action]) => action), world);
}

/** The walk in an address, or null. Throws an Error in words. */
export function walkFromAddress(hash, world) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  if (!given.has("seed")) return null;
  let runs;
  try {
    const text = given.get("walk") ?? "";
    runs = text ? JSON.parse(atob(text.replaceAll("-", "+").replaceAll("_", "/"))) : [];
    const isCount = ([, count]) => Number.isInteger(count) && count > 0 && count <= MOST_STEPS;
    const total = runs.reduce((sum, [, count]) => sum + count, 0);
    if (!runs.every(isCount) || total > MOST_STEPS) throw new Error();
  } catch {
    throw new Error("The walk in this address is damaged.");
  }
  const actions = runs.flatMap(([action, count]) => Array(count).fill(action));
  return checked(Number(given.get("seed")), Number(given.get("start") ?? 0), actions, world);
}

function checked(seed, start, actions, { numStarts, controls }) {
  const isWhole = (value, most) => Number.isSafeInteger(value) && value >= 0 && value <= most;
  const fits = (action) => {
    const values = controls.isDiscrete ? [action] : action;
    return (
      Array.isArray(values) &&
      values.length === controls.components.length &&
      values.every((value, i) => {
        const { low, high, isInteger } = controls.components[i];
        return typeof value === "number" && value >= low && value <= high &&
          (!isInteger || Number.isInteger(value));
      })
    );
  };
  if (!isWhole(seed, Number.MAX_SAFE_INTEGER) || !isWhole(start, numStarts - 1)) {
    throw new Error("This walk has no seed, or starts at a moment that this dream doesn't have.");
  }
  if (actions.length > MOST_STEPS || !actions.every(fits)) {
    throw new Error("This walk has actions that this world doesn't know.");
  }
  return { seed, start, actions };
}
