// The canvas of the embedding explorer. Python sends words (`points`) and places with colours (`picture`), and shares
// two states, the chosen row (`selected`) and the rows that were `found`; menu, slider, keys, pointer, search, lasso
// and zoom are all here, so they need no kernel.

const MOST = 620; // largest side of the map, in CSS pixels
const AROUND = 350; // height of what stands above and below the map, JupyterLab's bars among it
const SPLIT = 680; // the least width for words beside the map, in CSS pixels
const REACHED = 14; // how far from a point the pointer still means it
const DRAGGED = 6; // how far the pointer goes before it draws a lasso
const LISTED = 200; // of what was found
const MOVING = 700; // milliseconds from one set to the next
const RING = "#9C24F2"; // of the nearest steps and the lasso; no point has this colour

function raw({ buffer, byteOffset, byteLength }) {
  return buffer.slice(byteOffset, byteOffset + byteLength); // a copy begins where a Float32Array may begin
}

function render({ model, el }) {
  const root = node("div", el, "stepjepa-map");
  root.dataset.lmSuppressShortcuts = "true"; // keys are the canvas's, not the notebook's
  const summary = node("p", root, "summary");
  const controls = node("div", root, "controls");
  const problems = node("select", node("label", controls, "field problem", "Problem"));
  const showPoint = slider(controls, "Point", (value) => select(own(model.get("selected"))[value - 1]));
  const searched = node("input", node("label", controls, "field search", "Search"));
  Object.assign(searched, { type: "search", placeholder: "in the steps' texts" });
  const sides = node("div", root, "sides");
  const drawing = node("div", sides, "drawing");
  const caption = node("p", drawing, "summary");
  const frame = node("div", drawing, "frame");
  const canvas = node("canvas", frame);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const zoomers = node("div", frame, "zoom");
  const [forms, legend] = [node("ul", drawing, "legend"), node("ul", drawing, "legend")];
  const beside = node("div", sides, "beside");
  const words = node("div", beside, "words");
  words.setAttribute("aria-live", "polite");
  const lines = Object.fromEntries(
    ["name", "text", "facts", "read", "question", "partner", "among"].map((name) => [name, node("p", words, name)]),
  );
  const list = node("ol", words, "nearest");
  const finds = node("div", beside, "found");
  const count = node("p", finds, "name");
  count.setAttribute("role", "status");
  const findings = node("ol", finds);
  keys(root, [
    ["← →", "point"], ["↑ ↓", "problem"], ["space", "partner"], ["a b …", "nearest"], ["+ − 0", "zoom"],
    ["click", "choose"], ["drag", "lasso"], ["/", "search"], ["enter", "next found"], ["esc", "forget them"],
  ]);

  const context = canvas.getContext("2d");
  const still = document.createElement("canvas"); // everything but the chosen problem
  let points, picture, xy, codes, shown, scale, side, x, y, radius;
  let zoom = 1, middle = [0, 0]; // what of the map is seen
  let pointed = null; // the row under the pointer
  let lasso = null; // its line, while it is drawn
  let moving = 0; // the frame asked for, while points move

  function receive() {
    if (picture === model.get("picture") && points === model.get("points")) return; // both came at once
    const [before, from] = [picture, xy];
    if (points !== model.get("points")) {
      points = model.get("points");
      problems.replaceChildren(
        ...points.questions.map((question, i) => new Option(`${points.numbers[i]}: ${question}`, i)),
      );
    }
    picture = model.get("picture");
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
    cancelAnimationFrame(moving);
    const comparable = picture.moves && before?.caption === picture.caption;
    if (comparable && xy.some((value, i) => value !== from[i] && !Number.isNaN(value))) move(from, xy);
    layout();
    follow();
    enumerate();
  }

  // The points go from where the last set has them to where this one does.
  function move(from, to) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const start = performance.now();
    const step = (now) => {
      const part = Math.max(0, Math.min(1, (now - start) / MOVING));
      const eased = part * part * (3 - 2 * part);
      xy = part < 1 ? to.map((value, i) => from[i] + eased * (value - from[i])) : to;
      place();
      moving = part < 1 ? requestAnimationFrame(step) : 0;
    };
    xy = from;
    moving = requestAnimationFrame(step);
  }

  function layout() {
    const width = sides.clientWidth;
    if (!picture || !width) return;
    const wide = width >= SPLIT; // words beside the map, not below it
    scale = window.devicePixelRatio || 1;
    side = Math.floor(Math.min(fitting(MOST, AROUND), wide ? width - 330 : width) * scale);
    drawing.style.width = `${side / scale}px`;
    still.width = canvas.width = still.height = canvas.height = side;
    canvas.style.width = canvas.style.height = `${side / scale}px`;
    beside.style.height = wide ? `${drawing.clientHeight}px` : "24em";
    place();
  }

  function place() {
    const unit = (zoom * side) / (2 * picture.reach);
    [x, y] = [new Float32Array(codes.length), new Float32Array(codes.length)];
    for (const row of shown) {
      x[row] = side / 2 + (xy[2 * row] - middle[0]) * unit;
      y[row] = side / 2 - (xy[2 * row + 1] - middle[1]) * unit;
    }
    radius = (shown.length > 2000 ? 2.5 : shown.length > 700 ? 3 : 4) * scale * Math.min(zoom ** 0.3, 2);
    paint(unit);
    mark();
  }

  // -------- the still part: frame and all points --------

  function paint(unit) {
    const pen = still.getContext("2d");
    const ink = inkOf(root);
    pen.globalAlpha = 1;
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
    const stamps = new Map(); // one for each marker and colour
    const draw = (rows, size) => {
      for (const row of rows) {
        const key = `${points.view[row]} ${codes[row]} ${size}`;
        if (!stamps.has(key)) stamps.set(key, stamp(points.view[row], picture.legend[codes[row]][0], ink, size, scale));
        const { image, half } = stamps.get(key);
        pen.drawImage(image, Math.round(x[row] - half), Math.round(y[row] - half));
      }
    };
    const found = model.get("found").filter(seen);
    pen.globalAlpha = found.length ? 0.2 : 0.65; // what was found stands out
    draw(shown, radius);
    pen.globalAlpha = 1;
    draw(found, 1.35 * radius);
  }

  // -------- the moving part: the chosen problem, the nearest steps, the words --------

  function own(row) {
    return shown.filter((other) => points.example[other] === points.example[row]);
  }

  function mark() {
    if (!picture || !side) return;
    const active = pointed ?? model.get("selected");
    const ink = inkOf(root);
    const rows = own(active);
    const pen = context;
    pen.clearRect(0, 0, side, side);
    pen.drawImage(still, 0, 0);
    pen.strokeStyle = pen.fillStyle = ink;
    for (const { view, dashes } of picture.views) {
      const along = rows.filter((row) => points.view[row] === view);
      pen.setLineDash(dashes ? dashes.split(" ").map((part) => part * scale) : []);
      pen.lineWidth = 1.4 * scale;
      pen.beginPath();
      for (const row of along) pen.lineTo(x[row], y[row]);
      pen.stroke();
      along.slice(1).forEach((row, i) => arrow(pen, x[along[i]], y[along[i]], x[row], y[row], 4.5 * scale));
    }
    pen.setLineDash([]);
    const partner = points.partner[active];
    if (partner >= 0 && seen(partner)) {
      pen.lineWidth = 4 * scale;
      pen.globalAlpha = 0.5;
      pen.beginPath();
      pen.moveTo(x[active], y[active]);
      pen.lineTo(x[partner], y[partner]);
      pen.stroke();
      pen.globalAlpha = 1;
    }
    const nearest = points.words[active].nearest;
    nearest.forEach(({ row }, i) => ring(pen, row, i, active));
    for (const row of rows.filter((row) => row !== active)) {
      badge(pen, row, 8 * scale, ink, (row === partner ? 2.2 : 1.2) * scale);
    }
    badge(pen, active, 10.5 * scale, ink, 3 * scale);
    const taken = rows.map((row) => [x[row], y[row], 9 * scale]);
    nearest.forEach(({ row }, i) => letter(pen, row, i, taken));
    if (lasso) {
      pen.strokeStyle = pen.fillStyle = RING;
      pen.lineWidth = 1.5 * scale;
      pen.beginPath();
      for (const at of lasso) pen.lineTo(...at);
      pen.closePath();
      pen.stroke();
      pen.globalAlpha = 0.12;
      pen.fill();
      pen.globalAlpha = 1;
    }
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
        const within = Math.min(a, b) > size && Math.max(a, b) < side - size;
        if (within && taken.every(([c, d, other]) => Math.hypot(a - c, b - d) > size + other)) return [a, b];
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

  // -------- choosing --------

  function select(row) {
    if (row === undefined || row < 0 || !seen(row)) return;
    pointed = null;
    if (row === model.get("selected")) return mark();
    model.set("selected", row); // `follow` is called
    model.save_changes();
  }

  function follow() { // menu, slider and drawing; the chosen point is kept in sight
    const row = model.get("selected");
    if (!seen(row)) return; // a picture in which it is shown is on its way
    const rows = own(row);
    problems.value = points.example[row];
    showPoint(rows.indexOf(row) + 1, rows.length);
    if (!side) return; // not on the page yet
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

  function inProblem(wanted, row) { // the view of the problem that is most like this one
    const rows = shown.filter((other) => points.example[other] === wanted);
    const alike = rows.filter((other) => points.view[other] === points.view[row]);
    return alike.find((other) => points.marks[other] === points.marks[row]) ?? alike[0] ?? rows[0];
  }

  function otherProblem(row, way) {
    const known = [...new Set(shown.map((other) => points.example[other]))].sort((a, b) => a - b);
    return inProblem(known[known.indexOf(points.example[row]) + way], row);
  }

  // -------- finding --------

  function find(rows) {
    model.set("found", rows);
    model.save_changes();
  }

  function search() {
    const wanted = searched.value.trim().toLowerCase();
    find(wanted ? shown.filter((row) => points.words[row].text.toLowerCase().includes(wanted)) : []);
  }

  function nextFound(way) {
    const rows = model.get("found").filter(seen);
    const at = rows.indexOf(model.get("selected"));
    select(rows.at(at < 0 && way < 0 ? -1 : (at + way) % rows.length));
  }

  function forget() {
    searched.value = "";
    find([]);
  }

  function enumerate() { // what was found, as a list
    const rows = model.get("found").filter((row) => row < codes.length && seen(row));
    finds.hidden = !rows.length && !searched.value.trim();
    const several = new Set(rows.map((row) => points.example[row])).size;
    const listed = rows.length > LISTED ? `; the first ${LISTED}:` : rows.length ? ":" : "";
    count.textContent = `${rows.length} points of ${several} problems found${listed}`;
    findings.replaceChildren();
    for (const row of rows.slice(0, LISTED)) {
      const item = node("li", findings);
      const mark = node("b", item, "", points.marks[row]);
      mark.style.background = picture.legend[codes[row]][0];
      mark.style.color = inkOn(picture.legend[codes[row]][0]);
      node("span", item, "", `problem ${points.numbers[points.example[row]]}, ${points.view[row]}: ${points.words[row].text}`);
      item.addEventListener("click", () => select(row));
    }
  }

  function showFound() {
    enumerate();
    if (side) place();
  }

  // -------- pointer and keys --------

  function at(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  function under(event) {
    const [left, top] = at(event);
    let [best, least] = [null, REACHED * scale];
    for (const row of shown) {
      const far = Math.hypot(x[row] - left, y[row] - top);
      if (far < least) [best, least] = [row, far];
    }
    return best;
  }

  for (const [sign, name, factor] of [["+", "zoom in", 1.6], ["−", "zoom out", 1 / 1.6], ["⟲", "whole map", 0]]) {
    const button = node("button", zoomers, "", sign);
    button.title = `${name}, about the chosen point`;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => zoomBy(factor));
  }
  let pressed = null; // where the button went down
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pressed = at(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [left, top] = at(event);
    if (pressed && !lasso && Math.hypot(left - pressed[0], top - pressed[1]) > DRAGGED * scale) lasso = [pressed];
    if (lasso) {
      lasso.push([left, top]);
      pointed = null;
      return mark();
    }
    const found = under(event);
    if (found === pointed) return;
    pointed = found;
    mark();
  });
  canvas.addEventListener("pointerleave", () => {
    pointed = null;
    mark();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (lasso) {
      const line = lasso;
      lasso = null;
      searched.value = "";
      find(shown.filter((row) => inside(line, x[row], y[row])));
      mark();
    } else if (pressed) select(pointed ?? under(event) ?? undefined); // what is said is what is chosen
    pressed = null;
  });
  canvas.addEventListener("pointercancel", () => {
    [pressed, lasso] = [null, null];
    mark();
  });
  problems.addEventListener("change", () => select(inProblem(Number(problems.value), model.get("selected"))));
  searched.addEventListener("input", search);
  keepArrows(root);
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = model.get("selected");
    const rows = own(row);
    const place = rows.indexOf(row);
    const inFound = { Enter: () => nextFound(event.shiftKey ? -1 : 1), Escape: forget };
    const onCanvas = {
      ArrowLeft: () => select(rows[place - 1]), ArrowRight: () => select(rows[place + 1]),
      ArrowUp: () => select(otherProblem(row, -1)), ArrowDown: () => select(otherProblem(row, 1)),
      Home: () => select(rows[0]), End: () => select(rows.at(-1)), " ": () => select(points.partner[row]),
      "+": () => zoomBy(1.6), "-": () => zoomBy(1 / 1.6), 0: () => zoomBy(0), "/": () => searched.focus(),
    };
    const nearest = points.words[row].nearest[LETTERS.indexOf(event.key)];
    const act = (event.target === canvas || event.target === searched ? inFound[event.key] : undefined)
      ?? (event.target === canvas ? onCanvas[event.key] ?? (nearest && (() => select(nearest.row))) : undefined);
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });

  const resized = new ResizeObserver(layout);
  resized.observe(sides);
  window.addEventListener("resize", layout);
  const unthemed = onOtherTheme(root, layout);
  const told = { "change:points": receive, "change:picture": receive, "change:selected": follow, "change:found": showFound };
  for (const [change, act] of Object.entries(told)) model.on(change, act); // points or picture may come alone
  receive();
  return () => {
    resized.disconnect();
    window.removeEventListener("resize", layout);
    unthemed();
    cancelAnimationFrame(moving);
    for (const [change, act] of Object.entries(told)) model.off(change, act);
  };
}

export default { render };
