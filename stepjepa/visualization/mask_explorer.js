// The canvas of the mask explorer. Python sends a whole picture at once (`picture`) and shares one number, the
// selected row (`selected`); slider, keys, pointing and the column of the arrow keys are here, so they need no kernel.

const MOST = 800; // largest side of the mask, in CSS pixels
const AROUND = 390; // height of what stands above and below it, JupyterLab's bars and its own labels among it
const SPLIT = 760; // the least width for words beside the mask, in CSS pixels
const LEFT = 110, TOP = 110, RIGHT = 92, BAND = 15;
const LEGIBLE = 6.5; // the smallest cell that still gets a label of its own
const GRID = 5; // the smallest cell with lines around it
const FONT = '"DejaVu Sans Mono", ui-monospace, monospace';

function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function render({ model, el }) {
  const root = node("div", el, "stepjepa-mask");
  root.dataset.lmSuppressShortcuts = "true"; // arrow keys are the canvas's, not the notebook's
  const summary = node("p", root, "summary");
  const sides = node("div", root, "sides");
  const canvas = node("canvas", sides);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const beside = node("div", sides, "beside");
  const showToken = slider(beside, "Token", (value) => select(value - 1));
  const words = node("div", beside, "words");
  words.setAttribute("aria-live", "polite");
  const sentence = node("p", words);
  const cellLine = node("p", words, "cell");
  const legend = node("ul", beside, "legend");
  keys(beside, [["↑ ↓", "token"], ["← →", "key"], ["PgUp PgDn", "step"], ["click", "choose a row"]]);

  const context = canvas.getContext("2d");
  const still = document.createElement("canvas"); // everything but the marks of the selected row
  let picture, cells, count, scale, cell, left, top, reads;
  let column = null; // of the arrow keys
  let pointed = null; // [row, column] under the pointer

  function receive() {
    picture = model.get("picture");
    cells = bytes(picture.cells);
    count = picture.tokens.length;
    pointed = null;
    column = Math.min(column ?? model.get("selected"), count - 1);
    summary.textContent = picture.summary;
    legend.replaceChildren();
    for (const [colour, label] of [...picture.legend, ["rgba(127,127,127,.15)", "must not be seen"]]) {
      const item = node("li", legend);
      node("i", item).style.background = colour;
      item.append(label);
    }
    layout();
  }

  function layout() {
    const width = sides.clientWidth;
    if (!picture || !width) return;
    scale = window.devicePixelRatio || 1;
    const side = Math.min(fitting(MOST, AROUND), width - LEFT - RIGHT - (width >= SPLIT ? 300 : 0)) * scale;
    cell = Math.min(side / count, 20 * scale);
    if (cell >= GRID * scale) cell = Math.floor(cell); // even lines; smaller cells have none
    [left, top] = [LEFT * scale, TOP * scale];
    still.width = canvas.width = left + count * cell + RIGHT * scale;
    reads = [];
    for (const { row, view } of picture.reads) {
      const at = top + (row + 0.5) * cell;
      reads.push({ at, view, name: Math.max(at, (reads.at(-1)?.name ?? 0) + 11 * scale) }); // names keep apart
    }
    still.height = canvas.height = Math.max(top + count * cell, reads.at(-1)?.name ?? 0) + 8 * scale;
    canvas.style.width = `${canvas.width / scale}px`;
    canvas.style.height = `${canvas.height / scale}px`;
    paint();
    mark();
  }

  // -------- the still part: cells, bands, labels --------

  function paint() {
    const pen = still.getContext("2d");
    const pixels = new ImageData(count, count);
    const palette = [[127, 127, 127], ...picture.legend.map(([colour]) => rgb(colour))];
    for (let i = 0; i < cells.length; i++) {
      pixels.data.set(palette[cells[i]], 4 * i);
      pixels.data[4 * i + 3] = cells[i] === 0 ? 30 : 255;
    }
    const small = new OffscreenCanvas(count, count);
    small.getContext("2d").putImageData(pixels, 0, 0);
    pen.clearRect(0, 0, still.width, still.height);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, left, top, count * cell, count * cell);
    const background = pageOf(root);
    if (cell >= GRID * scale) {
      pen.fillStyle = background;
      for (let i = 1; i < count; i++) {
        pen.fillRect(left + i * cell, top, 1, count * cell);
        pen.fillRect(left, top + i * cell, count * cell, 1);
      }
    }
    for (const { name, colour, start, end } of picture.parts) {
      const [at, size] = [start * cell, (end - start) * cell];
      pen.fillStyle = background;
      pen.fillRect(left + at - 1, top, 2, count * cell);
      pen.fillRect(left, top + at - 1, count * cell, 2);
      band(pen, name, colour, size, left + at, top - BAND * scale, false);
      band(pen, name, colour, size, left - BAND * scale, top + at, true);
    }
    pen.font = `${11 * scale}px sans-serif`;
    pen.textBaseline = "middle";
    pen.fillStyle = inkOf(root);
    const right = left + count * cell + 5 * scale;
    for (const { at, view, name } of reads) {
      pen.fillText("◂", right, at);
      pen.fillText(`${view} view`, right + 10 * scale, name);
    }
    if (cell >= LEGIBLE * scale) {
      for (let t = 0; t < count; t++) for (const upright of [false, true]) label(pen, t, upright, 0.5);
    }
  }

  function band(pen, name, colour, size, x, y, turned) {
    pen.save();
    pen.fillStyle = colour;
    const thick = (BAND - 2) * scale;
    pen.fillRect(x, y, turned ? thick : size - 1, turned ? size - 1 : thick);
    pen.font = `bold ${10 * scale}px sans-serif`;
    pen.fillStyle = inkOn(colour);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.translate(turned ? x + thick / 2 : x + size / 2, turned ? y + size / 2 : y + thick / 2);
    if (turned) pen.rotate(-Math.PI / 2);
    if (pen.measureText(name).width < size - 4 * scale) pen.fillText(name, 0, 0.5 * scale);
    pen.restore();
  }

  function label(pen, t, upright, alpha, focus = false) {
    const size = focus ? 12 * scale : Math.min(11 * scale, cell * 1.05);
    pen.save();
    pen.font = `${focus ? "bold " : ""}${size}px ${FONT}`;
    pen.fillStyle = inkOf(root);
    pen.globalAlpha = alpha;
    pen.textBaseline = "middle";
    const gap = (BAND + 4) * scale, middle = (t + 0.5) * cell;
    pen.textAlign = upright ? "left" : "right";
    pen.translate(upright ? left + middle : left - gap, upright ? top - gap : top + middle);
    if (upright) pen.rotate(-Math.PI / 2);
    pen.fillText(short(picture.tokens[t].text), 0, 0);
    pen.restore();
  }

  function short(text) {
    return text.length > 12 ? `${text.slice(0, 11)}…` : text;
  }

  // -------- the moving part: the row looked at and its words --------

  function mark() {
    if (!picture) return;
    showToken(Math.min(model.get("selected"), count - 1) + 1, count);
    if (!cell) return; // not on the page yet
    const [row, key] = pointed ?? [Math.min(model.get("selected"), count - 1), column];
    const ink = inkOf(root);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(still, 0, 0);
    context.strokeStyle = ink;
    context.lineWidth = 1.5 * scale;
    context.strokeRect(left - 1, top + row * cell - 1, count * cell + 2, cell + 2);
    context.globalAlpha = 0.35;
    context.strokeRect(left + key * cell - 1, top - 1, cell + 2, count * cell + 2);
    context.globalAlpha = 1;
    context.lineWidth = 2.5 * scale;
    context.strokeRect(left + key * cell - 1, top + row * cell - 1, cell + 2, cell + 2);
    if (cell >= LEGIBLE * scale) {
      for (let k = 0; k < count; k++) if (cells[row * count + k]) label(context, k, true, 1); // what the row sees
    }
    focusLabel(row, false);
    focusLabel(key, true);
    say(row, key);
  }

  function focusLabel(t, upright) {
    const background = pageOf(root);
    const [near, far, thick] = [(BAND + 1) * scale, LEFT * scale, 15 * scale];
    const middle = (t + 0.5) * cell - thick / 2;
    context.fillStyle = background;
    if (upright) context.fillRect(left + middle, top - far, thick, far - near);
    else context.fillRect(left - far, top + middle, far - near, thick);
    label(context, t, upright, 1, true);
  }

  function say(row, key) {
    const [query, seen] = [picture.tokens[row], cells[row * count + key] > 0];
    sentence.replaceChildren();
    node("code", sentence, "", query.text);
    sentence.append(` ${picture.sentences[row]}`);
    cellLine.replaceChildren(`${query.name} ${seen ? "may" : "must not"} attend to ${picture.tokens[key].name} `);
    node("code", cellLine, "", picture.tokens[key].text);
    cellLine.append(".");
    canvas.setAttribute("aria-label", `${picture.summary} Row ${row + 1} of ${count}: ${query.name}.`);
  }

  // -------- pointer and keys --------

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const at = (position, start) => Math.floor((position * scale - start) / cell);
    const [row, key] = [at(event.clientY - box.top, top), at(event.clientX - box.left, left)];
    const inside = (i) => i >= 0 && i < count;
    return inside(row) ? [row, inside(key) ? key : row] : null; // on a label: the row and itself
  }

  function select(row) {
    pointed = null;
    const wanted = Math.max(0, Math.min(count - 1, row));
    if (wanted === model.get("selected")) return mark();
    model.set("selected", wanted); // `mark` is called
    model.save_changes();
  }

  function nextPart(row, way) {
    const starts = picture.parts.map(({ start }) => start);
    return way > 0 ? starts.find((start) => start > row) ?? count - 1 : starts.findLast((start) => start < row) ?? 0;
  }

  canvas.addEventListener("pointermove", (event) => {
    pointed = under(event);
    mark();
  });
  canvas.addEventListener("pointerleave", () => {
    pointed = null;
    mark();
  });
  canvas.addEventListener("click", (event) => {
    const found = under(event);
    if (!found) return;
    column = found[1];
    select(found[0]);
  });
  keepArrows(root);
  canvas.addEventListener("keydown", (event) => {
    const row = model.get("selected");
    const rows = {
      ArrowUp: row - 1, ArrowDown: row + 1, Home: 0, End: count - 1, PageUp: nextPart(row, -1), PageDown: nextPart(row, 1),
    };
    const columns = { ArrowLeft: column - 1, ArrowRight: column + 1 };
    if (!(event.key in rows) && !(event.key in columns)) return;
    event.preventDefault();
    event.stopPropagation();
    pointed = null;
    if (event.key in columns) column = Math.max(0, Math.min(count - 1, columns[event.key]));
    select(rows[event.key] ?? row);
  });

  const resized = new ResizeObserver(layout);
  resized.observe(sides);
  window.addEventListener("resize", layout);
  const unthemed = onOtherTheme(root, layout);
  model.on("change:picture", receive);
  model.on("change:selected", mark);
  receive();
  return () => {
    resized.disconnect();
    window.removeEventListener("resize", layout);
    unthemed();
    model.off("change:picture", receive);
    model.off("change:selected", mark);
  };
}

export default { render };
