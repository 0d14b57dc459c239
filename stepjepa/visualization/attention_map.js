// The map of the attention explorer: a picture's bytes → colours, one head large, with a zoom, and others small.

const MOST = 478; // side of the map with its margins, in CSS pixels
const BAND = 15, LABELS = 92;
const LEGIBLE = 11; // the smallest cell whose token is named at the edges
const GRID = 7; // the smallest cell with lines around it
const FONT = '"DejaVu Sans Mono", ui-monospace, monospace';

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

// The number and the colours that each of 256 bytes stands for, and the colours from weak to strong.
function decoder(signed, ramps, page) {
  const pen = new OffscreenCanvas(1, 1).getContext("2d");
  pen.fillStyle = page;
  const levels = rgb(pen.fillStyle);
  const stops = Object.entries(ramps[inkOn(pen.fillStyle) === "#222" ? "light" : "dark"]).map(([name, ramp]) => [
    name, [levels, ...ramp.slice(1).map(rgb)],
  ]);
  const { more, less } = Object.fromEntries(stops);
  const at = (ramp, strength) => {
    const place = strength * (ramp.length - 1), low = Math.min(Math.floor(place), ramp.length - 2);
    return ramp[low].map((from, i) => Math.round(from + (ramp[low + 1][i] - from) * (place - low)));
  };
  const values = new Float32Array(256), pixels = new Uint32Array(256), css = [];
  for (let code = 0; code < 256; code++) {
    const root = signed ? (code > 127 ? code - 256 : code) / 127 : code / 255;
    values[code] = root * Math.abs(root);
    const strength = Math.max(0, Math.min(1, 1 + Math.log10(Math.abs(values[code]) || 1e-9) / 3));
    const [r, g, b] = at(root < 0 ? less : more, strength);
    pixels[code] = (255 << 24) | (b << 16) | (g << 8) | r;
    css.push([`rgb(${r} ${g} ${b})`, 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#1a1a1a" : "#fff"]);
  }
  const ramp = (stops) => [0, 1, 2, 3, 4, 5, 6].map((i) => `rgb(${at(stops, i / 6).join(" ")})`);
  return { signed, values, pixels, css, more: ramp(more), less: ramp(less).reverse() };
}

function attentionMap(root, room) {
  const canvas = node("canvas", room);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const context = canvas.getContext("2d");
  const still = document.createElement("canvas"); // everything but the marks of the chosen row
  let picture, colours, count, map, scale, side, left, cell;
  let zoom = 1, corner = [0, 0]; // what of the map is seen: from this row and column on

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

  // `fresh`: another text, which is seen whole.
  function take(given, decoded, head, fresh) {
    [picture, colours, count] = [given, decoded, given.tokens.length];
    if (fresh) [zoom, corner] = [1, [0, 0]];
    map = imageOf(head);
  }

  // -------- the still part: cells, bands, labels --------

  function redraw(row, column) {
    if (!map || !room.parentNode.clientWidth) return;
    scale = window.devicePixelRatio || 1;
    const whole = Math.min(MOST, room.parentNode.clientWidth);
    const labelled = ((whole - LABELS) * zoom) / count >= LEGIBLE;
    left = (labelled ? LABELS : BAND) * scale;
    side = whole * scale - left;
    cell = (side * zoom) / count;
    still.width = canvas.width = still.height = canvas.height = whole * scale;
    canvas.style.width = canvas.style.height = `${whole}px`;
    follow(row, column);
    paint(labelled);
    mark(row, column);
  }

  // Moves what is seen as little as it takes to see a cell.
  function follow(...place) {
    const seen = count / zoom;
    corner = place.map((at, i) => Math.max(0, Math.min(count - seen, Math.max(at + 1 - seen, Math.min(at, corner[i])))));
  }

  function paint(labelled) {
    const pen = still.getContext("2d");
    const at = (t, axis) => left + (t - corner[axis]) * cell; // axis 0: rows, 1: columns
    pen.clearRect(0, 0, still.width, still.height);
    hatched(pen, left, left, side);
    pen.save();
    pen.beginPath();
    pen.rect(left, left, side, side);
    pen.clip();
    pen.imageSmoothingEnabled = cell < 1;
    pen.drawImage(map, corner[1], corner[0], count / zoom, count / zoom, left, left, side, side);
    pen.fillStyle = pageOf(root);
    const line = (t, thick) => {
      pen.fillRect(at(t, 1) - thick / 2, left, thick, side);
      pen.fillRect(left, at(t, 0) - thick / 2, side, thick);
    };
    if (cell >= GRID * scale) for (let t = 1; t < count; t++) line(t, 1);
    const branches = picture.parts.find(({ branch }) => branch)?.start;
    for (const { start } of picture.parts) line(start, (start === branches ? 4 : 1.5) * scale);
    pen.restore();
    for (const axis of [0, 1]) {
      for (const part of picture.parts) {
        const [from, to] = [part.start, part.end].map((t) => Math.max(left, Math.min(left + side, at(t, axis))));
        if (to - from >= 1) band(pen, part, from, to - from, axis === 0);
      }
      for (let t = 0; labelled && t < count; t++) label(pen, t, at(t + 0.5, axis), axis === 1);
    }
  }

  function band(pen, { name, colour }, from, size, turned) {
    const thick = (BAND - 2) * scale, edge = left - BAND * scale;
    pen.save();
    pen.fillStyle = colour;
    pen.fillRect(...(turned ? [edge, from, thick, size - 1] : [from, edge, size - 1, thick]));
    pen.font = `bold ${10 * scale}px sans-serif`;
    pen.fillStyle = inkOn(colour);
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.translate(...(turned ? [edge + thick / 2, from + size / 2] : [from + size / 2, edge + thick / 2]));
    if (turned) pen.rotate(-Math.PI / 2);
    if (pen.measureText(name).width < size - 4 * scale) pen.fillText(name, 0, 0.5 * scale);
    pen.restore();
  }

  function label(pen, t, at, upright) {
    if (at < left || at > left + side) return;
    const edge = left - (BAND + 4) * scale;
    pen.save();
    pen.font = `${11 * scale}px ${FONT}`;
    pen.fillStyle = inkOf(root);
    pen.globalAlpha = 0.75;
    pen.textBaseline = "middle";
    pen.textAlign = upright ? "left" : "right";
    pen.translate(...(upright ? [at, edge] : [edge, at]));
    if (upright) pen.rotate(-Math.PI / 2);
    const said = picture.tokens[t].text.trim().replace(/\n/g, "↵") || "↵";
    pen.fillText(said.length > 10 ? `${said.slice(0, 9)}…` : said, 0, 0);
    pen.restore();
  }

  // -------- the moving part --------

  function mark(row, column) {
    if (!side) return;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(still, 0, 0);
    const [y, x] = [row, column].map((at, axis) => left + (at - corner[axis]) * cell - scale);
    const box = (thick, alpha, ...place) => {
      for (const [ink, more] of [[pageOf(root), 2 * scale], [inkOf(root), 0]]) {
        Object.assign(context, { strokeStyle: ink, lineWidth: thick * scale + more, globalAlpha: alpha });
        context.strokeRect(...place);
      }
    };
    const seen = (from) => from >= left - cell && from <= left + side;
    if (seen(y)) box(1.2, 1, left - scale, y, side + scale, cell + 2 * scale);
    if (seen(x)) box(1, 0.45, x, left - scale, cell + 2 * scale, side + scale);
    context.globalAlpha = 1;
  }

  function zoomBy(factor, ...place) {
    zoom = factor ? Math.max(1, Math.min(count / 8, zoom * factor)) : 1;
    corner = place.map((at) => at + 0.5 - count / zoom / 2);
    redraw(...place);
  }

  // The cell under the pointer; on an edge: the row and itself.
  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [row, column] = [event.clientY - box.top, event.clientX - box.left].map((at, axis) =>
      Math.floor(corner[axis] + (at * scale - left) / cell),
    );
    const inside = (i) => i >= 0 && i < count;
    return inside(row) ? [row, inside(column) ? column : row] : null;
  }

  function small(other, head, size) {
    other.width = other.height = size * scale;
    other.style.width = other.style.height = `${size}px`;
    const pen = other.getContext("2d");
    hatched(pen, 0, 0, size * scale);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(imageOf(head), 0, 0, size * scale, size * scale);
  }

  return { canvas, take, redraw, mark, zoomBy, under, small, zoomed: () => zoom > 1 };
}
