/* The random numbers of numpy: SeedSequence and PCG64, so that a seed means the same walk here and
   in Python. Follows numpy's bit_generator.pyx and pcg64.c. */

const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;
const MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;
const POOL_SIZE = 4;

/** 32-bit words of numpy's SeedSequence(seed, spawn_key=path).generate_state(count). */
export function seedWords(seed, path, count) {
  const own = [];
  for (let rest = BigInt(seed); own.length === 0 || rest > 0n; rest >>= 32n) {
    own.push(Number(rest & 0xffffffffn));
  }
  while (path.length && own.length < POOL_SIZE) own.push(0);
  const entropy = [...own, ...path];

  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value = (value ^ constant) >>> 0;
    constant = Math.imul(constant, 0x931e8875) >>> 0;
    value = Math.imul(value, constant) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (x, y) => {
    const mixed = (Math.imul(x, 0xca01f9dd) - Math.imul(y, 0x4973f715)) >>> 0;
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
  const pool = [];
  for (let i = 0; i < POOL_SIZE; i++) pool.push(hash(i < entropy.length ? entropy[i] : 0));
  for (let from = 0; from < POOL_SIZE; from++) {
    for (let to = 0; to < POOL_SIZE; to++) {
      if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
    }
  }
  for (let from = POOL_SIZE; from < entropy.length; from++) {
    for (let to = 0; to < POOL_SIZE; to++) pool[to] = mix(pool[to], hash(entropy[from]));
  }

  constant = 0x8b51f9dd;
  const words = [];
  for (let i = 0; i < count; i++) {
    let value = (pool[i % POOL_SIZE] ^ constant) >>> 0;
    constant = Math.imul(constant, 0x58f38ded) >>> 0;
    value = Math.imul(value, constant) >>> 0;
    words.push((value ^ (value >>> 16)) >>> 0);
  }
  return words;
}

/** numpy's default_rng of a seed and a path; `uniforms` is its random(count, float32). */
export class Random {
  constructor(seed, path) {
    const words = seedWords(seed, path, 8).map(BigInt);
    const [high, low, stepHigh, stepLow] = [0, 2, 4, 6].map(
      (i) => words[i] | (words[i + 1] << 32n),
    );
    this.increment = ((((stepHigh << 64n) | stepLow) << 1n) | 1n) & MASK_128;
    this.state = 0n;
    this.advance();
    this.state = (this.state + ((high << 64n) | low)) & MASK_128;
    this.advance();
    this.spare = null; // the other half of the last 64 bits
  }

  advance() {
    this.state = (this.state * MULTIPLIER + this.increment) & MASK_128;
  }

  next32() {
    if (this.spare !== null) {
      const value = this.spare;
      this.spare = null;
      return value;
    }
    this.advance();
    const folded = ((this.state >> 64n) ^ this.state) & MASK_64;
    const turn = this.state >> 122n;
    const value = ((folded >> turn) | (folded << (64n - turn))) & MASK_64;
    this.spare = Number(value >> 32n);
    return Number(value & 0xffffffffn);
  }

  uniforms(count) {
    return Float32Array.from({ length: count }, () => (this.next32() >>> 8) / 16777216);
  }
}
