// The attention explorer. Five numbers say what is looked at (`example`, `shown`, `layer`, `head`, `position`); sliders,
// keys and pointer change them here, so that they are one state also while the kernel is busy. The picture of a layer
// with all its heads is asked for when it is first looked at, and kept.

const MOST = 478; // side of the map with its margins, in CSS pixels
const KEPT = 24; // pictures
const BAND = 15, LABELS = 92;
const LEGIBLE = 11; // the smallest cell whose token is named at the edges
const TICKS = ["0.001", "0.01", "0.1", "1"];
const FONT = '"DejaVu Sans Mono", ui-monospace, monospace';
const MEAN = -1;

function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

// The mask's bits → the allowed cells in order, and where those of each row begin.
function cellsOf(bits, count) {
  const starts = new Int32Array(count + 1);
  const cells = new Int32Array(count * count);
  let found = 0;
  for (let cell = 0; cell < count * count; cell++) {
    if (cell % count === 0) starts[cell / count] = found;
    if (bits[cell >> 3] & (128 >> (cell & 7))) cells[found++] = cell;
  }
  starts[count] = found;
  return { starts, cells: cells.subarray(0, found) };
}

// The number and the colour that each of 256 bytes stands for.
function decoder(signed, ramps, page) {
  const pen = new OffscreenCanvas(1, 1).getContext("2d");
  pen.fillStyle = page;
  const levels = rgb(pen.fillStyle);
  const theme = 0.299 * levels[0] + 0.587 * levels[1] + 0.114 * levels[2] > 128 ? "light" : "dark";
  const stops = { more: ramps[theme].more.map(rgb), less: ramps[theme].less.map(rgb) };
  stops.more[0] = stops.less[0] = levels;
  const values = new Float32Array(256), pixels = new Uint32Array(256), css = [];
  const at = (ramp, strength) => {
    const place = strength * (ramp.length - 1), low = Math.min(Math.floor(place), ramp.length - 2);
    return ramp[low].map((from, i) => Math.round(from + (ramp[low + 1][i] - from) * (place - low)));
  };
  for (let code = 0; code < 256; code++) {
    const root = signed ? (code > 127 ? code - 256 : code) / 127 : code / 255;
    values[code] = root * Math.abs(root);
    const strength = Math.max(0, Math.min(1, 1 + Math.log10(Math.abs(values[code]) || 1e-9) / 3));
    const [r, g, b] = at(root < 0 ? stops.less : stops.more, strength);
    pixels[code] = (255 << 24) | (b << 16) | (g << 8) | r;
    css.push([`rgb(${r} ${g} ${b})`, 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#1a1a1a" : "#fff"]);
  }
  const ramp = (name) => [0, 1, 2, 3, 4, 5, 6].map((i) => `rgb(${at(stops[name], i / 6).join(" ")})`);
  return { values, pixels, css, ramps: { more: ramp("more"), less: ramp("less").reverse() } };
}

function render({ model, el }) {
  const choices = model.get("choices");
  const root = node("div", el, "stepjepa-attention");
  root.dataset.lmSuppressShortcuts = "true"; // keys are the explorer's, not the notebook's
  const [menus, sliders] = [node("div", root, "controls"), node("div", root, "controls")];
  const inputs = {
    example: menu("example", "Example", choices.example),
    shown: menu("shown", "Show", choices.shown),
    layer: slider("layer", "Layer", 0, choices.layer - 1),
    head: slider("head", "Head", MEAN, choices.head - 1),
    position: slider("position", "Token", 0, 0),
  };
  const summary = node("p", root, "summary");
  const note = node("p", root, "note");
  note.setAttribute("role", "alert");
  const sides = node("div", root, "sides");
  const drawing = node("div", sides, "drawing");
  const frame = node("div", drawing, "frame");
  const canvas = node("canvas", frame);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const zoomers = node("div", frame, "zoom");
  const legend = node("div", drawing, "legend");
  const reading = node("div", sides, "reading");
  const words = node("div", reading, "words");
  words.setAttribute("aria-live", "polite");
  const [sentence, most, cellLine] = ["sentence", "most", "cell"].map((name) => node("p", words, name));
  const text = node("div", reading, "text");
  const heads = node("div", root, "heads");
  const hint = node("p", root, "summary");
  const keys = [
    ["↑ ↓", " token  "], ["← →", " key  "], ["PgUp PgDn", " part  "], ["Shift ↑ ↓", " layer  "], ["Shift ← →", " head  "],
    ["+ − 0", " zoom  "], ["click", " choose"],
  ];
  for (const [key, said] of keys) {
    node("kbd", hint, "", key);
    hint.append(said);
  }

  const context = canvas.getContext("2d");
  const still = document.createElement("canvas"); // everything but the marks of the chosen row
  const pictures = new Map(), asked = new Set();
  let picture, count = 0, map, colours, scale, side, left, cell;
  let spans = []; // of the tokens in the text
  let column = 0; // of the arrow keys
  let pointed = null; // [row, column] under the pointer
  let zoom = 1, corner = [0, 0]; // what of the map is seen: from this row and column on
  let drawn = 0; // counts pictures, so that small ones of an earlier picture stop

  function menu(name, said, options) {
    const box = node("label", menus, name, said);
    box.hidden = options.length < 2;
    const input = box.appendChild(document.createElement("select"));
    options.forEach((option, i) => (node("option", input, "", option).value = i));
    input.addEventListener("change", () => set({ [name]: Number(input.value) }));
    return { input, say() {} };
  }

  function slider(name, said, min, max) {
    const box = node("label", sliders, name, said);
    const input = box.appendChild(document.createElement("input"));
    Object.assign(input, { type: "range", min, max });
    const output = node("output", box);
    input.addEventListener("input", () => set({ [name]: input.valueAsNumber }));
    return { input, say: (value) => (output.textContent = value === MEAN ? "mean" : value) };
  }

  function set(changes) {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  }

  function step(name, way) {
    const { input } = inputs[name];
    set({ [name]: Math.max(Number(input.min), Math.min(Number(input.max), model.get(name) + way)) });
  }

  // -------- pictures: kept, or asked for --------

  function wanted() {
    return Object.fromEntries(["example", "shown", "layer"].map((name) => [name, model.get(name)]));
  }

  function show() {
    for (const [name, { input, say }] of Object.entries(inputs)) {
      if (name === "position") input.max = Math.max(count - 1, model.get(name));
      input.value = model.get(name);
      say(model.get(name));
    }
    const found = pictures.get(Object.values(wanted()).join());
    root.classList.toggle("waiting", !found);
    if (found) receive(found);
    else ask(wanted());
  }

  function ask(what) {
    const key = Object.values(what).join();
    note.textContent = "";
    if (!asked.has(key)) model.send(what);
    asked.add(key);
  }

  function answer(content, buffers) {
    const key = Object.values(content.asked).join();
    asked.delete(key);
    if (content.error) {
      note.textContent = content.error;
      if (picture) set(picture.asked);
      return;
    }
    const [bits, codes] = buffers.map(bytes);
    pictures.delete(key);
    pictures.set(key, { ...content, ...cellsOf(bits, content.tokens.length), codes });
    if (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
    show();
  }

  function receive(found) {
    if (found === picture) return redraw();
    const other = !picture || found.asked.example !== picture.asked.example;
    picture = found;
    count = picture.tokens.length;
    inputs.position.input.max = count - 1;
    inputs.position.input.value = model.get("position");
    summary.textContent = picture.summary;
    summary.classList.toggle("broken", picture.summary.includes("does not hold"));
    if (other) {
      [zoom, corner, column] = [1, [0, 0], chosen()];
      write();
    }
    pointed = null;
    recolour();
  }

  // -------- text: the trunk, and beside each of its parts the branch whose target it is --------

  function write() {
    text.replaceChildren();
    spans = [];
    for (const title of ["", "trunk", "branches"]) node("b", text, "", title);
    const cellsOfRow = [];
    for (const { name, colour, start, end, row, branch } of picture.parts) {
      if (!branch) {
        const title = node("span", text, "part", name);
        title.style.borderColor = colour;
        cellsOfRow.push([node("p", text), node("p", text)]);
      }
      const where = cellsOfRow[row][Number(branch)];
      for (let t = start; t < end; t++) {
        spans[t] = node("span", where, "token", picture.tokens[t].text.replace(/\n/g, "↵").replace(/\t/g, "⇥"));
        spans[t].dataset.at = t;
        if (/\n *$/.test(picture.tokens[t].text) && t + 1 < end && !/^\s*\n/.test(picture.tokens[t + 1].text)) where.append("\n");
      }
    }
  }

  function shade(row, key) {
    const { starts, cells, codes } = picture;
    const from = (model.get("head") + 1) * cells.length;
    const seen = new Map();
    for (let i = starts[row]; i < starts[row + 1]; i++) seen.set(cells[i] - row * count, codes[from + i]);
    spans.forEach((span, t) => {
      const [back, ink] = seen.has(t) ? colours.css[seen.get(t)] : ["", ""];
      const name = `token${seen.has(t) ? "" : " forbidden"}${t === row ? " row" : ""}${t === key && key !== row ? " key" : ""}`;
      if (span.className !== name) span.className = name;
      if (span.style.backgroundColor !== back) [span.style.backgroundColor, span.style.color] = [back, ink];
    });
    return seen;
  }

  function say(row, key) {
    const seen = shade(row, key);
    const [query, other] = [picture.tokens[row], picture.tokens[key]];
    const number = (code) => `${picture.signed && code < 128 && code > 0 ? "+" : ""}${colours.values[code].toFixed(2)}`;
    sentence.replaceChildren();
    node("code", sentence, "", query.text.trim() || "·");
    sentence.append(` ${picture.sentences[row]}`);
    const order = [...seen].sort((a, b) => Math.abs(colours.values[b[1]]) - Math.abs(colours.values[a[1]])).slice(0, 5);
    most.replaceChildren(picture.signed ? "Differs most: " : "Attends most to: ");
    for (const [k, code] of order) {
      node("code", most, "", picture.tokens[k].text.trim() || "·");
      most.append(` ${number(code)}  `);
    }
    cellLine.replaceChildren(`${query.name} ${seen.has(key) ? "may" : "must not"} attend to ${other.name} `);
    node("code", cellLine, "", other.text.trim() || "·");
    const what = picture.signed ? "difference" : "weight";
    cellLine.append(seen.has(key) ? `: ${what} about ${number(seen.get(key))}.` : `: weight exactly 0${picture.signed ? " in both" : ""}.`);
    canvas.setAttribute("aria-label", `${picture.summary} Row ${row + 1} of ${count}: ${query.name}.`);
  }

  // -------- the still part: cells, bands, labels --------

  function recolour() {
    if (!picture) return;
    colours = decoder(picture.signed, choices.colours, pageOf(root));
    explain();
    redraw();
    drawHeads();
  }

  function imageOf(head) {
    const { cells, codes } = picture;
    const from = (head + 1) * cells.length;
    const image = new ImageData(count, count);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < cells.length; i++) pixels[cells[i]] = colours.pixels[codes[from + i]];
    const made = new OffscreenCanvas(count, count);
    made.getContext("2d").putImageData(image, 0, 0);
    return made;
  }

  function hatched(pen, x, y, width) {
    const tile = new OffscreenCanvas(6 * scale, 6 * scale);
    const line = tile.getContext("2d");
    line.strokeStyle = inkOf(root);
    line.globalAlpha = 0.3;
    line.lineWidth = scale;
    for (const shift of [-6, 0, 6]) {
      line.moveTo((shift - 1) * scale, 7 * scale);
      line.lineTo((shift + 7) * scale, -scale);
    }
    line.stroke();
    pen.fillStyle = pageOf(root);
    pen.fillRect(x, y, width, width);
    pen.fillStyle = pen.createPattern(tile, "repeat");
    pen.fillRect(x, y, width, width);
  }

  function redraw() {
    if (!picture || !drawing.clientWidth) return;
    scale = window.devicePixelRatio || 1;
    const whole = Math.min(MOST, drawing.clientWidth);
    const labelled = ((whole - LABELS) * zoom) / count >= LEGIBLE;
    left = (labelled ? LABELS : BAND) * scale;
    side = whole * scale - left;
    cell = (side * zoom) / count;
    still.width = canvas.width = still.height = canvas.height = whole * scale;
    canvas.style.width = canvas.style.height = `${whole}px`;
    map = imageOf(model.get("head"));
    follow();
    paint(labelled);
    mark();
  }

  function paint(labelled) {
    const pen = still.getContext("2d");
    const [x, y] = [(column) => left + (column - corner[1]) * cell, (row) => left + (row - corner[0]) * cell];
    const background = pageOf(root);
    pen.clearRect(0, 0, still.width, still.height);
    hatched(pen, left, left, side);
    pen.save();
    pen.beginPath();
    pen.rect(left, left, side, side);
    pen.clip();
    pen.imageSmoothingEnabled = cell < 1;
    pen.drawImage(map, corner[1], corner[0], count / zoom, count / zoom, left, left, side, side);
    pen.fillStyle = background;
    if (cell >= 7 * scale) {
      for (let t = Math.ceil(Math.min(...corner)); t < count; t++) {
        pen.fillRect(x(t), left, 1, side);
        pen.fillRect(left, y(t), side, 1);
      }
    }
    const trunk = picture.parts.find(({ branch }) => branch)?.start;
    for (const { start } of picture.parts) {
      const thick = (start === trunk ? 4 : 1.5) * scale;
      pen.fillRect(x(start) - thick / 2, left, thick, side);
      pen.fillRect(left, y(start) - thick / 2, side, thick);
    }
    pen.restore();
    for (const { name, colour, start, end } of picture.parts) {
      const clipped = (at) => Math.max(left, Math.min(left + side, at));
      band(pen, name, colour, clipped(x(start)), clipped(x(end)), false);
      band(pen, name, colour, clipped(y(start)), clipped(y(end)), true);
    }
    if (labelled) {
      for (let t = 0; t < count; t++) for (const upright of [false, true]) label(pen, t, upright, 0.75);
    }
  }

  function band(pen, name, colour, from, to, turned) {
    if (to - from < 1) return;
    const thick = (BAND - 2) * scale, at = left - BAND * scale;
    pen.save();
    pen.fillStyle = colour;
    if (turned) pen.fillRect(at, from, thick, to - from - 1);
    else pen.fillRect(from, at, to - from - 1, thick);
    pen.font = `bold ${10 * scale}px sans-serif`;
    pen.fillStyle = inkOn(colour);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.translate(turned ? at + thick / 2 : (from + to) / 2, turned ? (from + to) / 2 : at + thick / 2);
    if (turned) pen.rotate(-Math.PI / 2);
    if (pen.measureText(name).width < to - from - 4 * scale) pen.fillText(name, 0, 0.5 * scale);
    pen.restore();
  }

  function label(pen, t, upright, alpha) {
    const at = left + (t + 0.5 - corner[upright ? 1 : 0]) * cell, gap = (BAND + 4) * scale;
    if (at < left || at > left + side) return;
    pen.save();
    pen.font = `${11 * scale}px ${FONT}`;
    pen.fillStyle = inkOf(root);
    pen.globalAlpha = alpha;
    pen.textBaseline = "middle";
    pen.textAlign = upright ? "left" : "right";
    pen.translate(upright ? at : left - gap, upright ? left - gap : at);
    if (upright) pen.rotate(-Math.PI / 2);
    const said = picture.tokens[t].text.trim().replace(/\n/g, "↵") || "↵";
    pen.fillText(said.length > 10 ? `${said.slice(0, 9)}…` : said, 0, 0);
    pen.restore();
  }

  function explain() {
    legend.replaceChildren();
    const { more, less } = colours.ramps;
    const bar = (ramp, ticks) => {
      const box = node("span", legend, "bar");
      node("i", box).style.background = `linear-gradient(to right, ${ramp.join(",")})`;
      const scaled = node("span", box);
      for (const tick of ticks) node("span", scaled, "", tick);
    };
    if (picture.signed) bar(less, [...TICKS].reverse().map((tick) => `−${tick}`));
    bar(more, picture.signed ? TICKS.map((tick) => `+${tick}`) : TICKS);
    node("i", legend, "hatch");
    legend.append(picture.signed ? "forbidden: 0 in both" : "forbidden: exactly 0");
  }

  // -------- all heads --------

  function drawHeads() {
    const mine = ++drawn;
    const numbers = Array.from({ length: picture.heads + 1 }, (_, i) => i - 1);
    if (heads.childElementCount !== numbers.length) {
      heads.replaceChildren();
      for (const head of numbers) {
        const button = node("button", heads);
        node("canvas", button);
        node("span", button, "", head === MEAN ? "mean" : `head ${head}`);
        button.addEventListener("click", () => set({ head }));
      }
    }
    const size = Math.max(44, Math.min(72, Math.floor((root.clientWidth || 1000) / numbers.length) - 12)) * scale;
    const next = (at) => {
      const end = performance.now() + 8; // the rest in a later frame: what was chosen is drawn first
      for (; at < numbers.length && mine === drawn; at++) {
        if (performance.now() > end) return requestAnimationFrame(() => next(at));
        const small = heads.children[at].firstChild;
        small.width = small.height = size;
        small.style.width = small.style.height = `${size / scale}px`;
        const pen = small.getContext("2d");
        hatched(pen, 0, 0, size);
        pen.imageSmoothingQuality = "high";
        pen.drawImage(imageOf(numbers[at]), 0, 0, size, size);
      }
    };
    requestAnimationFrame(() => next(0));
  }

  // -------- the moving part: the row looked at and its words --------

  function chosen() {
    return Math.min(model.get("position"), count - 1);
  }

  function mark() {
    if (!picture || !side) return;
    const [row, key] = pointed ?? [chosen(), Math.min(column, count - 1)];
    const [x, y] = [left + (key - corner[1]) * cell, left + (row - corner[0]) * cell];
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(still, 0, 0);
    context.save();
    context.beginPath();
    context.rect(0, 0, canvas.width, canvas.height);
    context.clip();
    const box = (lineWidth, alpha, ...place) => {
      for (const [ink, more] of [[pageOf(root), 2 * scale], [inkOf(root), 0]]) {
        Object.assign(context, { strokeStyle: ink, lineWidth: lineWidth * scale + more, globalAlpha: alpha });
        context.strokeRect(...place);
      }
    };
    if (y >= left - cell && y <= left + side) box(1.2, 1, left - scale, y - scale, side + scale, cell + 2 * scale);
    if (x >= left - cell && x <= left + side) box(1, 0.45, x - scale, left - scale, cell + 2 * scale, side + scale);
    context.restore();
    [...heads.children].forEach((button, i) => button.setAttribute("aria-pressed", i - 1 === model.get("head")));
    say(row, key);
  }

  // Moves what is seen as little as it takes to see the chosen cell.
  function follow() {
    const seen = count / zoom;
    corner = [chosen(), Math.min(column, count - 1)].map((at, i) =>
      Math.max(0, Math.min(count - seen, Math.max(at + 1 - seen, Math.min(at, corner[i])))),
    );
  }

  function zoomBy(factor) {
    zoom = factor ? Math.max(1, Math.min(count / 8, zoom * factor)) : 1;
    corner = [chosen(), column].map((at) => at + 0.5 - count / zoom / 2);
    redraw();
  }

  function moved() {
    inputs.position.input.value = model.get("position");
    inputs.position.say(model.get("position"));
    if (!picture) return;
    if (zoom > 1) redraw();
    else mark();
    if (!pointed) spans[chosen()]?.scrollIntoView?.({ block: "nearest", inline: "nearest" });
  }

  // -------- pointer and keys --------

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [row, key] = [event.clientY - box.top, event.clientX - box.left].map((at, i) =>
      Math.floor(corner[i] + (at * scale - left) / cell),
    );
    const inside = (i) => i >= 0 && i < count;
    return inside(row) ? [row, inside(key) ? key : row] : null; // on a label: the row and itself
  }

  function point(place) {
    pointed = place;
    mark();
  }

  function choose(place) {
    if (!place) return;
    column = place[1];
    if (place[0] === model.get("position")) moved();
    else set({ position: place[0] });
  }

  function nextPart(row, way) {
    const starts = picture.parts.map(({ start }) => start);
    return way > 0 ? starts.find((start) => start > row) ?? count - 1 : starts.findLast((start) => start < row) ?? 0;
  }

  for (const [sign, name, factor] of [["+", "zoom in", 1.6], ["−", "zoom out", 1 / 1.6], ["⟲", "whole map", 0]]) {
    const button = node("button", zoomers, "", sign);
    button.title = name;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => zoomBy(factor));
  }
  canvas.addEventListener("pointermove", (event) => picture && point(under(event)));
  canvas.addEventListener("pointerleave", () => picture && point(null));
  canvas.addEventListener("click", (event) => picture && choose(under(event)));
  text.addEventListener("pointermove", ({ target }) => target.dataset.at && point([Number(target.dataset.at), Number(target.dataset.at)]));
  text.addEventListener("pointerleave", () => picture && point(null));
  text.addEventListener("click", ({ target }) => target.dataset.at && choose([Number(target.dataset.at), Number(target.dataset.at)]));
  canvas.addEventListener("keydown", (event) => {
    if (!picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = chosen();
    const held = { ArrowUp: ["layer", -1], ArrowDown: ["layer", 1], ArrowLeft: ["head", -1], ArrowRight: ["head", 1] };
    const rows = {
      ArrowUp: row - 1, ArrowDown: row + 1, Home: 0, End: count - 1, PageUp: nextPart(row, -1), PageDown: nextPart(row, 1),
    };
    const columns = { ArrowLeft: column - 1, ArrowRight: column + 1 };
    const zooms = { "+": 1.6, "-": 1 / 1.6, 0: 0 };
    const within = (at) => Math.max(0, Math.min(count - 1, at));
    if (event.shiftKey && event.key in held) step(...held[event.key]);
    else if (event.key in zooms) zoomBy(zooms[event.key]);
    else if (event.key in columns) choose([row, within(columns[event.key])]);
    else if (event.key in rows) choose([within(rows[event.key]), column]);
    else return;
    pointed = null;
    event.preventDefault();
    event.stopPropagation();
  });

  const resized = new ResizeObserver(redraw);
  resized.observe(root);
  const unthemed = onOtherTheme(root, recolour);
  const heard = ["example", "shown", "layer", "head"].map((name) => [`change:${name}`, show]);
  heard.push(["change:position", moved], ["msg:custom", answer]);
  for (const [event, callback] of heard) model.on(event, callback);
  show();
  return () => {
    resized.disconnect();
    unthemed();
    for (const [event, callback] of heard) model.off(event, callback);
  };
}

export default { render };
