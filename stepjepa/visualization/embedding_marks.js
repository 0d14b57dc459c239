// How the embedding explorer's points are drawn, and which of them a lasso holds.

const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const SVG = "http://www.w3.org/2000/svg";

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

// A mark as a picture, which is drawn thousands of times in the time in which so many paths would be filled.
function stamp(view, colour, ink, size, scale) {
  const half = Math.ceil(1.3 * size + scale);
  const made = new OffscreenCanvas(2 * half, 2 * half);
  const pen = made.getContext("2d");
  trace(pen, view, half, half, size);
  pen.fillStyle = colour;
  pen.fill();
  pen.strokeStyle = ink; // the theme's, so that dark points show on a dark page
  pen.lineWidth = 0.8 * scale;
  pen.globalAlpha = 0.6;
  pen.stroke();
  return { image: made.transferToImageBitmap(), half };
}

// An arrowhead in the middle of the line from one point to the next, if there is room for it.
function arrow(pen, x1, y1, x2, y2, size) {
  const far = Math.hypot(x2 - x1, y2 - y1);
  if (far < 4 * size) return;
  const [a, b] = [(x2 - x1) / far, (y2 - y1) / far];
  const [x, y] = [(x1 + x2) / 2 + a * size, (y1 + y2) / 2 + b * size];
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(x - 2 * size * a - size * b, y - 2 * size * b + size * a);
  pen.lineTo(x - 2 * size * a + size * b, y - 2 * size * b - size * a);
  pen.fill();
}

// Whether a point is inside a closed line of points [x, y].
function inside(line, x, y) {
  let odd = false;
  for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
    const [[a, b], [c, d]] = [line[i], line[j]];
    if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) odd = !odd;
  }
  return odd;
}

// A line of the legend: the form and line of a view.
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
