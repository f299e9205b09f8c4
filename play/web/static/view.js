/* What is drawn: the frame, bars of the variables, the map, and the surprise. */

const MARGIN = 0.08; // of the map's side
const JUMP = 0.25; // of the map's side; points farther apart are not connected
const MOST_POINTS = 2000;
const SHOWN_SURPRISE = 120; // steps
const COLOURS = { trail: "#7ec8be", faint: "#2c313c", text: "#dee2e9", dim: "#848d9c" };

/** Draw a frame, uint8 (H, W, C), on a canvas of its own size. */
export function drawFrame(canvas, frame, [height, width, channels]) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = frame[channels * i + (channels > 1 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Bars with names, one for each variable. */
export class Bars {
  constructor(list, variables) {
    this.variables = variables;
    this.rows = variables.map(({ name, low, high }) => {
      const row = document.createElement("li");
      const label = document.createElement("span");
      label.textContent = name;
      const bar = document.createElement("meter");
      Object.assign(bar, { min: low, max: high > low ? high : low + 1, value: low });
      bar.setAttribute("aria-label", name);
      const value = document.createElement("output");
      row.append(label, bar, value);
      list.append(row);
      return { bar, value };
    });
  }

  show(values) {
    values.forEach((value, i) => {
      const { low, high } = this.variables[i];
      const inside = Math.min(Math.max(value, low), high);
      this.rows[i].bar.value = inside;
      this.rows[i].value.textContent = inDigits(inside);
    });
  }
}

export function inDigits(value) {
  return Number.isInteger(value) || Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2);
}

/** The lowest and the highest coordinates of points. */
function corners(points) {
  const [xs, ys] = [0, 1].map((i) => points.map((point) => point[i]));
  return [Math.min, Math.max].map((extreme) => [extreme(...xs), extreme(...ys)]);
}

/** The path walked, seen from above. */
export class Trail {
  constructor(canvas, { pose, pose_range }) {
    Object.assign(this, { canvas, spec: pose, range: pose_range, points: [], heading: null });
  }

  get exists() {
    return this.spec.position.length > 0;
  }

  clear() {
    this.points = [];
  }

  add(pose) {
    if (!pose) return;
    const [x, y = 0] = pose.slice(0, this.spec.position.length);
    this.points.push([x, y]);
    if (this.points.length > MOST_POINTS) this.points.shift();
    const turn = (2 * Math.PI) / this.spec.full_turn;
    this.heading = this.spec.heading === null ? null : pose.at(-1) * turn;
  }

  draw() {
    const side = this.canvas.width;
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, side, side);
    if (!this.points.length) return;
    const [low, high] = this.range?.map(([x, y = 0]) => [x, y]) ?? corners(this.points);
    const scale = ((1 - 2 * MARGIN) * side) / Math.max(high[0] - low[0], high[1] - low[1], 1e-6);
    const placed = ([x, y]) => [
      side / 2 + (x - (low[0] + high[0]) / 2) * scale,
      side / 2 - (y - (low[1] + high[1]) / 2) * scale,
    ];
    pen.strokeStyle = pen.fillStyle = COLOURS.trail;
    pen.lineWidth = side / 80;
    pen.beginPath();
    let before = null;
    for (const point of this.points.map(placed)) {
      const apart = before && Math.max(...point.map((value, i) => Math.abs(value - before[i])));
      if (before && apart < JUMP * side) pen.lineTo(...point);
      else pen.moveTo(...point);
      before = point;
    }
    pen.stroke();
    const [x, y] = placed(this.points.at(-1));
    if (this.heading !== null) {
      pen.beginPath();
      for (const off of [-Math.PI / 4, Math.PI / 4]) {
        const angle = this.heading + off;
        pen.moveTo(x, y);
        pen.lineTo(x + (side / 8) * Math.cos(angle), y - (side / 8) * Math.sin(angle));
      }
      pen.stroke();
    }
    pen.beginPath();
    pen.arc(x, y, side / 40, 0, 2 * Math.PI);
    pen.fill();
  }
}

/** How unlikely the model itself found each frame: a curve of the last steps. */
export class Surprise {
  constructor(canvas) {
    this.canvas = canvas;
    this.values = [];
  }

  clear() {
    this.values = [];
  }

  add(nats) {
    this.values.push(nats);
    if (this.values.length > SHOWN_SURPRISE) this.values.shift();
  }

  draw() {
    const { width, height } = this.canvas;
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    if (this.values.length < 2) return;
    const most = Math.max(4, ...this.values);
    pen.strokeStyle = COLOURS.trail;
    pen.lineWidth = 2;
    pen.beginPath();
    this.values.forEach((value, i) => {
      const x = (i / (SHOWN_SURPRISE - 1)) * width;
      pen.lineTo(x, height - 2 - (value / most) * (height - 4));
    });
    pen.stroke();
  }
}
