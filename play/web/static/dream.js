/* One dream, run by onnxruntime-web. See docs/export.md for the graphs and their state. */

import { Random } from "./random.js";

const ARRAYS = {
  float32: Float32Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

export class Dream {
  /**
   * @param ort the module of onnxruntime-web
   * @param description dream.json
   * @param starts starts.json
   * @param sessions inference sessions by the name of their graph
   * @param path words that numpy's seeds of dreams are spawned with
   */
  constructor(ort, description, starts, sessions, path) {
    Object.assign(this, { ort, description, starts, sessions, path });
    this.inputs = Object.fromEntries(
      description.graphs.step.inputs.map((entry) => [entry.name, entry]),
    );
    this.unknown = {};
    for (const name of Object.keys(this.inputs).filter((name) => name.startsWith("given_"))) {
      this.unknown[name] = this.filled(this.inputs[name], name === "given_codes" ? -1 : NaN);
    }
  }

  /** Seed a dream at one of the start moments; `show` is called with its first frame at once. */
  async begin(seed, start, show = () => {}) {
    const at = (name) => this.starts[name][start];
    const [codes, actions, variables, poses] = ["codes", "actions", "variables", "poses"].map(at);
    this.random = new Random(seed, this.path);
    this.state = {};
    for (const entry of this.description.state) {
      this.state[entry.name] = this.filled(entry, entry.fill);
    }
    const recent = this.inputs.recent;
    const newest = codes.slice(-recent.shape[0]);
    while (newest.length < recent.shape[0]) newest.unshift(newest[0]);
    show(await this.decode(this.tensor(recent, newest)));

    const first = Array(recent.shape[0]).fill(codes[0]);
    this.state.recent = this.tensor(recent, first);
    if (this.state.variables) this.state.variables = this.tensor(this.inputs.variables, variables[0]);
    if (this.state.pose) {
      this.state.pose = this.tensor(this.inputs.pose, poses[0]);
      this.state.known = this.tensor(this.inputs.known, [1]);
    }
    const nothing = new Float32Array(this.description.num_uniforms);
    for (let t = 0; t < actions.length; t++) {
      const observed = { codes: codes[t + 1], variables: variables[t + 1], pose: poses[t + 1] };
      const given = {};
      for (const [name, value] of Object.entries(observed)) {
        const entry = this.inputs[`given_${name}`];
        if (entry) given[entry.name] = this.tensor(entry, value);
      }
      await this.run(actions[t], nothing, given);
    }
  }

  /** Dream one step; resolves to what happened. */
  async step(action) {
    const outputs = await this.run(action, this.random.uniforms(this.description.num_uniforms), {});
    return {
      codes: outputs.codes.data,
      reward: outputs.reward.data[0],
      terminated: outputs.terminated.data[0] !== 0,
      nats: outputs.nats.data[0],
      frame: await this.decode(this.state.recent),
    };
  }

  get variables() {
    return this.state.variables ? Array.from(this.state.variables.data) : [];
  }

  /** The pose; null where it is unknown. */
  get pose() {
    const isKnown = this.state.pose && this.state.known.data[0];
    return isKnown ? Array.from(this.state.pose.data) : null;
  }

  async run(action, uniforms, given) {
    const outputs = await this.sessions.step.run({
      ...this.unknown,
      ...given,
      ...this.state,
      action: this.tensor(this.inputs.action, [action]),
      uniforms: this.tensor(this.inputs.uniforms, uniforms),
    });
    for (const name of Object.keys(this.state)) this.state[name] = outputs[`next.${name}`];
    return outputs;
  }

  async decode(recent) {
    return (await this.sessions.decode.run({ recent })).frame.data;
  }

  tensor({ type, shape }, values) {
    const flat = ArrayBuffer.isView(values) ? values : values.flat(Infinity);
    const numbers = type === "int64" ? Array.from(flat, BigInt) : flat;
    return new this.ort.Tensor(type, ARRAYS[type].from(numbers), shape);
  }

  filled({ type, shape }, value) {
    const array = new ARRAYS[type](shape.reduce((product, size) => product * size, 1));
    return new this.ort.Tensor(type, array.fill(type === "int64" ? BigInt(value) : value), shape);
  }
}
