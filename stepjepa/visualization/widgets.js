// What the canvases of both explorers share; Python puts it before each of them.

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
