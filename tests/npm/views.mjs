// Compares the views of ndarray with those that take their place in the viewer: `node views.mjs REWRITTEN`.
// Both get the same arrays and the same calls, drawn from a fixed seed, and must show the same at every step.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const theirs = require('ndarray');
const ours = require(process.argv[2]);

let state = 1;
function draw(from, to) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return from + Math.floor((state / 2 ** 32) * (to - from + 1));
}

class Boxed {
  constructor(values) {
    this.values = values;
    this.length = values.length;
  }
  get(index) {
    return this.values[index];
  }
  set(index, value) {
    this.values[index] = value;
    return value;
  }
}
const kinds = [(values) => Uint8Array.from(values), (values) => Float32Array.from(values), (values) => [...values], (values) => new Boxed([...values])];

function places(shape) {
  return shape.reduce((found, extent) => found.flatMap((at) => Array.from({ length: extent }, (_, i) => [...at, i])), [[]]);
}

function shown(view) {
  const { dtype, dimension, size, shape, stride, offset } = view;
  const distinct = new Set(stride.map(Math.abs)).size === stride.length; // else ndarray's order depends on how many there are
  const values = dimension < 0 ? [] : places(shape).map((at) => [view.index(...at), view.get(...at)]);
  return { dtype, dimension, size, shape: [...shape], stride: [...stride], offset: offset ?? 0, order: distinct ? [...view.order] : [], values };
}

function step(shape) {
  const some = (value) => (draw(0, 3) ? value : undefined);
  const axes = shape.map((_, axis) => axis);
  const shuffled = axes.map((axis) => [draw(0, 1000), axis]).sort(([a], [b]) => a - b).map(([, axis]) => axis);
  return [
    ['hi', shape.map((extent) => some(draw(1, extent)))],
    ['lo', shape.map((extent) => some(draw(0, extent - 1)))],
    ['step', shape.map(() => some([-2, -1, 1, 2][draw(0, 3)]))],
    ['transpose', draw(0, 3) ? shuffled : []],
    ['pick', shape.map((extent) => (draw(0, 2) ? null : draw(0, extent - 1)))],
  ][draw(0, 4)];
}

let compared = 0;
const kindsSeen = new Set();
for (let round = 0; round < 2000; round++) {
  const shape = Array.from({ length: draw(0, 4) }, () => draw(1, 4));
  const values = Array.from({ length: shape.reduce((product, extent) => product * extent, 1) }, () => draw(0, 255));
  const make = kinds[draw(0, kinds.length - 1)];
  const stores = [make(values), make(values)];
  let views = [theirs(stores[0], shape), ours(stores[1], shape)];
  for (let depth = 0; ; depth++) {
    const [their, our] = views.map(shown);
    assert.deepEqual(our, their);
    kindsSeen.add(`${their.dtype} ${their.dimension}`);
    compared++;
    if (depth === 4 || their.dimension < 0) {
      break;
    }
    if (their.dimension === 0) {
      assert.equal(views[1].valueOf(), views[0].valueOf());
    }
    const [name, args] = step(their.shape);
    views = views.map((view) => view[name](...args));
  }
  if (views[0].dimension >= 0) {
    const at = views[0].shape.map((extent) => draw(0, extent - 1));
    assert.equal(views[1].set(...at, 7), views[0].set(...at, 7));
    assert.deepEqual(stores[1], stores[0]);
  } else {
    assert.deepEqual([views[1].pick(), views[1].get(), views[1].lo().size], [views[0].pick(), views[0].get(), views[0].lo().size]);
  }
}
console.log(JSON.stringify({ compared, kinds: [...kindsSeen].sort() }));
