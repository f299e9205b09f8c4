/* Keyboard, mouse, touch and gamepad: all of them hold down the keys of the world's controls. */

import { keyName } from "./controls.js";

const STICK_DEAD = 0.35; // of its reach
const PAD_SPEED = 100; // pixels of the mouse a step, with the right stick at its end

/** Keys of the stick for a push to the right (x) and down (y), from -1 to 1. */
export function stickKeys(stick, x, y) {
  const keys = [];
  if (x < -STICK_DEAD) keys.push(stick.left);
  if (x > STICK_DEAD) keys.push(stick.right);
  if (y < -STICK_DEAD) keys.push(stick.up);
  if (y > STICK_DEAD) keys.push(stick.down);
  return keys.filter(Boolean);
}

/** Listen to keyboard and mouse. `onCommand(key)` is asked first, and says whether it took it. */
export function listen(canvas, held, controls, onCommand) {
  const named = new Map(); // keys that are down, by their place on the keyboard
  addEventListener("keydown", (event) => {
    const key = keyName(event);
    const isShortcut = event.ctrlKey || event.metaKey || event.altKey;
    if (isShortcut && !controls().keyNames.has(key)) return;
    if (event.target.closest?.("input, dialog")) return;
    const onButton = event.target.closest?.("button") && ["return", "space"].includes(key);
    if (onButton || key === "tab") return;
    const steers = controls().keyNames.has(key);
    if (!event.repeat && !steers && onCommand(key)) event.preventDefault();
    if (!steers) return;
    event.preventDefault();
    onCommand(null);
    held.press(key);
    named.set(event.code, key);
  });
  addEventListener("keyup", (event) => {
    held.release(named.get(event.code) ?? keyName(event)); // shift changes a key's name
    named.delete(event.code);
  });
  addEventListener("blur", () => held.releaseAll());
  canvas.addEventListener("mousedown", (event) => {
    if (onCommand(null) || event.button > 2) return;
    const { mouse } = controls();
    if ((mouse.x || mouse.y) && document.pointerLockElement !== canvas) {
      canvas.requestPointerLock?.();
      return;
    }
    held.press(`mouse ${event.button + 1}`);
  });
  addEventListener("mouseup", (event) => held.release(`mouse ${event.button + 1}`));
  addEventListener("mousemove", (event) => {
    if (document.pointerLockElement !== canvas) return;
    held.motion = [held.motion[0] + event.movementX, held.motion[1] + event.movementY];
  });
}

/** Fill `pad` with a stick and buttons. */
export function touchPad(pad, held, { layout: { stick, buttons } }) {
  pad.replaceChildren();
  if (Object.keys(stick).length) pad.append(stickElement(stick, held));
  const group = document.createElement("div");
  group.className = "buttons";
  for (const [key, label] of buttons) {
    const button = document.createElement("button");
    button.textContent = label;
    hold(button, () => held.press(key), () => held.release(key));
    group.append(button);
  }
  pad.append(group);
}

function stickElement(stick, held) {
  const base = document.createElement("div");
  base.className = "stick";
  base.setAttribute("aria-hidden", "true"); // the keyboard does the same
  const knob = document.createElement("div");
  base.append(knob);
  let down = [];
  const move = (x, y) => {
    const keys = stickKeys(stick, x, y);
    down.filter((key) => !keys.includes(key)).forEach((key) => held.release(key));
    keys.forEach((key) => held.press(key));
    down = keys;
    knob.style.transform = `translate(${x * 34}px, ${y * 34}px)`;
  };
  const follow = (event) => {
    const box = base.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 2 - 1;
    const y = ((event.clientY - box.top) / box.height) * 2 - 1;
    const length = Math.max(1, Math.hypot(x, y));
    move(x / length, y / length);
  };
  base.addEventListener("pointerdown", (event) => {
    base.setPointerCapture(event.pointerId);
    follow(event);
  });
  base.addEventListener("pointermove", (event) => {
    if (base.hasPointerCapture(event.pointerId)) follow(event);
  });
  for (const end of ["pointerup", "pointercancel"]) base.addEventListener(end, () => move(0, 0));
  return base;
}

function hold(element, press, release) {
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    press();
  });
  for (const end of ["pointerup", "pointercancel", "blur"]) element.addEventListener(end, release);
  element.addEventListener("contextmenu", (event) => event.preventDefault());
}

/** Keys and commands of the first gamepad; call `poll` once a frame. */
export class Gamepads {
  constructor(held, controls, onCommand) {
    Object.assign(this, { held, controls, onCommand, down: [], pressed: new Set() });
  }

  poll() {
    const pad = navigator.getGamepads?.().find(Boolean);
    if (!pad) {
      this.down.forEach((key) => this.held.release(key));
      this.down = [];
      return;
    }
    const { stick, buttons } = this.controls().layout;
    const isDown = (number) => Boolean(pad.buttons[number]?.pressed);
    const across = isDown(14) ? -1 : isDown(15) ? 1 : (pad.axes[0] ?? 0);
    const along = isDown(12) ? -1 : isDown(13) ? 1 : (pad.axes[1] ?? 0);
    const keys = stickKeys(stick, across, along);
    buttons.slice(0, 6).forEach(([key], number) => isDown(number) && keys.push(key));
    this.down.filter((key) => !keys.includes(key)).forEach((key) => this.held.release(key));
    keys.forEach((key) => this.held.press(key));
    if (keys.length && !this.down.length) this.onCommand(null);
    this.down = keys;
    const { mouse } = this.controls();
    for (const [i, axis] of [mouse.x, mouse.y].entries()) {
      const look = pad.axes[2 + i] ?? 0;
      // Not added: polls outnumber steps, and a pause would pile them up.
      if (axis && Math.abs(look) > STICK_DEAD) this.held.motion[i] = look * PAD_SPEED;
    }
    for (const [number, command] of [[9, "p"], [8, "n"]]) {
      if (isDown(number) && !this.pressed.has(number)) this.onCommand(command);
      if (isDown(number)) this.pressed.add(number);
      else this.pressed.delete(number);
    }
  }
}
