"use strict";
// What each number is the sum of: for a cell of an array, its terms, after the numbered equations of
// the layers' modules. A term is a product of factors, or is left out for a reason. Everything is
// computed here, from the arrays and the geometry alone; nothing is taken from `backward`.

// An array of any shape over the numbers of a file.
class Values {
  constructor(name, shape, data) {
    Object.assign(this, {name, shape, data});
  }
  flat(index) {
    return index.reduce((flat, i, axis) => flat * this.shape[axis] + i, 0);
  }
  index(flat) {
    return this.shape.map((_, axis) => {
      const below = this.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
      return Math.floor(flat / below) % this.shape[axis];
    });
  }
  at(index) {
    return this.data[this.flat(index)];
  }
}

const cell = (array, ...index) => ({array: array.name, index, value: array.at(index)});
const of = (array, index, text, value) => ({array: array.name, index, text, value});
const constant = (text, value) => ({text, value});
const term = (place, ...factors) => ({place, factors, product: factors.reduce((a, f) => a * f.value, 1)});
const without = (place, reason, ...factors) => ({place, factors, reason, product: 0});
const padded = (place, factor) => ({...term(place, factor, constant("0", 0)), reason: {word: "padding"}});
const range = (count) => Array.from({length: count}, (_, i) => i);

function* grid(...sizes) {
  if (!sizes.length) yield [];
  else for (const i of range(sizes[0])) for (const rest of grid(...sizes.slice(1))) yield [i, ...rest];
}

// windows.py (2): the row that tap i of output p reads.
const reads = (g, axis, p, i) => p * g.stride[axis] + i * g.dilation[axis] - g.padding[axis][0];
const inside = (h, w, shape) => h >= 0 && h < shape.at(-2) && w >= 0 && w < shape.at(-1);

// The same, solved for p: the output whose tap i reads row h, or the reason why there is none.
function output(g, axis, h, i, outputs) {
  const [before, stride, dilation] = [g.padding[axis][0], g.stride[axis], g.dilation[axis]];
  const p = (h + before - i * dilation) / stride;
  const sum = `${"pq"[axis]} = (${h} + ${before} - ${i}*${dilation})/${stride} = ${+p.toFixed(2)}`;
  if (!Number.isInteger(p)) return {word: "fraction", sum};
  return p < 0 || p >= outputs ? {word: "outside", sum} : p;
}

// conv.py. The small side is y of a convolution and x of a transposed one; the large side is the
// other. weight[a, b, i, j] joins channel a of the small side and channel b, of its group, of the
// large one.
const groupSizes = (step) => {
  const [a, b] = step.arrays.weight.shape;
  return [a / step.geometry.groups, b];
};

// (1): small[n, a, p, q] = sum_{b,i,j} weight[a, b, i, j] * large[n, b, pS + iD, qS + jD]
function* gather(step, large, [n, a, p, q]) {
  const {geometry: g, arrays: {weight}} = step, [small, size] = groupSizes(step);
  for (const [b, i, j] of grid(size, ...g.kernel)) {
    const channel = Math.floor(a / small) * size + b;
    const [h, w] = [reads(g, 0, p, i), reads(g, 1, q, j)];
    const tap = cell(weight, a, b, i, j);
    yield inside(h, w, large.shape)
      ? term({c: b, i, j}, tap, cell(large, n, channel, h, w))
      : padded({c: b, i, j}, tap);
  }
}

// (3), (4): large[n, b, h, w] = sum of weight[a, b, i, j] * small[n, a, p, q] over the taps that
// read (h, w)
function* scatter(step, small, [n, channel, h, w]) {
  const {geometry: g, arrays: {weight}} = step, [count, size] = groupSizes(step);
  const group = Math.floor(channel / size);
  for (const [k, i, j] of grid(count, ...g.kernel)) {
    const a = group * count + k;
    const [p, q] = [output(g, 0, h, i, small.shape[2]), output(g, 1, w, j, small.shape[3])];
    const tap = cell(weight, a, channel % size, i, j);
    const reason = [p, q].find((found) => typeof found === "object");
    yield reason ? without({o: a, i, j}, reason, tap) : term({o: a, i, j}, tap, cell(small, n, a, p, q));
  }
}

// (2): dweight[a, b, i, j] = sum_{n,p,q} small[n, a, p, q] * large[n, b, pS + iD, qS + jD]
function* pairs(step, small, large, [a, b, i, j]) {
  const g = step.geometry, [count, size] = groupSizes(step);
  const channel = Math.floor(a / count) * size + b;
  for (const [n, p, q] of grid(small.shape[0], small.shape[2], small.shape[3])) {
    const [h, w] = [reads(g, 0, p, i), reads(g, 1, q, j)];
    yield inside(h, w, large.shape)
      ? term({n, p, q}, cell(small, n, a, p, q), cell(large, n, channel, h, w))
      : padded({n, p, q}, cell(small, n, a, p, q));
  }
}

function* withBias(terms, bias, o) {
  yield* terms;
  if (bias) yield term({}, cell(bias, o));
}

// (5): dbias[o] = sum_{n,p,q} dy[n, o, p, q]; of a linear layer, over n
function* biasTerms({arrays: {dy}}, [o]) {
  for (const [n, ...place] of grid(dy.shape[0], ...dy.shape.slice(2))) {
    yield term({n}, cell(dy, n, o, ...place));
  }
}

// pooling.py (1): the first of the largest entries that a window reads, or the first nan.
function winner({geometry: g, arrays: {x}}, n, c, p, q) {
  const entries = [...grid(...g.kernel)]
    .map(([i, j]) => [reads(g, 0, p, i), reads(g, 1, q, j)])
    .filter(([h, w]) => inside(h, w, x.shape))
    .map(([h, w]) => ({h, w, value: x.at([n, c, h, w])}));
  const largest = Math.max(...entries.map(({value}) => value));
  return entries.find(({value}) => value === largest || Number.isNaN(value));
}

function* maximum(step, [n, c, p, q]) {
  const {geometry: g, arrays: {x}} = step, best = winner(step, n, c, p, q);
  if (!best) yield term({}, constant("-Infinity", -Infinity)); // a dilated window may have no pixel
  for (const [i, j] of grid(...g.kernel)) {
    const [h, w] = [reads(g, 0, p, i), reads(g, 1, q, j)];
    if (!inside(h, w, x.shape)) yield without({i, j}, {word: "minus infinity"});
    else if (h === best.h && w === best.w) yield term({i, j}, cell(x, n, c, h, w));
    else {
      const word = x.at([n, c, h, w]) === best.value ? "tie" : "smaller";
      yield without({i, j}, {word}, cell(x, n, c, h, w));
    }
  }
}

// (2) and (4): what an entry of x gets from each window that reads it; `share` says how much.
function* fromWindows(step, [n, c, h, w], share) {
  const {geometry: g, arrays: {dy}} = step;
  for (const [i, j] of grid(...g.kernel)) {
    const [p, q] = [output(g, 0, h, i, dy.shape[2]), output(g, 1, w, j, dy.shape[3])];
    const reason = [p, q].find((found) => typeof found === "object");
    yield reason ? without({i, j}, reason) : share({i, j}, p, q, cell(dy, n, c, p, q));
  }
}

function maximumGradient(step, [n, c, h, w]) {
  return fromWindows(step, [n, c, h, w], (place, p, q, dy) => {
    const best = winner(step, n, c, p, q);
    if (Number.isNaN(best.value)) return without(place, {word: "nan"}, dy);
    if (h === best.h && w === best.w) return term(place, dy);
    const word = step.arrays.x.at([n, c, h, w]) === best.value ? "tie" : "not the maximum";
    return without(place, {word}, dy);
  });
}

// (3): by how many entries a window is divided.
function count({geometry: g, arrays: {x}}, p, q) {
  const most = g.count_include_pad ? g.counted : [[0, 0], [0, 0]];
  const counted = [...grid(...g.kernel)].filter(([i, j]) =>
    [reads(g, 0, p, i), reads(g, 1, q, j)].every((h, axis) =>
      h >= -most[axis][0] && h < x.shape[axis + 2] + most[axis][1]));
  return Math.max(1, counted.length);
}

function* average(step, [n, c, p, q]) {
  const {geometry: g, arrays: {x}} = step, divisor = count(step, p, q);
  for (const [i, j] of grid(...g.kernel)) {
    const [h, w] = [reads(g, 0, p, i), reads(g, 1, q, j)];
    yield inside(h, w, x.shape)
      ? term({i, j}, cell(x, n, c, h, w), constant(`1/${divisor}`, 1 / divisor))
      : without({i, j}, {word: "padding"});
  }
}

function averageGradient(step, index) {
  return fromWindows(step, index, (place, p, q, dy) => {
    const divisor = count(step, p, q);
    return term(place, dy, constant(`1/${divisor}`, 1 / divisor));
  });
}

// activations.py: f, and its derivative in terms of y, which may be the difference of larger numbers
const ACTIVATIONS = {
  sigmoid: {f: (x) => 1 / (1 + Math.exp(-x)), derivative: (y) => y * (1 - y), text: "y*(1 - y)"},
  tanh: {f: Math.tanh, derivative: (y) => 1 - y * y, text: "1 - y**2", larger: 1},
  relu: {f: (x) => Math.max(x, 0), derivative: (y) => +(y > 0), text: "[y > 0]"},
  leaky: {
    f: (x, {slope}) => Math.max(x, slope * x),
    derivative: (y, {slope}) => (y > 0 ? 1 : slope),
    text: "1 or slope",
  },
};

function activation(kind) {
  const {f, derivative, text, larger = 0} = ACTIVATIONS[kind];
  return {
    *y({geometry, arrays: {x}}, index) {
      const value = f(x.at(index), geometry);
      yield {...term({}, of(x, index, "f(x)", value)), size: Math.max(1, Math.abs(value))};
    },
    *dx({geometry, arrays: {dy, y}}, index) {
      const slope = derivative(y.at(index), geometry);
      const factors = [cell(dy, ...index), of(y, index, text, slope)];
      if (kind === "relu" && !slope) yield without({}, {word: "flat"}, ...factors);
      else yield {...term({}, ...factors), size: larger * Math.abs(dy.at(index))};
    },
  };
}

// dropout.py: what is dropped is 0, whatever it was.
const kept = (entry, mask) =>
  mask.value ? term({}, entry, mask) : without({}, {word: "dropped"}, entry, mask);

// losses.py (1): log of the sum over a row of exp(z - the largest), and that largest
function logSum({arrays: {x}}, n) {
  const row = range(x.shape[1]).map((k) => x.at([n, k])), largest = Math.max(...row);
  return [Math.log(row.reduce((sum, z) => sum + Math.exp(z - largest), 0)), largest];
}

// In each kind of layer, the terms of a cell of y, dx and the gradients.
const FORMULAS = {
  convolution: {
    y: (step, at) => withBias(gather(step, step.arrays.x, at), step.arrays.bias, at[1]),
    dx: (step, at) => scatter(step, step.arrays.dy, at),
    dweight: (step, at) => pairs(step, step.arrays.dy, step.arrays.x, at),
    dbias: biasTerms,
  },
  transposed: {
    y: (step, at) => withBias(scatter(step, step.arrays.x, at), step.arrays.bias, at[1]),
    dx: (step, at) => gather(step, step.arrays.dy, at),
    dweight: (step, at) => pairs(step, step.arrays.x, step.arrays.dy, at),
    dbias: biasTerms,
  },
  linear: {
    y: ({arrays: {x, weight, bias}}, [n, o]) =>
      withBias(range(x.shape[1]).map((i) => term({i}, cell(weight, o, i), cell(x, n, i))), bias, o),
    dx: ({arrays: {dy, weight}}, [n, i]) =>
      range(dy.shape[1]).map((o) => term({o}, cell(dy, n, o), cell(weight, o, i))),
    dweight: ({arrays: {dy, x}}, [o, i]) =>
      range(dy.shape[0]).map((n) => term({n}, cell(dy, n, o), cell(x, n, i))),
    dbias: biasTerms,
  },
  maximum: {y: maximum, dx: maximumGradient},
  average: {y: average, dx: averageGradient},
  "global average": {
    y: ({arrays: {x}}, [n, c]) => [...grid(x.shape[2], x.shape[3])].map(([h, w]) =>
      term({}, cell(x, n, c, h, w), constant(`1/${x.shape[2] * x.shape[3]}`, 1 / x.shape[2] / x.shape[3]))),
    dx: ({arrays: {x, dy}}, [n, c]) =>
      [term({}, cell(dy, n, c), constant(`1/${x.shape[2] * x.shape[3]}`, 1 / x.shape[2] / x.shape[3]))],
  },
  ...Object.fromEntries(Object.keys(ACTIVATIONS).map((kind) => [kind, activation(kind)])),
  flatten: {  // the same numbers in the same order
    y: ({arrays: {x, y}}, at) => [term({}, cell(x, ...x.index(y.flat(at))))],
    dx: ({arrays: {dy, dx}}, at) => [term({}, cell(dy, ...dy.index(dx.flat(at))))],
  },
  dropout: {
    y: ({arrays: {x, mask}}, at) => [kept(cell(x, ...at), cell(mask, ...at))],
    dx: ({arrays: {dy, mask}}, at) => [kept(cell(dy, ...at), cell(mask, ...at))],
  },
  residual: {
    y: ({arrays: {body, shortcut}}, at) => [term({}, cell(body, ...at)), term({}, cell(shortcut, ...at))],
    dx: ({arrays}, at) => [term({}, cell(arrays["dx by body"], ...at)), term({}, cell(arrays["dx by shortcut"], ...at))],
  },
  "cross-entropy": {
    *p(step, [n, k]) {
      const [log, largest] = logSum(step, n), z = step.arrays.x.at([n, k]) - largest;
      const factors = [
        of(step.arrays.x, [n, k], "exp(z - max)", Math.exp(z)), constant("1/sum", Math.exp(-log)),
      ];
      yield {...term({}, ...factors), size: Math.exp(z - log) * (2 + Math.min(-z, 1000))}; // exp(-1000) is 0
    },
    *loss(step) {
      const {x, labels} = step.arrays, n = x.shape[0];
      for (const row of range(n)) {
        const [log, largest] = logSum(step, row), at = [row, labels.at([row])];
        const factors = [of(x, at, "-log p", log + largest - x.at(at)), constant(`1/${n}`, 1 / n)];
        yield {...term({n: row}, ...factors), size: (2 + log + Math.abs(largest) + Math.abs(x.at(at))) / n};
      }
    },
    *dx({arrays: {p, labels}}, [n, k]) {
      const share = constant(`1/${p.shape[0]}`, 1 / p.shape[0]);
      yield term({}, cell(p, n, k), share);
      if (k === labels.at([n])) yield term({}, of(labels, [n], "-[k = t]", -1), share);
    },
  },
  "squared error": {
    loss: ({geometry: {divisor: m}, arrays: {x, target}}) => range(x.data.length).map((flat) => {
      const at = x.index(flat), difference = x.at(at) - target.at(at);
      return term({}, of(x, at, "(y - t)**2", difference ** 2), constant(`1/${m}`, 1 / m));
    }),
    dx: ({geometry: {divisor: m}, arrays: {x, target}}, at) => [
      term({}, cell(x, ...at), constant(`2/${m}`, 2 / m)),
      term({}, of(target, at, "-t", -target.at(at)), constant(`2/${m}`, 2 / m)),
    ],
  },
};

// base.py, the chain rule: of a layer that has no formula here, by the measured slopes of y. At a
// kink any slope between those to the right and to the left is right.
const measured = (slopes, kinks, name) => ({noise, arrays: {dy, ...arrays}}, index) => {
  const k = arrays[name].flat(index);
  return range(dy.data.length).map((m) => {
    const slope = slopes.at([k, m]), size = Math.abs(dy.data[m]);
    return {
      ...term({}, cell(dy, ...dy.index(m)), constant(`dy/${name}`, slope)),
      noise: slope ? size * noise[slopes.name] : 0,
      kink: kinks ? size * kinks.at([k, m]) : 0,
    };
  });
};

function formulaOf(step, name) {
  const [slopes, kinks] = ["slopes", "kinks"].map((what) => step.arrays[`${what} of ${name.slice(1)}`]);
  return slopes && name[0] === "d" ? measured(slopes, kinks, name) : FORMULAS[step.kind]?.[name];
}

const total = (terms, size) => terms.reduce((sum, t) => sum + size(t), 0);

// All about one cell: its terms, their sum, and whether the array's value is that sum to within what
// rounding of the additions and of each term can do. Null if the cell is given, not computed.
function explainCell(step, name, index) {
  const formula = formulaOf(step, name), array = step.arrays[name];
  if (!formula || step.shapes[name]) return null;
  const {epsilon, smallest, largest} = step.precision;
  const terms = [...formula(step, index)], value = array.at(index);
  const used = terms.filter((t) => !t.reason), sum = total(terms, (t) => t.product);
  const size = total(used, (t) => Math.max(Math.abs(t.product), t.size ?? 0));
  const count = used.filter((t) => t.product).length;
  const noise = (step.noise[name] ?? 0) + total(used, (t) => t.noise ?? 0);
  const rounding = 4 * (count + 4) * (epsilon * size + smallest) + noise;
  const bound = rounding + total(used, (t) => t.kink ?? 0), off = Math.abs(value - sum);
  const overflows = size > largest && !Number.isFinite(value);
  const right = Number.isFinite(sum) ? off <= bound || overflows : Object.is(value, sum);
  const guesses = right ? [] : mistakes(used, sum, value, bound);
  return {terms, sum, value, right, kink: right && off > rounding && !overflows, guesses};
}

// Each single mistake that turns the sum into the value: {word}, with the products that it may be
// about, or with the ratio of value and sum.
function mistakes(terms, sum, value, bound) {
  const near = (other) => Math.abs(value - other) <= bound;
  const isWhole = (r) => Math.abs(r) > 1.5 && Math.abs(r - Math.round(r)) < 1e-4;
  const ratio = value / sum, found = [];
  for (const [word, times] of [["missing", -1], ["doubled", 1], ["sign", -2]]) {
    const suspects = terms.filter((t) => t.product && near(sum + times * t.product));
    if (terms.length > 1 && suspects.length) found.push({word, terms: suspects});
  }
  if (near(0)) found.push({word: "zero"});
  else if (near(-sum)) found.push({word: "opposite"});
  else if (isWhole(ratio) || isWhole(1 / ratio)) found.push({word: "times", ratio});
  return found;
}
