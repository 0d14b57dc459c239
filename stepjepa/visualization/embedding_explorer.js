// The canvas of the embedding explorer. Python sends words (`points`) and places with colours (`picture`), and shares
// one number, the chosen row (`selected`); pointing and zooming stay here, so they need no kernel.

const MOST = 620; // largest side of the map, in CSS pixels
const REACHED = 14; // how far from a point the pointer still means it
const RING = "#C2185B"; // of the nearest steps; no point has this colour
const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const SVG = "http://www.w3.org/2000/svg";

function raw({ buffer, byteOffset, byteLength }) {
  return buffer.slice(byteOffset, byteOffset + byteLength); // a copy begins where a Float32Array may begin
}

function trace(pen, view, x, y, size) {
  if (view === "context") {
    pen.moveTo(x + size, y);
    pen.arc(x, y, size, 0, 2 * Math.PI);
  } else if (view === "target") {
    pen.moveTo(x, y - 1.25 * size);
    pen.lineTo(x + 1.2 * size, y + 0.9 * size);
    pen.lineTo(x - 1.2 * size, y + 0.9 * size);
    pen.closePath();
  } else pen.rect(x - 0.9 * size, y - 0.9 * size, 1.8 * size, 1.8 * size);
}

function render({ model, el }) {
  const root = node("div", el, "stepjepa-map");
  root.dataset.lmSuppressShortcuts = "true"; // keys are the canvas's, not the notebook's
  const summary = node("p", root, "summary");
  const sides = node("div", root, "sides");
  const drawing = node("div", sides, "drawing");
  const caption = node("p", drawing, "summary");
  const frame = node("div", drawing, "frame");
  const canvas = node("canvas", frame);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const zoomers = node("div", frame, "zoom");
  const [forms, legend] = [node("ul", drawing, "legend"), node("ul", drawing, "legend")];
  const hint = node("p", drawing, "summary");
  const keys = [
    ["← →", " point  "], ["↑ ↓", " problem  "], ["space", " partner  "], ["a b …", " nearest  "],
    ["+ − 0", " zoom  "], ["click", " choose"],
  ];
  for (const [key, text] of keys) {
    node("kbd", hint, "", key);
    hint.append(text);
  }
  const words = node("div", sides, "words");
  words.setAttribute("aria-live", "polite");
  const lines = Object.fromEntries(
    ["name", "text", "facts", "read", "question", "partner", "among"].map((name) => [name, node("p", words, name)]),
  );
  const list = node("ol", words, "nearest");

  const context = canvas.getContext("2d");
  const still = document.createElement("canvas"); // everything but the chosen problem
  let points, picture, xy, codes, shown, scale, side, x, y, radius;
  let zoom = 1, middle = [0, 0]; // what of the map is seen
  let pointed = null; // the row under the pointer

  function receive() {
    const before = picture;
    [points, picture] = [model.get("points"), model.get("picture")];
    xy = new Float32Array(raw(picture.xy));
    codes = new Uint8Array(raw(picture.colours));
    shown = points.words.map((_, row) => row).filter((row) => !Number.isNaN(xy[2 * row]));
    pointed = null;
    if (before?.caption !== picture.caption) [zoom, middle] = [1, [0, 0]];
    summary.textContent = picture.summary;
    caption.textContent = picture.caption;
    forms.replaceChildren();
    legend.replaceChildren();
    for (const { view, name, dashes } of picture.views) symbol(node("li", forms), view, name, dashes);
    for (const [colour, label] of picture.legend) {
      const item = node("li", legend);
      node("i", item).style.background = colour;
      item.append(label);
    }
    layout();
  }

  function symbol(item, view, name, dashes) {
    const svg = item.appendChild(document.createElementNS(SVG, "svg"));
    const line = svg.appendChild(document.createElementNS(SVG, "path"));
    line.setAttribute("d", "M0 6h34");
    line.setAttribute("stroke", "currentColor");
    line.setAttribute("stroke-dasharray", dashes);
    const mark = svg.appendChild(document.createElementNS(SVG, "path"));
    const shapes = { context: "M17 1a5 5 0 1 0 .01 0z", target: "M17 0l6 11h-12z", state: "M12 1h10v10h-10z" };
    mark.setAttribute("d", shapes[view]);
    mark.setAttribute("fill", "currentColor");
    item.append(name);
  }

  function layout() {
    if (!picture || !drawing.clientWidth) return;
    scale = window.devicePixelRatio || 1;
    side = Math.min(MOST, drawing.clientWidth) * scale;
    still.width = canvas.width = still.height = canvas.height = side;
    canvas.style.width = canvas.style.height = `${side / scale}px`;
    place();
  }

  function place() {
    const unit = (zoom * side) / (2 * picture.reach);
    [x, y] = [new Float32Array(codes.length), new Float32Array(codes.length)];
    for (const row of shown) {
      x[row] = side / 2 + (xy[2 * row] - middle[0]) * unit;
      y[row] = side / 2 - (xy[2 * row + 1] - middle[1]) * unit;
    }
    radius = (shown.length > 700 ? 3 : 4) * scale * Math.min(zoom ** 0.3, 2);
    paint(unit);
    mark();
  }

  // -------- the still part: frame and all points --------

  function paint(unit) {
    const pen = still.getContext("2d");
    const ink = inkOf(root);
    pen.clearRect(0, 0, side, side);
    pen.strokeStyle = ink;
    pen.lineWidth = scale;
    pen.globalAlpha = 0.25;
    pen.strokeRect(0.5 * scale, 0.5 * scale, side - scale, side - scale);
    if (picture.circle) {
      const [left, top] = [side / 2 - middle[0] * unit, side / 2 + middle[1] * unit];
      pen.beginPath();
      pen.arc(left, top, unit, 0, 2 * Math.PI);
      pen.stroke();
      pen.globalAlpha = 0.12;
      pen.fillStyle = ink;
      pen.fillRect(left, 0, scale, side);
      pen.fillRect(0, top, side, scale);
    }
    const groups = new Map(); // one path for each marker and colour
    for (const row of shown) {
      const key = `${points.view[row]} ${codes[row]}`;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    for (const rows of groups.values()) {
      pen.beginPath();
      for (const row of rows) trace(pen, points.view[row], x[row], y[row], radius);
      pen.fillStyle = picture.legend[codes[rows[0]]][0];
      pen.globalAlpha = 0.8;
      pen.fill();
      pen.lineWidth = 0.7 * scale; // the theme's ink, so that dark points show on a dark page
      pen.globalAlpha = 0.35;
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  // -------- the moving part: the chosen problem, the nearest steps, the words --------

  function own(row) {
    return shown.filter((other) => points.example[other] === points.example[row]);
  }

  function mark() {
    if (!picture || !side) return;
    const active = pointed ?? model.get("selected");
    const ink = inkOf(root);
    const page = pageOf(root);
    const rows = own(active);
    const pen = context;
    pen.clearRect(0, 0, side, side);
    pen.drawImage(still, 0, 0);
    pen.fillStyle = page; // the others step back
    pen.globalAlpha = 0.25;
    pen.fillRect(scale, scale, side - 2 * scale, side - 2 * scale);
    pen.globalAlpha = 1;
    pen.strokeStyle = ink;
    for (const { view, dashes } of picture.views) {
      pen.setLineDash(dashes ? dashes.split(" ").map((part) => part * scale) : []);
      pen.lineWidth = 1.4 * scale;
      pen.beginPath();
      for (const row of rows) if (points.view[row] === view) pen.lineTo(x[row], y[row]);
      pen.stroke();
    }
    pen.setLineDash([]);
    const nearest = points.words[active].nearest;
    nearest.forEach(({ row }, i) => ring(pen, row, i, active));
    for (const row of rows.filter((row) => row !== active)) badge(pen, row, 8 * scale, ink, 1.2 * scale);
    badge(pen, active, 10.5 * scale, ink, 3 * scale);
    const taken = rows.map((row) => [x[row], y[row], 9 * scale]);
    nearest.forEach(({ row }, i) => letter(pen, row, i, taken));
    say(active);
  }

  function badge(pen, row, size, ink, thick) {
    pen.beginPath();
    trace(pen, points.view[row], x[row], y[row], size);
    pen.fillStyle = picture.legend[codes[row]][0];
    pen.strokeStyle = ink;
    pen.lineWidth = 2 * thick;
    pen.stroke();
    pen.fill();
    pen.fillStyle = inkOn(picture.legend[codes[row]][0]);
    pen.font = `bold ${size * 1.15}px sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(points.marks[row], x[row], y[row] + 0.1 * size);
  }

  function seen(row) {
    return !Number.isNaN(xy[2 * row]);
  }

  function ring(pen, row, i, active) {
    if (!seen(row)) return; // its view is not shown
    pen.strokeStyle = RING;
    pen.lineWidth = scale;
    pen.globalAlpha = 0.45;
    pen.beginPath();
    pen.moveTo(x[active], y[active]);
    pen.lineTo(x[row], y[row]);
    pen.stroke();
    pen.globalAlpha = 1;
    pen.fillStyle = picture.legend[codes[row]][0];
    pen.beginPath();
    trace(pen, points.view[row], x[row], y[row], radius);
    pen.fill();
    pen.lineWidth = 2 * scale;
    pen.beginPath();
    pen.arc(x[row], y[row], radius + 3.5 * scale, 0, 2 * Math.PI);
    pen.stroke();
  }

  function letter(pen, row, i, taken) {
    if (!seen(row)) return;
    const size = 7.5 * scale;
    const [left, top] = freePlace(x[row], y[row], size, taken);
    taken.push([left, top, size]);
    pen.fillStyle = RING;
    pen.beginPath();
    pen.arc(left, top, size, 0, 2 * Math.PI);
    pen.fill();
    pen.fillStyle = "#fff";
    pen.font = `bold ${11 * scale}px sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(LETTERS[i], left, top);
  }

  function freePlace(left, top, size, taken) {
    for (let far = radius + 10 * scale; far < side / 4; far += 4 * scale) {
      for (let turn = 0; turn < 12; turn++) {
        const angle = -Math.PI / 4 + (turn * Math.PI) / 6;
        const [a, b] = [left + far * Math.cos(angle), top + far * Math.sin(angle)];
        const inside = Math.min(a, b) > size && Math.max(a, b) < side - size;
        if (inside && taken.every(([c, d, other]) => Math.hypot(a - c, b - d) > size + other)) return [a, b];
      }
    }
    return [left, top];
  }

  function say(row) {
    const wording = points.words[row];
    for (const [name, line] of Object.entries(lines)) {
      line.textContent = wording[name] ?? "";
      line.hidden = wording[name] === "";
    }
    lines.question.textContent = `Question: ${points.questions[points.example[row]]}`;
    list.replaceChildren();
    wording.nearest.forEach((near, i) => {
      const item = node("li", list);
      node("b", item, "", LETTERS[i]);
      node("span", item, "cosine", near.cosine);
      node("span", item, near.same ? "same" : "", near.words);
      item.addEventListener("click", () => select(near.row));
    });
    canvas.setAttribute("aria-label", `${picture.summary} ${wording.name}.`);
  }

  // -------- pointer and keys --------

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [left, top] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let [best, least] = [null, REACHED * scale];
    for (const row of shown) {
      const far = Math.hypot(x[row] - left, y[row] - top);
      if (far < least) [best, least] = [row, far];
    }
    return best;
  }

  function select(row) {
    if (row === undefined || row < 0 || !seen(row)) return;
    pointed = null;
    model.set("selected", row);
    model.save_changes();
    follow();
  }

  function follow() { // keep the chosen point in sight
    const row = model.get("selected");
    const outside = Math.min(x[row], y[row], side - x[row], side - y[row]) < 12 * scale;
    if (zoom === 1 || !outside) return mark();
    middle = [xy[2 * row], xy[2 * row + 1]];
    place();
  }

  function zoomBy(factor) {
    zoom = factor ? Math.max(1, Math.min(64, zoom * factor)) : 1;
    const row = model.get("selected");
    middle = zoom === 1 ? [0, 0] : [xy[2 * row], xy[2 * row + 1]];
    place();
  }

  function otherProblem(row, way) {
    const problems = [...new Set(shown.map((other) => points.example[other]))].sort((a, b) => a - b);
    const wanted = problems[problems.indexOf(points.example[row]) + way];
    const rows = shown.filter((other) => points.example[other] === wanted);
    const alike = rows.filter((other) => points.view[other] === points.view[row]);
    return alike.find((other) => points.marks[other] === points.marks[row]) ?? alike[0] ?? rows[0];
  }

  for (const [sign, name, factor] of [["+", "zoom in", 1.6], ["−", "zoom out", 1 / 1.6], ["⟲", "whole map", 0]]) {
    const button = node("button", zoomers, "", sign);
    button.title = `${name}, about the chosen point`;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => zoomBy(factor));
  }
  canvas.addEventListener("pointermove", (event) => {
    const found = under(event);
    if (found === pointed) return;
    pointed = found;
    mark();
  });
  canvas.addEventListener("pointerleave", () => {
    pointed = null;
    mark();
  });
  canvas.addEventListener("click", (event) => select(pointed ?? under(event) ?? undefined)); // what is said is what is chosen
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = model.get("selected");
    const rows = own(row);
    const at = rows.indexOf(row);
    const nearest = points.words[row].nearest[LETTERS.indexOf(event.key)];
    const act = {
      ArrowLeft: () => select(rows[at - 1]), ArrowRight: () => select(rows[at + 1]),
      ArrowUp: () => select(otherProblem(row, -1)), ArrowDown: () => select(otherProblem(row, 1)),
      Home: () => select(rows[0]), End: () => select(rows.at(-1)), " ": () => select(points.partner[row]),
      "+": () => zoomBy(1.6), "-": () => zoomBy(1 / 1.6), 0: () => zoomBy(0),
    }[event.key] ?? (nearest && (() => select(nearest.row)));
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });

  const resized = new ResizeObserver(layout);
  resized.observe(drawing);
  const unthemed = onOtherTheme(root, layout);
  for (const change of ["change:points", "change:picture"]) model.on(change, receive); // either may come alone
  model.on("change:selected", follow);
  receive();
  return () => {
    resized.disconnect();
    unthemed();
    for (const change of ["change:points", "change:picture"]) model.off(change, receive);
    model.off("change:selected", follow);
  };
}

export default { render };
