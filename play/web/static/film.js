/* A film of the canvas, as webm where the browser can. */

const KINDS = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];
const MOST_BITS = 2_500_000; // a second
const SCALE = 8; // of a frame; players blur films of 64 pixels

export class Film {
  /** @param source the canvas that is filmed */
  constructor(source) {
    const kind = KINDS.find((name) => globalThis.MediaRecorder?.isTypeSupported(name));
    if (!kind) throw new Error("This browser can't record films.");
    this.source = source;
    this.canvas = document.createElement("canvas");
    this.draw();
    this.parts = [];
    const stream = this.canvas.captureStream(30);
    this.recorder = new MediaRecorder(stream, { mimeType: kind, videoBitsPerSecond: MOST_BITS });
    this.recorder.ondataavailable = ({ data }) => this.parts.push(data);
    this.recorder.start();
  }

  /** Add the canvas as it is now. */
  draw() {
    const [width, height] = [this.source.width * SCALE, this.source.height * SCALE];
    if (this.canvas.width !== width) Object.assign(this.canvas, { width, height });
    const pen = this.canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.source, 0, 0, this.canvas.width, this.canvas.height);
  }

  /** Resolves to the film and the end of its name. */
  async finish() {
    const stopped = new Promise((resolve) => (this.recorder.onstop = resolve));
    this.recorder.stop();
    await stopped;
    const type = this.recorder.mimeType;
    return { blob: new Blob(this.parts, { type }), ending: type.includes("mp4") ? "mp4" : "webm" };
  }
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
