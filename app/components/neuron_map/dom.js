// The map's own elements, made once per mount and kept when the data change.

const NM_ICONS = {
  zoomIn: ["M7 2.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z", "M10.3 10.3L14 14", "M7 5v4", "M5 7h4"],
  zoomOut: ["M7 2.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z", "M10.3 10.3L14 14", "M5 7h4"],
  reset: ["M2 3v10", "M14 3v10", "M4.5 8h7", "M6.5 5.8L4.3 8l2.2 2.2", "M9.5 5.8L11.7 8l-2.2 2.2"],
  brush: ["M4.5 2.5v11", "M11.5 2.5v11", "M6.3 8h3.4", "M2.5 2.5h2", "M2.5 13.5h2", "M13.5 2.5h-2", "M13.5 13.5h-2"],
  rows: ["M8 3h6", "M8 8h6", "M8 13h6", "M4 2.8v10.4", "M2.2 4.6L4 2.6l1.8 2", "M2.2 11.4L4 13.4l1.8-2"],
  save: ["M8 2v8", "M4.8 7L8 10.2L11.2 7", "M2.5 11v2.5h11V11"],
  full: ["M2.5 6V2.5H6", "M10 2.5h3.5V6", "M13.5 10v3.5H10", "M6 13.5H2.5V10"],
  help: ["M5.6 6a2.4 2.4 0 1 1 3.4 2.2c-.7.3-1 .8-1 1.5", "M8 12.4v.3"],
};

const NM_HELP = [
  ["Hover, tap", "value, rank and rate of a cell"],
  ["Click, Enter", "pin a cell; a second pin compares"],
  ["Wheel, pinch, + −", "zoom along the neurons"],
  ["Drag, minimap", "pan; over the tokens the wheel scrolls rows"],
  ["Shift-drag", "brush a range of neurons (also on the profile)"],
  ["Double click, 0", "whole width"],
  ["Arrows", "move the crosshair, with shift ten at a time"],
  ["Escape", "take back the last pin, then brush and crosshair"],
];

/** An icon drawn from strokes on a 16 x 16 grid. */
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  for (const stroke of NM_ICONS[name]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", stroke);
    svg.append(path);
  }
  return svg;
}

/** A button of the toolbar. */
function toolButton(name, label, act) {
  const button = make("button", `nm-tool nm-tool-${name}`);
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  button.append(icon(name));
  button.onclick = act;
  return button;
}

/** Build the elements inside the root that the page brought. */
function buildDom(m, root) {
  const head = make("div", "nm-head");
  const names = make("div", "nm-names");
  const title = make("div", "nm-title");
  const tools = make("div", "nm-tools");
  tools.setAttribute("role", "toolbar");
  tools.setAttribute("aria-label", "Map");
  const stage = make("div", "nm-stage");
  const base = make("canvas", "nm-base");
  const over = make("canvas", "nm-over");
  const scroller = make("div", "nm-scroll");
  const spacer = make("div");
  scroller.append(spacer);
  scroller.tabIndex = -1; // the stage takes the keys
  stage.append(base, over, scroller);
  const status = make("div", "nm-status");
  const caption = make("div", "nm-caption");
  const tip = make("div", "nm-tip");
  const help = buildHelp();
  const live = make("div", "nm-hidden");
  live.setAttribute("role", "status");
  live.setAttribute("aria-live", "polite");
  const words = make("p", "nm-hidden");
  words.id = "nm-words";
  const message = make("div", "nm-message");
  message.setAttribute("role", "alert");
  tip.hidden = help.hidden = message.hidden = true;
  names.append(title, caption);
  head.append(names, tools);
  root.replaceChildren(head, stage, status, words, live, help, tip, message);
  m.el = { root, head, title, tools, stage, base, over, scroller, spacer, status, caption, tip, help, live, words, message };
  stage.tabIndex = 0;
  stage.setAttribute("role", "application");
  stage.setAttribute("aria-roledescription", "token by neuron map");
  stage.setAttribute("aria-describedby", "nm-words");
  buildTools(m);
}

/** The toolbar, in the order zoom, selection, view, output. */
function buildTools(m) {
  m.tools = {};
  const button = (name, label, act) => (m.tools[name] = toolButton(name, label, act));
  m.el.tools.append(
    button("zoomIn", "Zoom in", () => zoomBy(m, 0.5)),
    button("zoomOut", "Zoom out", () => zoomBy(m, 2)),
    button("reset", "Show the whole width", () => resetView(m)),
    button("brush", "Brush a range by dragging", () => toggleBrushMode(m)),
    button("rows", "Tall rows with every token", () => toggleTall(m)),
    button("save", "Download as PNG", () => savePicture(m)),
    button("full", "Full screen", () => toggleFull(m)),
    button("help", "How to use this map", () => toggleHelp(m)),
  );
}

/** The panel that says what mouse, fingers and keys do. */
function buildHelp() {
  const help = make("div", "nm-help");
  const list = make("dl");
  for (const [what, does] of NM_HELP) list.append(make("dt", "", what), make("dd", "", does));
  help.append(list);
  return help;
}

/** Show or hide the help panel. */
function toggleHelp(m) {
  const { help } = m.el;
  help.hidden = !help.hidden;
  help.style.top = `${m.el.stage.offsetTop}px`;
  setPressed(m.tools.help, !help.hidden);
}

/** The pressed state of a toggle, for eyes and ears. */
function setPressed(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

/** Dragging brushes instead of panning, or back. */
function toggleBrushMode(m) {
  m.brushMode = !m.brushMode;
  setPressed(m.tools.brush, m.brushMode);
  m.el.stage.classList.toggle("nm-brushing", m.brushMode);
}

/** Rows tall enough for every label, or all rows at once. */
function toggleTall(m) {
  const middle = (m.scroll + m.geo.cells.h / 2) / m.geo.rowH;
  m.tall = !m.tall;
  setPressed(m.tools.rows, m.tall);
  relayout(m);
  m.el.scroller.scrollTop = middle * m.geo.rowH - m.geo.cells.h / 2;
}

/** Show a message instead of the map: never a blank. */
function showMessage(m, text) {
  const { message, stage, status, caption, tools, tip } = m.el;
  message.hidden = !text;
  message.textContent = text || "";
  for (const part of [stage, status, caption, tools]) part.style.display = text ? "none" : "";
  if (text) tip.hidden = true;
}
