/* From keys, mouse, touch and gamepads to actions; the same rules as worldmodel/interface/controls.py. */

const NAMED = {
  ArrowUp: "up",
  ArrowDown: "down",
  ArrowLeft: "left",
  ArrowRight: "right",
  " ": "space",
  Enter: "return",
  Escape: "escape",
  Tab: "tab",
  Backspace: "backspace",
  Delete: "delete",
  Insert: "insert",
  Home: "home",
  End: "end",
  PageUp: "page up",
  PageDown: "page down",
  CapsLock: "caps lock",
};
const SIDED = { Shift: "shift", Control: "ctrl", Alt: "alt", Meta: "meta" };

/** pygame's name of the key of a keyboard event. */
export function keyName(event) {
  if (SIDED[event.key]) return `${event.location === 2 ? "right" : "left"} ${SIDED[event.key]}`;
  // A letter stays the same key while shift is held.
  return NAMED[event.key] ?? event.key.toLowerCase();
}

/** The keys that are down, oldest first; one that was tapped between two steps counts once. */
export class HeldKeys {
  constructor() {
    this.pressed = [];
    this.down = new Set();
    this.unseen = new Set();
    this.motion = [0, 0];
  }

  press(key) {
    if (this.down.has(key)) return;
    this.pressed = [...this.pressed.filter((other) => other !== key), key];
    this.down.add(key);
    this.unseen.add(key);
  }

  release(key) {
    this.down.delete(key);
    this.forgetReleased();
  }

  releaseAll() {
    this.pressed = [];
    this.down.clear();
    this.unseen.clear();
    this.motion = [0, 0];
  }

  /** The keys and the mouse's motion since the last call. */
  take() {
    const taken = { keys: this.pressed, motion: this.motion };
    this.motion = [0, 0];
    this.unseen.clear();
    this.forgetReleased();
    return taken;
  }

  forgetReleased() {
    this.pressed = this.pressed.filter((key) => this.down.has(key) || this.unseen.has(key));
  }
}

/** A world's controls: site.json's `controls`, with every default filled in. */
export class Controls {
  constructor({ idle, bindings, mouse, components, isDiscrete, layout }) {
    Object.assign(this, { idle, bindings, mouse, components, isDiscrete, layout });
    this.keyNames = new Set(bindings.flatMap((binding) => binding.keys));
  }

  /** The action for keys that are down and the mouse's motion in pixels. */
  resolve({ keys, motion }) {
    const pressedAt = new Map(keys.map((key, number) => [key, number]));
    const applying = this.bindings.filter(({ keys }) => keys.every((key) => pressedAt.has(key)));
    // Later ones overwrite earlier ones: those with more keys come last, then the newest.
    const rank = ({ keys }) => keys.map((key) => pressedAt.get(key)).sort((a, b) => b - a);
    applying.sort((a, b) => a.keys.length - b.keys.length || compare(rank(a), rank(b)));
    const values = [...this.idle];
    for (const { sets } of applying) {
      for (const [component, value] of sets) values[component] = value;
    }
    ["x", "y"].forEach((axis, i) => {
      const moved = this.mouse[axis];
      if (!moved) return;
      const wanted = values[moved.component] + moved.per_pixel * motion[i];
      values[moved.component] = this.nearest(moved.component, wanted);
    });
    if (this.isDiscrete) return values[0];
    return values.map((value, i) => (this.components[i].isInteger ? value : Math.fround(value)));
  }

  nearest(number, value) {
    const { low, high, isInteger } = this.components[number];
    const bounded = Math.min(Math.max(value, low), high);
    return isInteger ? halfToEven(bounded) : Math.fround(bounded);
  }

  /** An action as people read it: its components that aren't idle. */
  words(action) {
    const values = this.isDiscrete ? [action] : action;
    const parts = values
      .map((value, number) => [number, value])
      .filter(([number, value]) => this.isDiscrete || value !== this.idle[number])
      .map(([number, value]) => this.valueInWords(number, value));
    return parts.join(", ") || "idle";
  }

  valueInWords(number, value) {
    for (const { name, sets } of this.bindings) {
      if (name && sets.length === 1 && sets[0][0] === number && sets[0][1] === value) return name;
    }
    const { name, names, isInteger, isButton } = this.components[number];
    const idle = this.idle[number];
    if (isInteger && names.length) return names[value];
    if (isInteger && isButton && value > idle) return name;
    if (isInteger) return `${name} ${signed(value - idle)}`;
    if (names.length) return `${names[value > idle ? 1 : 0]} ${Math.abs(value).toFixed(2)}`;
    return `${name} ${signed(value.toFixed(2))}`;
  }
}

/** Python's round. */
function halfToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function signed(value) {
  return Number(value) >= 0 ? `+${value}` : `${value}`;
}

function compare(a, b) {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    if (a[i] !== b[i]) return a[i] - b[i];
  }
  return a.length - b.length;
}
