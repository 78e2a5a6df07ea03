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
const firstFew = (terms) =>
  terms.slice(0, 3).map((t) => t.factors.map(factorText).join("·")).join(word("or")) + (terms.length > 3 ? " …" : "");
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
    markSteps();
  }
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
  element("steps").replaceChildren(
    ...STEPS.map((step, i) => {
      const output = step.arrays.y ?? step.arrays.loss;
      return make("li", {}, make("button", {onclick: () => showStep(i)}, `${step.name} ${step.layer}`,
        make("span", {className: "wrong"}), make("small", {}, output.shape.join(" × "))));
    }),
  );
}

// Which step is shown, and which are known to be wrong.
function markSteps() {
  for (const [i, button] of element("steps").querySelectorAll("button").entries()) {
    if (i === state.step) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
    button.querySelector(".wrong").textContent = isWrong(STEPS[i]) ? " ✗" : "";
  }
}

// All that is said, in the language that was chosen.
function say() {
  const step = STEPS[state.step], other = state.language === "en" ? "zh" : "en";
  document.documentElement.lang = state.language;
  Object.assign(element("language"), {textContent: other === "zh" ? "中文" : "English", lang: other});
  for (const named of document.querySelectorAll("[data-word]")) named.textContent = word(named.dataset.word);
  element("findings").replaceChildren(...problems(step).map((text) => make("li", {}, text)));
  for (const view of Object.values(views)) view.name();
  showCell(state.cell);
}

// A gradient has the name of what it is the gradient of; "dx by body" was computed in the body.
const isGradient = (name, {arrays}) => name[0] === "d" && name.slice(1).split(" ")[0] in arrays;
const isComputed = (name, step) =>
  ["y", "p", "loss"].includes(name) || (isGradient(name, step) && name !== "dy" && !name.includes(" "));

// Forward in the first row, backward in the second.
function showStep(i) {
  const step = STEPS[(state.step = i)];
  Object.assign(state, {pinned: false, cell: null});
  markSteps();
  element("step-name").textContent = `${step.name} ${step.layer}`;
  const names = Object.keys(step.arrays).filter((name) => !/^(slopes|kinks) of /.test(name));
  views = Object.fromEntries(names.map((name) => [name, new View(step, step.arrays[name])]));
  const row = (gradients) => names.filter((name) => isGradient(name, step) === gradients).map((name) => views[name].figure);
  element("arrays").replaceChildren(...row(false), make("hr"), ...row(true));
  draw();
  say();
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
      if (array.data === data && isComputed(array.name, step)) return {array: array.name, step: j};
    }
  }
  return {array: name, step: i};
}

function go(name, index) {
  const {step, array} = origin(state.step, name);
  state.trail.push({step: state.step, cell: state.cell});
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
  const from = cell && !found && elsewhere(cell);
  const name = cell ? label(cell.array, cell.index) : "";
  element("cell-name").textContent = cell ? `${name} = ${shown(step.arrays[cell.array].at(cell.index), 8)}` : "";
  element("announcement").replaceChildren(...sentences(step, cell, name, found, from).map((text) => make("span", {}, text, " ")));
  element("announcement").className = found && !found.right ? "wrong" : "";
  showEquations(found ? step.equations[cell.array] ?? [] : []);
  showTerms(found ?? from);
  light(found);
}

// What a given cell is in the step that computed it, if that is another one.
function elsewhere({array, index}) {
  const from = origin(state.step, array);
  return from.step === state.step ? null : {...from, terms: [term({}, cell(STEPS[state.step].arrays[array], ...index))]};
}

function sentences(step, cell, name, found, from) {
  if (!cell) return [word("nothing")];
  if (!found) {
    if (from) return [word("elsewhere", STEPS[from.step].name, STEPS[from.step].layer, label(from.array, cell.index))];
    if (step.shapes[cell.array]) return problems(step).slice(0, 1);
    if (isComputed(cell.array, step)) return [word("unknown")];
    const isParameter = `d${cell.array}` in step.arrays && !["x", "y"].includes(cell.array);
    return [isParameter ? word("parameter", cell.array) : word("given")];
  }
  const {terms, sum, right, kink, guesses} = found, used = terms.filter((t) => !t.reason);
  const how = step.kind === "measured" ? [word("measured")] : [];
  if (!right) {
    const causes = guesses.map((guess) => word(guess.word, guess.terms ? firstFew(guess.terms) : shown(guess.ratio ?? 0)));
    return [word("wrong", name, shown(sum)), ...causes, ...how];
  }
  if (kink) return [word("kink", name), ...how];
  if (used.length) return [used.length === 1 ? word("copy", name) : word("right", name, used.length), ...how];
  return [terms.every((t) => ["fraction", "outside"].includes(t.reason.word)) ? word("none") : word("left out", name)];
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
    const suspect = found.guesses?.some((guess) => guess.terms?.includes(t));
    const className = t.reason ? "out" : suspect ? "suspect" : "";
    return make("tr", {className}, make("td", {}, at), make("td", {}, ...factors(t)), ...ends);
  });
  element("terms").replaceChildren(...rows);
  const line = (name, value) => make("tr", {}, make("th", {scope: "row", colSpan: 2}, word(name)), make("td", {colSpan: 2}, value));
  const left = terms.length - rows.length;
  element("sum").replaceChildren(
    ...(left > 0 ? [make("tr", {}, make("td", {colSpan: 4}, word("more", left)))] : []),
    ...(found && "sum" in found ? [line("sum", shown(found.sum, 8)), line("value", shown(found.value, 8)), line("difference", shown(found.value - found.sum))] : []),
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
  for (const view of Object.values(views)) view.lit.clear();
  for (const {factors, reason} of found?.terms ?? []) {
    for (const {array, index} of factors.filter((factor) => factor.array)) {
      const {lit, array: values} = views[array], flat = values.flat(index);
      if (!reason || !lit.has(flat)) lit.set(flat, reason ? "out" : "used");
    }
  }
  for (const view of Object.values(views)) view.show();
}

const draw = () => Object.values(views).forEach((view) => view.draw());

// An array on a canvas: planes (H, W) side by side, those of one image or filter in a row. The canvas
// is as large as the box that scrolls over it.
class View {
  constructor(step, array) {
    Object.assign(this, {array, lit: new Map(), wrong: wrongCells(step)[array.name]});
    const shape = [...Array(Math.max(0, 4 - array.shape.length)).fill(1), ...array.shape];
    this.sizes = [shape.slice(0, -3).reduce((a, b) => a * b, 1), ...shape.slice(-3)];
    this.largest = array.data.reduce((most, value) => Math.max(most, Number.isFinite(value) ? Math.abs(value) : 0), 0);
    this.numbers = array.data.length <= SMALL;
    [this.canvas, this.numbersAlone] = [make("canvas"), make("canvas")];
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
    this.box.onclick = (event) => (state.pinned = this.point(event));
    this.box.onfocus = () => {
      const keeps = state.cell?.array === array.name || state.pinned;
      if (!keeps && array.data.length) this.select(array.index(0));
    };
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
    this.name();
    const [rows, columns, h, w] = this.sizes, [width, height] = this.cellSize;
    this.space.style.width = `${columns * (w * width + GAP)}px`;
    this.space.style.height = `${rows * (h * height + GAP)}px`;
    this.box.style.width = `min(100%, ${columns * (w * width + GAP) + 2}px)`;
    this.draw();
    if (state.cell?.array === this.array.name) this.reveal(state.cell.index);
  }

  name() {
    this.toggle.textContent = word(this.numbers ? "picture" : "numbers");
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
    if (event.key === "Enter") return (state.pinned = Boolean(state.cell));
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
  }

  // A pen for what is in sight: places are those of the whole picture.
  pen(canvas) {
    const pen = canvas.getContext("2d"), ratio = devicePixelRatio || 1;
    pen.setTransform(ratio, 0, 0, ratio, -this.box.scrollLeft * ratio, -this.box.scrollTop * ratio);
    return pen;
  }

  // All numbers in sight, without marks: done anew only when others come into sight.
  draw() {
    const {canvas, box, numbersAlone} = this, ratio = devicePixelRatio || 1;
    const [width, height] = [box.clientWidth, Math.min(box.clientHeight || 1, this.space.offsetHeight || 1)];
    if (!width) return;
    Object.assign(canvas.style, {width: `${width}px`, height: `${height}px`});
    for (const each of [canvas, numbersAlone]) [each.width, each.height] = [width * ratio, height * ratio];
    const pen = this.pen(numbersAlone), style = getComputedStyle(document.documentElement);
    const colour = (name) => [name, style.getPropertyValue(`--${name}`)];
    this.colours = Object.fromEntries(["ink", "line", "plus", "minus", "lit", "wrong"].map(colour));
    for (const [flat, value] of this.array.data.entries()) {
      if (this.isInSight(flat)) this.drawCell(pen, this.colours, value, ...this.place(flat));
    }
    this.show();
  }

  place(flat) {
    return [...this.corner(this.position(flat)), ...this.cellSize];
  }

  isInSight(flat) {
    const [x, y, w, h] = this.place(flat), {scrollLeft, scrollTop, clientWidth, clientHeight} = this.box;
    return x + w >= scrollLeft && y + h >= scrollTop && x <= scrollLeft + clientWidth && y <= scrollTop + clientHeight;
  }

  // The numbers, and on them the marks.
  show() {
    if (!this.colours) return;
    const pen = this.pen(this.canvas), {scrollLeft, scrollTop, clientWidth} = this.box;
    const height = parseFloat(this.canvas.style.height);
    pen.clearRect(scrollLeft, scrollTop, clientWidth, height);
    pen.drawImage(this.numbersAlone, scrollLeft, scrollTop, clientWidth, height);
    const selected = state.cell?.array === this.array.name ? this.array.flat(state.cell.index) : null;
    for (const flat of new Set([...this.wrong, ...this.lit.keys(), ...(selected === null ? [] : [selected])])) {
      if (!this.isInSight(flat)) continue;
      this.mark(pen, this.colours, flat === selected, this.lit.get(flat), this.wrong.has(flat), ...this.place(flat));
    }
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

element("back").onclick = () => {
  const {step, cell} = state.trail.pop();
  open(step, cell);
};
element("language").onclick = () => {
  state.language = state.language === "en" ? "zh" : "en";
  say();
};
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("keydown", (event) => event.key === "Escape" && (state.pinned = false));
showTrace();
showSteps();
showStep(0);
checkAll();
