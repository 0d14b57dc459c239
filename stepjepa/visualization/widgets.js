// What the canvases of all explorers share; Python puts it before each of them.

function node(tag, parent, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return parent.appendChild(made);
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function inkOn(hex) {
  const [r, g, b] = rgb(hex);
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#222" : "#fff";
}

function inkOf(root) {
  return getComputedStyle(root).color;
}

function pageOf(root) {
  return getComputedStyle(root).getPropertyValue("--jp-layout-color0").trim() || "#fff";
}

// Calls `redraw` when the page has taken another theme; returns what ends that. No event tells of it: the theme's name
// changes before its colours have been loaded, and transitions may be cut short. So the colours are looked at.
function onOtherTheme(root, redraw) {
  const colours = () => inkOf(root) + pageOf(root);
  let known = colours();
  const clock = setInterval(() => {
    if (colours() === known) return;
    known = colours();
    redraw();
  }, 200);
  return () => clearInterval(clock);
}

function keys(parent, entries) {
  const hint = node("p", parent, "summary keys");
  for (const [key, text] of entries) {
    node("kbd", hint, "", key);
    hint.append(` ${text}  `);
  }
}

// A slider from 1 to what `show` says, with its value beside it; `choose` is called with the value that it is moved to.
function slider(parent, label, choose) {
  const field = node("label", parent, "field slider", label);
  const range = node("input", field);
  Object.assign(range, { type: "range", min: 1 });
  const said = node("output", field);
  range.addEventListener("input", () => choose(Number(range.value)));
  return (value, most) => {
    range.max = most; // before the value, which it would cut
    range.value = value;
    said.textContent = `${value} of ${most}`;
  };
}

// JupyterLab in its command mode would take the arrow keys from what has the focus in the explorer: its sliders, menus.
function keepArrows(root) {
  root.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow")) event.stopPropagation();
  });
}

// The largest side, in CSS pixels, of a square picture that leaves so much of the window for what stands around it.
function fitting(most, taken) {
  return Math.max(280, Math.min(most, window.innerHeight - taken));
}
