"use strict";
// What is seen: the steps, the arrays of one of them as canvases, and the terms of one cell.

const WORDS = JSON.parse(document.getElementById("words").textContent);
const STEPS = readSteps();
const SMALL = 400; // cells, up to which an array shows numbers at first
const NUMBER_SIZE = [52, 28]; // pixels of a cell with its number
const MOST_ROWS = 500;
const GAP = 10; // pixels between the planes of an array

const element = (id) => document.getElementById(id);
const state = {language: navigator.language?.startsWith("zh") ? "zh" : "en", step: 0, pinned: false, trail: []};
let views = {}; // of the arrays of the step that is shown

const word = (name, ...values) => values.reduce((text, value, i) => text.replace(`{${i}}`, value), WORDS[state.language][name]);
function shown(value, digits = 4) {
  if (Number.isInteger(value) || !Number.isFinite(value)) return String(value);
  const small = Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6;
  return small ? value.toExponential(digits - 1) : String(+value.toPrecision(digits));
}
const label = (name, index) => `${name}[${index.join(", ")}]`;

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The arrays lie in the page as one safetensors file, in base64.
function readSteps() {
  const bytes = Uint8Array.from(atob(document.getElementById("numbers").textContent), (c) => c.charCodeAt(0));
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const types = {F32: Float32Array, F64: Float64Array}, read = {};
  const numbers = (key) => {
    const {dtype, data_offsets: [begin, end]} = header[key];
    return (read[key] ??= new types[dtype](bytes.slice(8 + length + begin, 8 + length + end).buffer));
  };
  return JSON.parse(document.getElementById("data").textContent).map((step) => ({
    ...step,
    arrays: Object.fromEntries(
      Object.entries(step.arrays).map(([name, key]) => [name, new Values(name, header[key].shape, numbers(key))]),
    ),
  }));
}

// How many cells of each array are not the sum of their products.
function wrongCells(step) {
  step.wrong ??= Object.fromEntries(
    Object.values(step.arrays).map((array) => {
      const wrong = new Set();
      if (formulaOf(step, array.name) && !step.shapes[array.name]) {
        for (const flat of array.data.keys()) {
          if (!explainCell(step, array.name, array.index(flat)).right) wrong.add(flat);
        }
      }
      return [array.name, wrong];
    }),
  );
  return step.wrong;
}

const isWrong = (step) =>
  Object.keys(step.shapes).length + step.findings.length > 0 || Object.values(step.wrong ?? {}).some((cells) => cells.size);

// Step by step, so that the page can be used meanwhile.
async function checkAll() {
  for (const step of STEPS) {
    await new Promise((done) => setTimeout(done));
    wrongCells(step);
  }
  showSteps();
}

// What one training step did, a row for each layer, whose name opens the layer.
function showTrace() {
  const traced = JSON.parse(document.getElementById("traced").textContent);
  if (!traced) return;
  element("trace").hidden = false;
  element("trace").prepend(...traced.sentences.map((sentence) => make("p", {}, sentence)));
  element("trace-rows").replaceChildren(
    ...traced.rows.map((row, i) => {
      const step = STEPS.findIndex(({name}) => i && name === row[0]);
      const name = step < 0 ? row[0] : make("button", {onclick: () => showStep(step)}, row[0]);
      return make("tr", {}, ...[name, ...row.slice(1)].map((text) => make(i ? "td" : "th", {}, text)));
    }),
  );
}

function showSteps() {
  document.documentElement.lang = state.language;
  element("language").textContent = state.language === "en" ? "中文" : "English";
  element("language").lang = state.language === "en" ? "zh" : "en";
  for (const named of document.querySelectorAll("[data-word]")) named.textContent = word(named.dataset.word);
  element("steps").replaceChildren(
    ...STEPS.map((step, i) => {
      const output = step.arrays.y ?? step.arrays.loss;
      const mark = isWrong(step) ? make("span", {className: "wrong"}, " ✗") : "";
      const button = make("button", {onclick: () => showStep(i)}, `${step.name} ${step.layer}`, mark,
        make("small", {}, output.shape.join(" × ")));
      if (i === state.step) button.setAttribute("aria-current", "step");
      return make("li", {}, button);
    }),
  );
}

// Forward in the first row, backward in the second.
const isGradient = (name) => /^d[a-z]/.test(name);

function showStep(i, cell = null) {
  const step = STEPS[(state.step = i)];
  state.pinned = false;
  state.cell = null;
  showSteps();
  element("step-name").textContent = `${step.name} ${step.layer}`;
  element("findings").replaceChildren(...problems(step).map((text) => make("li", {}, text)));
  const names = Object.keys(step.arrays).filter((name) => !name.startsWith("slopes"));
  views = Object.fromEntries(names.map((name) => [name, new View(step, step.arrays[name])]));
  const row = (gradients) => names.filter((name) => isGradient(name) === gradients).map((name) => views[name].figure);
  element("arrays").replaceChildren(...row(false), make("hr"), ...row(true));
  for (const view of Object.values(views)) view.draw();
  showCell(cell);
}

function problems(step) {
  const shapes = Object.entries(step.shapes).map(([name, shape]) =>
    word("shape", name, shape.join(", "), step.arrays[name.slice(1)].shape.join(", ")));
  const cells = Object.entries(wrongCells(step)).filter(([, wrong]) => wrong.size).map(([name, wrong]) =>
    word("cells", wrong.size, step.arrays[name].data.length, name));
  return [...shapes, ...cells, ...step.findings];
}

// The step and array in which a number was computed: x is y of the step before, dy is dx of the next.
function origin(i, name) {
  const {data} = STEPS[i].arrays[name];
  for (const [j, step] of STEPS.entries()) {
    for (const array of Object.values(step.arrays)) {
      if (array.data === data && formulaOf(step, array.name)) return {array: array.name, step: j};
    }
  }
  return {array: name, step: i};
}

function go(name, index) {
  const from = {step: state.step, cell: state.cell};
  const {step, array} = origin(state.step, name);
  state.trail.push(from);
  open(step, {array, index});
}

function open(step, cell) {
  if (step !== state.step) showStep(step);
  showCell(cell);
  state.pinned = Boolean(cell);
  if (!cell) return;
  views[cell.array].reveal(cell.index);
  views[cell.array].box.focus({preventScroll: false});
}

function showCell(cell) {
  const step = STEPS[state.step];
  state.cell = cell;
  element("back").disabled = !state.trail.length;
  const found = cell && explainCell(step, cell.array, cell.index);
  const name = cell ? label(cell.array, cell.index) : "";
  element("cell-name").textContent = cell ? `${name} = ${shown(step.arrays[cell.array].at(cell.index), 8)}` : "";
  element("announcement").replaceChildren(...sentences(step, cell, name, found).map((text) => make("span", {}, text, " ")));
  element("announcement").className = found && !found.right ? "wrong" : "";
  showEquations(found ? step.equations[cell.array] ?? [] : []);
  showTerms(found);
  light(found);
}

function sentences(step, cell, name, found) {
  if (!cell) return [word("nothing")];
  if (!found) {
    if (step.arrays[`d${cell.array}`] && !["x", "y"].includes(cell.array)) return [word("parameter", cell.array)];
    return [word(isGradient(cell.array) && cell.array !== "dy" ? "unknown" : "given")];
  }
  const {terms, sum, right, guess} = found, used = terms.filter((t) => !t.reason);
  const how = step.kind === "measured" ? [word("measured")] : [];
  if (right) {
    if (!used.length && terms.every((t) => ["fraction", "outside"].includes(t.reason.word))) return [word("none")];
    return [used.length === 1 ? word("copy", name) : word("right", name, used.length), ...how];
  }
  const which = guess.terms?.map((t) => t.factors.map(factorText).join("·")).join(", ");
  const cause = guess.word ? [word(guess.word, which ?? shown(guess.ratio ?? 0))] : [];
  return [word("wrong", name, shown(sum)), ...cause, ...how];
}

const factorText = ({array, index, text, value}) => (array ? label(array, index) : text ?? shown(value));

function showEquations(equations) {
  element("equations").replaceChildren(
    ...equations.map(([number, equation, line, place]) =>
      make("p", {}, make("code", {}, equation), ` (${number})`, make("small", {}, make("code", {}, line), ` ${place}`))),
  );
}

function showTerms(found) {
  const terms = found?.terms ?? [];
  const head = terms.length ? ["place", "factors", "product", "running"] : [];
  element("head").replaceChildren(...head.map((name) => make("th", {scope: "col"}, word(name))));
  let running = 0;
  const rows = terms.slice(0, MOST_ROWS).map((t) => {
    running += t.product;
    const at = Object.entries(t.place).map(([name, value]) => `${name}=${value}`).join(" ");
    const ends = t.reason
      ? [make("td", {colSpan: 2}, word(t.reason.word, t.reason.sum))]
      : [make("td", {}, shown(t.product)), make("td", {}, shown(running))];
    const suspect = found.guess?.terms?.includes(t);
    const className = t.reason ? "out" : suspect ? "suspect" : "";
    return make("tr", {className}, make("td", {}, at), make("td", {}, ...factors(t)), ...ends);
  });
  element("terms").replaceChildren(...rows);
  const line = (name, value) => make("tr", {}, make("th", {scope: "row", colSpan: 2}, word(name)), make("td", {colSpan: 2}, value));
  const left = terms.length - rows.length;
  element("sum").replaceChildren(
    ...(left > 0 ? [make("tr", {}, make("td", {colSpan: 4}, word("more", left)))] : []),
    ...(found ? [line("sum", shown(found.sum, 8)), line("value", shown(found.value, 8)), line("difference", shown(found.value - found.sum))] : []),
  );
}

function factors({factors}) {
  return factors.flatMap((factor, i) => {
    const value = shown(factor.value), name = factor.text ?? factor.array;
    const text = name === value ? [value] : [make("small", {}, name, " "), value];
    const shownAs = make(factor.array ? "button" : "span", {}, ...text);
    if (factor.array) {
      shownAs.onclick = () => go(factor.array, factor.index);
      shownAs.title = label(factor.array, factor.index);
    }
    return i ? [" × ", shownAs] : [shownAs];
  });
}

// Marks the cells that are factors, and those of products that are left out.
function light(found) {
  for (const view of Object.values(views)) view.lit = new Map();
  for (const {factors, reason} of found?.terms ?? []) {
    for (const {array, index} of factors.filter((factor) => factor.array)) {
      const {lit, array: values} = views[array], flat = values.flat(index);
      if (!reason || !lit.has(flat)) lit.set(flat, reason ? "out" : "used");
    }
  }
  for (const view of Object.values(views)) view.draw();
}

// An array on a canvas: planes (H, W) side by side, those of one image or filter in a row. The canvas
// is as large as the box that scrolls over it.
class View {
  constructor(step, array) {
    Object.assign(this, {array, lit: new Map(), wrong: wrongCells(step)[array.name]});
    const shape = [...Array(Math.max(0, 4 - array.shape.length)).fill(1), ...array.shape];
    this.sizes = [shape.slice(0, -3).reduce((a, b) => a * b, 1), ...shape.slice(-3)];
    this.largest = array.data.reduce((most, value) => Math.max(most, Number.isFinite(value) ? Math.abs(value) : 0), 0);
    this.numbers = array.data.length <= SMALL;
    this.canvas = make("canvas");
    this.space = make("div", {}, this.canvas);
    this.box = make("div", {className: "view", tabIndex: 0}, this.space);
    this.box.setAttribute("role", "application");
    this.box.setAttribute("aria-label", `${array.name} (${array.shape.join(", ")})`);
    this.box.setAttribute("aria-describedby", "announcement");
    this.toggle = make("button", {onclick: () => this.zoom(!this.numbers), tabIndex: -1, hidden: this.numbers});
    this.figure = make("figure", {}, make("figcaption", {}, make("b", {}, array.name), `(${array.shape.join(", ")})`,
      this.wrong.size || step.shapes[array.name] ? make("span", {className: "wrong"}, "✗") : "", this.toggle), this.box);
    this.box.onscroll = () => this.draw();
    this.box.onpointermove = (event) => event.pointerType === "mouse" && !state.pinned && this.point(event);
    this.box.onclick = (event) => this.point(event) && pin();
    this.box.onfocus = () => state.cell?.array === array.name || state.pinned || this.select(array.index(0));
    this.box.onkeydown = (event) => this.key(event);
    this.zoom(this.numbers);
  }

  get cellSize() {
    if (this.numbers) return NUMBER_SIZE;
    const side = Math.max(3, Math.min(14, Math.floor(196 / Math.max(...this.sizes.slice(2)))));
    return [side, side];
  }

  zoom(numbers) {
    this.numbers = numbers;
    this.toggle.textContent = word(numbers ? "picture" : "numbers");
    const [rows, columns, h, w] = this.sizes, [width, height] = this.cellSize;
    this.space.style.width = `${columns * (w * width + GAP)}px`;
    this.space.style.height = `${rows * (h * height + GAP)}px`;
    this.box.style.width = `min(100%, ${columns * (w * width + GAP) + 2}px)`;
    this.draw();
    if (state.cell?.array === this.array.name) this.reveal(state.cell.index);
  }

  // Where the cell with this position begins, in pixels of the whole picture.
  corner([row, column, i, j]) {
    const [, , h, w] = this.sizes, [width, height] = this.cellSize;
    return [column * (w * width + GAP) + j * width, row * (h * height + GAP) + i * height];
  }

  position(flat) {
    const [, columns, h, w] = this.sizes;
    return [Math.floor(flat / (columns * h * w)), Math.floor(flat / (h * w)) % columns, Math.floor(flat / w) % h, flat % w];
  }

  point(event) {
    const box = this.box.getBoundingClientRect(), [, columns, h, w] = this.sizes, [width, height] = this.cellSize;
    const x = event.clientX - box.left - this.box.clientLeft + this.box.scrollLeft;
    const y = event.clientY - box.top - this.box.clientTop + this.box.scrollTop;
    const [column, row] = [Math.floor(x / (w * width + GAP)), Math.floor(y / (h * height + GAP))];
    const [j, i] = [Math.floor((x % (w * width + GAP)) / width), Math.floor((y % (h * height + GAP)) / height)];
    if (row >= this.sizes[0] || column >= columns || i >= h || j >= w) return false;
    this.select(this.array.index(((row * columns + column) * h + i) * w + j));
    return true;
  }

  select(index) {
    showCell({array: this.array.name, index});
  }

  // Arrows step along the last two axes, and on into the next plane.
  key(event) {
    const [, columns, h, w] = this.sizes;
    const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -w, ArrowDown: w, PageUp: -h * w, PageDown: h * w};
    if (event.key === "Escape") return unpin();
    if (event.key === "Enter") return pin();
    if (event.key === "z" && !this.toggle.hidden) return this.zoom(!this.numbers);
    if (!(event.key in steps) || !this.array.data.length) return;
    event.preventDefault();
    const now = state.cell?.array === this.array.name ? this.array.flat(state.cell.index) : 0;
    const flat = Math.max(0, Math.min(this.array.data.length - 1, now + steps[event.key]));
    this.select(this.array.index(flat));
    this.reveal(this.array.index(flat));
  }

  reveal(index) {
    const [x, y] = this.corner(this.position(this.array.flat(index))), [width, height] = this.cellSize, {box} = this;
    if (x < box.scrollLeft || x + width > box.scrollLeft + box.clientWidth) box.scrollLeft = x - box.clientWidth / 2;
    if (y < box.scrollTop || y + height > box.scrollTop + box.clientHeight) box.scrollTop = y - box.clientHeight / 2;
    this.draw();
  }

  draw() {
    const {canvas, box} = this, ratio = devicePixelRatio || 1;
    const [width, height] = [box.clientWidth, Math.min(box.clientHeight || 1, this.space.offsetHeight || 1)];
    if (!width) return;
    Object.assign(canvas.style, {width: `${width}px`, height: `${height}px`});
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(["ink", "line", "plus", "minus", "lit", "wrong"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
    pen.scale(ratio, ratio);
    pen.translate(-box.scrollLeft, -box.scrollTop);
    const selected = state.cell?.array === this.array.name ? this.array.flat(state.cell.index) : -1;
    const marked = [];
    for (const flat of this.array.data.keys()) {
      const [x, y] = this.corner(this.position(flat)), [w, h] = this.cellSize;
      if (x + w < box.scrollLeft || y + h < box.scrollTop || x > box.scrollLeft + width || y > box.scrollTop + height) continue;
      this.drawCell(pen, colours, this.array.data[flat], x, y, w, h);
      if (flat === selected || this.lit.has(flat) || this.wrong.has(flat)) marked.push([flat, x, y, w, h]);
    }
    for (const [flat, x, y, w, h] of marked) this.mark(pen, colours, flat === selected, this.lit.get(flat), this.wrong.has(flat), x, y, w, h);
  }

  // Orange for plus and blue for minus, which also has a bar below it.
  drawCell(pen, colours, value, x, y, w, h) {
    const share = Number.isFinite(value) && this.largest ? Math.abs(value) / this.largest : 0;
    pen.fillStyle = `rgba(${value < 0 ? colours.minus : colours.plus}, ${(this.numbers ? 0.55 : 0.95) * share})`;
    pen.fillRect(x, y, w, h);
    if (w < 8) return;
    pen.strokeStyle = colours.line;
    pen.strokeRect(x + 0.5, y + 0.5, w, h);
    pen.fillStyle = colours.ink;
    if (this.numbers) {
      pen.font = "13px system-ui, sans-serif";
      [pen.textAlign, pen.textBaseline] = ["center", "middle"];
      pen.fillText(shown(value, 3), x + w / 2, y + h / 2, w - 4);
    } else if (value < 0) pen.fillRect(x + 2, y + h - 3, w / 3, 1);
  }

  mark(pen, colours, selected, lit, wrong, x, y, w, h) {
    const frame = (colour, thick, dash) => {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      pen.setLineDash(dash);
      pen.strokeRect(x + thick / 2, y + thick / 2, w - thick + 1, h - thick + 1);
      pen.setLineDash([]);
      pen.lineWidth = 1;
    };
    if (wrong) {
      const side = Math.min(w, h) / 2;
      pen.fillStyle = colours.wrong;
      pen.beginPath();
      for (const [dx, dy] of [[0, 0], [-side, 0], [0, side]]) pen.lineTo(x + w + dx, y + dy);
      pen.fill();
    }
    if (lit) frame(lit === "used" ? colours.lit : colours.ink, lit === "used" ? Math.min(3, w / 3) : 1, lit === "used" ? [] : [3, 3]);
    if (selected) frame(colours.ink, Math.min(3, w / 3), []);
  }
}

function pin() {
  state.pinned = true;
}

function unpin() {
  state.pinned = false;
}

element("back").onclick = () => {
  const {step, cell} = state.trail.pop();
  open(step, cell);
};
element("language").onclick = () => {
  state.language = state.language === "en" ? "zh" : "en";
  showStep(state.step, state.cell);
};
addEventListener("resize", () => Object.values(views).forEach((view) => view.draw()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => showStep(state.step, state.cell));
addEventListener("keydown", (event) => event.key === "Escape" && unpin());
showTrace();
showStep(0);
checkAll();
