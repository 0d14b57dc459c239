// The attention explorer. Five numbers say what is looked at (`example`, `shown`, `layer`, `head`, `position`); sliders,
// keys and pointer change them here, so that they are one state also while the kernel is busy. The picture of a layer
// with all its heads is asked for when it is first looked at, and kept.

const KEPT = 24; // pictures
const TICKS = ["0.001", "0.01", "0.1", "1"];
const MEAN = -1;

function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function render({ model, el }) {
  const choices = model.get("choices");
  const root = node("div", el, "stepjepa-attention");
  root.dataset.lmSuppressShortcuts = "true"; // keys are the explorer's, not the notebook's
  const [menus, sliders] = [node("div", root, "controls"), node("div", root, "controls")];
  const inputs = {
    example: menu("example", "Example", choices.example),
    shown: menu("shown", "Show", choices.shown),
    layer: range("layer", "Layer", 0, choices.layer - 1),
    head: range("head", "Head", MEAN, choices.head - 1),
    position: range("position", "Token", 0, 0),
  };
  const summary = node("p", root, "summary");
  const note = node("p", root, "note");
  note.setAttribute("role", "alert");
  const sides = node("div", root, "sides");
  const drawing = node("div", sides, "drawing");
  const frame = node("div", drawing, "frame");
  const map = attentionMap(root, frame);
  const zoomers = node("div", frame, "zoom");
  const legend = node("div", drawing, "legend");
  const reading = node("div", sides, "reading");
  const words = node("div", reading, "words");
  words.setAttribute("aria-live", "polite");
  const [sentence, most, cellLine] = ["sentence", "most", "cell"].map((name) => node("p", words, name));
  const text = node("div", reading, "text");
  const heads = node("div", root, "heads");
  keys(root, [
    ["↑ ↓", "token"], ["← →", "key"], ["PgUp PgDn", "part"], ["Shift ↑ ↓", "layer"], ["Shift ← →", "head"],
    ["+ − 0", "zoom"], ["click", "choose"],
  ]);

  const pictures = new Map(), asked = new Set();
  let picture, colours, count = 0;
  let spans = []; // of the tokens in the text
  let column = 0; // of the arrow keys
  let pointed = null; // [row, column] under the pointer
  let drawn = 0; // counts pictures, so that small ones of an earlier picture stop

  // -------- controls --------

  function menu(name, said, options) {
    const box = node("label", menus, name, said);
    box.hidden = options.length < 2;
    const input = node("select", box);
    options.forEach((option, i) => (node("option", input, "", option).value = i));
    input.addEventListener("change", () => set({ [name]: Number(input.value) }));
    return { input, say() {} };
  }

  function range(name, said, min, max) {
    const box = node("label", sliders, name, said);
    const input = node("input", box);
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

  function settle() {
    inputs.position.input.max = Math.max(count - 1, model.get("position"));
    for (const [name, { input, say }] of Object.entries(inputs)) {
      input.value = model.get(name);
      say(model.get(name));
    }
  }

  // -------- pictures: kept, or asked for --------

  function show() {
    settle();
    const wanted = Object.fromEntries(["example", "shown", "layer"].map((name) => [name, model.get(name)]));
    const key = Object.values(wanted).join();
    const found = pictures.get(key);
    root.classList.toggle("waiting", !found);
    if (found) return receive(found);
    note.textContent = "";
    if (!asked.has(key)) model.send(wanted);
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
    pictures.set(key, { ...content, ...cellsOf(bits, content.tokens.length), codes });
    if (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
    show();
  }

  function receive(found) {
    const fresh = found.asked.example !== picture?.asked.example, same = found === picture;
    picture = found;
    count = picture.tokens.length;
    pointed = null;
    summary.textContent = picture.summary;
    summary.classList.toggle("broken", picture.summary.includes("does not hold"));
    if (fresh) {
      column = chosen();
      settle();
      write();
    }
    if (colours?.signed !== picture.signed) recolour(fresh);
    else recut(fresh, same);
    if (fresh) reveal();
  }

  function recolour(fresh) {
    if (!picture) return;
    colours = decoder(picture.signed, choices.colours, pageOf(root));
    explain();
    recut(fresh);
  }

  function recut(fresh, same) {
    map.take(picture, colours, model.get("head"), fresh);
    redraw();
    if (!same) drawHeads();
  }

  function redraw() {
    if (!picture) return;
    map.redraw(chosen(), column);
    mark();
  }

  // -------- text: the trunk, and beside each of its parts the branch whose target it is --------

  function write() {
    text.replaceChildren();
    spans = [];
    for (const title of ["", "trunk", "branches"]) node("b", text, "", title);
    const rows = [];
    for (const { name, colour, start, end, row, branch } of picture.parts) {
      if (!branch) {
        node("span", text, "part", name).style.borderColor = colour;
        rows.push([node("p", text), node("p", text)]);
      }
      const place = rows[row][Number(branch)];
      for (let t = start; t < end; t++) {
        const said = picture.tokens[t].text;
        spans[t] = node("span", place, "token", said.replace(/\n/g, "↵").replace(/\t/g, "⇥"));
        spans[t].dataset.at = t;
        const more = t + 1 < end && !/^\s*\n/.test(picture.tokens[t + 1].text);
        if (/\n *$/.test(said) && more) place.append("\n");
      }
    }
  }

  // Colours the text by what a row sees; gives the keys that it may attend to, each with its byte.
  function shade(row, key) {
    const { starts, cells, codes } = picture;
    const from = (model.get("head") + 1) * cells.length;
    const seen = new Map();
    for (let i = starts[row]; i < starts[row + 1]; i++) seen.set(cells[i] - row * count, codes[from + i]);
    spans.forEach((span, t) => {
      const [back, ink] = seen.has(t) ? colours.css[seen.get(t)] : ["", ""];
      const marks = [seen.has(t) ? "" : " forbidden", t === row ? " row" : "", t === key && key !== row ? " key" : ""];
      const name = `token${marks.join("")}`;
      if (span.className !== name) span.className = name;
      if (span.style.backgroundColor !== back) [span.style.backgroundColor, span.style.color] = [back, ink];
    });
    return seen;
  }

  function say(row, key) {
    const seen = shade(row, key);
    const quote = (place, t) => node("code", place, "", picture.tokens[t].text.trim() || "·");
    const number = (code) => `${picture.signed && code < 128 && code > 0 ? "+" : ""}${colours.values[code].toFixed(2)}`;
    sentence.replaceChildren();
    quote(sentence, row);
    sentence.append(` ${picture.sentences[row]}`);
    const size = ([, code]) => Math.abs(colours.values[code]);
    most.replaceChildren(picture.signed ? "Differs most (about): " : "Attends most to (about): ");
    for (const [k, code] of [...seen].sort((a, b) => size(b) - size(a)).slice(0, 5)) {
      quote(most, k);
      most.append(` ${number(code)}  `);
    }
    const [query, other] = [picture.tokens[row].name, picture.tokens[key].name];
    cellLine.replaceChildren(`${query} ${seen.has(key) ? "may" : "must not"} attend to ${other} `);
    quote(cellLine, key);
    const about = `: ${picture.signed ? "difference" : "weight"} about ${seen.has(key) ? number(seen.get(key)) : ""}.`;
    cellLine.append(seen.has(key) ? about : `: weight exactly 0${picture.signed ? " in both" : ""}.`);
    map.canvas.setAttribute("aria-label", `${picture.summary} Row ${row + 1} of ${count}: ${query}.`);
  }

  function reveal() {
    const [box, own] = [text, spans[chosen()]].map((one) => one.getBoundingClientRect());
    text.scrollTop += Math.min(0, own.top - box.top) + Math.max(0, own.bottom - box.bottom); // the page stays
  }

  function explain() {
    legend.replaceChildren();
    const bar = (ramp, ticks) => {
      const box = node("span", legend, "bar");
      node("i", box).style.background = `linear-gradient(to right, ${ramp.join(",")})`;
      const scaled = node("span", box);
      for (const tick of ticks) node("span", scaled, "", tick);
    };
    if (picture.signed) bar(colours.less, [...TICKS].reverse().map((tick) => `−${tick}`));
    bar(colours.more, picture.signed ? TICKS.map((tick) => `+${tick}`) : TICKS);
    node("i", legend, "hatch");
    legend.append(picture.signed ? "forbidden: 0 in both" : "forbidden: exactly 0");
  }

  // -------- all heads --------

  function drawHeads() {
    const mine = ++drawn;
    const numbers = Array.from({ length: picture.heads + 1 }, (_, i) => i + MEAN);
    if (heads.childElementCount !== numbers.length) {
      for (const head of numbers) {
        const button = node("button", heads);
        node("canvas", button);
        node("span", button, "", head === MEAN ? "mean" : `head ${head}`);
        button.addEventListener("click", () => set({ head }));
      }
    }
    const size = Math.max(44, Math.min(72, Math.floor((root.clientWidth || 1000) / numbers.length) - 12));
    const next = (at) => {
      const end = performance.now() + 8; // the rest in a later frame: what was chosen is drawn first
      for (; at < numbers.length && mine === drawn; at++) {
        if (performance.now() > end) return requestAnimationFrame(() => next(at));
        map.small(heads.children[at].firstChild, numbers[at], size);
      }
    };
    requestAnimationFrame(() => setTimeout(() => next(0)));
  }

  // -------- what is chosen, by pointer and keys --------

  function chosen() {
    return Math.min(model.get("position"), count - 1);
  }

  function mark() {
    const place = pointed ?? [chosen(), Math.min(column, count - 1)];
    map.mark(...place);
    [...heads.children].forEach((button, i) => button.setAttribute("aria-pressed", i + MEAN === model.get("head")));
    say(...place);
  }

  function moved() {
    settle();
    if (!picture) return;
    if (map.zoomed()) redraw();
    else mark();
    reveal();
  }

  function point(place) {
    if (!picture) return;
    pointed = place;
    mark();
  }

  function choose(place) {
    if (!picture || !place) return;
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
    button.addEventListener("click", () => picture && map.zoomBy(factor, chosen(), column));
  }
  const token = ({ target }) => (target.dataset.at ? [Number(target.dataset.at), Number(target.dataset.at)] : null);
  for (const [place, found] of [[map.canvas, map.under], [text, token]]) {
    place.addEventListener("pointermove", (event) => point(found(event)));
    place.addEventListener("pointerleave", () => point(null));
    place.addEventListener("click", (event) => choose(found(event)));
  }
  map.canvas.addEventListener("keydown", (event) => {
    if (!picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = chosen();
    const held = { ArrowUp: ["layer", -1], ArrowDown: ["layer", 1], ArrowLeft: ["head", -1], ArrowRight: ["head", 1] };
    const rows = {
      ArrowUp: row - 1, ArrowDown: row + 1, Home: 0, End: count - 1, PageUp: nextPart(row, -1), PageDown: nextPart(row, 1),
    };
    const columns = { ArrowLeft: column - 1, ArrowRight: column + 1 };
    const zooms = { "+": 1.6, "-": 1 / 1.6, 0: 0 };
    const within = (at) => Math.max(0, Math.min(count - 1, at));
    pointed = null;
    if (event.shiftKey && event.key in held) step(...held[event.key]);
    else if (event.key in zooms) map.zoomBy(zooms[event.key], row, column);
    else if (event.key in columns) choose([row, within(columns[event.key])]);
    else if (event.key in rows) choose([within(rows[event.key]), column]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  keepArrows(root);

  const resized = new ResizeObserver(redraw);
  resized.observe(root);
  const unthemed = onOtherTheme(root, () => recolour(false));
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
