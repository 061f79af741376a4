// The keyboard moves the crosshair; the live region reads the cell.

const NM_STEPS = {
  ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
  PageUp: [-10, 0], PageDown: [10, 0],
};

/** Attach the keys. */
function bindKeys(m) {
  m.el.stage.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (press(m, event.key, event.shiftKey)) {
      event.preventDefault();
      event.stopPropagation(); // the page has shortcuts of its own
    }
  };
  m.el.stage.onfocus = () => {
    const keyboard = m.el.stage.matches(":focus-visible");
    if (keyboard && !m.hover) stepTo(m, m.model.tokens.findIndex((token) => !token.sink), Math.floor((m.view.start + m.view.end) / 2), null);
  };
  m.el.stage.onblur = () => clearHover(m);
}

/** Act on a key; false where it is not ours. */
function press(m, key, shift) {
  if (NM_STEPS[key]) return moveCross(m, NM_STEPS[key], shift ? 10 : 1);
  if (key === "Home" || key === "End") return moveCross(m, [0, key === "Home" ? -m.model.cols : m.model.cols], 1);
  if (key === "+" || key === "=") return zoomBy(m, 0.5);
  if (key === "-" || key === "_") return zoomBy(m, 2);
  if (key === "0") return resetView(m);
  if (key === "Enter" || key === " ") return pinHere(m);
  if (key === "Escape") return leave(m);
  return false;
}

/** Move the crosshair by rows and columns; where columns share a pixel, by pixels, to the strongest of each. */
function moveCross(m, [rows, cols], times) {
  const { model } = m;
  const start = m.hover || { row: 0, col: Math.floor((m.view.start + m.view.end) / 2) };
  const row = Math.min(model.rows - 1, Math.max(0, start.row + rows * times));
  if (!m.cache.plan.pooled) return stepTo(m, row, start.col + cols * times, null);
  const [from, to] = bucketAt(m.cache.plan, start.col + 0.5, model.cols);
  const per = m.cache.plan.ratio;
  const wanted = cols ? from + Math.sign(cols) * Math.max(1, per) * Math.min(model.cols, Math.abs(cols) * times) + per / 2 : (from + to) / 2;
  const column = Math.min(model.cols - 1, Math.max(0, wanted));
  const [first, last] = bucketAt(m.cache.plan, column, model.cols);
  return stepTo(m, row, strongestIn(model, row, first, last), [first, last]);
}

/** Put the crosshair on a cell, bring it into view and read it out. */
function stepTo(m, row, col, pixel) {
  const { geo, model } = m;
  const column = Math.min(model.cols - 1, Math.max(0, col));
  const line = Math.max(0, row);
  const span = m.view.end - m.view.start;
  if (column < m.view.start || column + 1 > m.view.end) setView(m, clampView(column + 0.5 - span / 2, span, model.cols));
  const y = line * geo.rowH;
  if (geo.scrolls && (y < m.scroll || y + geo.rowH > m.scroll + geo.cells.h)) {
    m.el.scroller.scrollTop = y - geo.cells.h / 2;
    m.scroll = wholeRows(m);
  }
  const point = { x: columnX(geo, m.view, column + 0.5), y: rowY(geo, m.scroll, line) + geo.rowH / 2 };
  setHover(m, line, column, pixel, { ...point, speak: true });
  return true;
}

/** Pin the cell under the crosshair. */
function pinHere(m) {
  if (m.hover) togglePin(m, m.hover.row, neuronAt(m.model, m.hover.col));
  return true;
}

/** Take back one thing: the last pin, else the brush, else the crosshair, else leave full screen. */
function leave(m) {
  if (m.pins.length) {
    const last = m.pins[m.pins.length - 1];
    togglePin(m, last.row, last.neuron);
  } else if (m.brush) setBrush(m, null);
  else if (m.hover) clearHover(m);
  else if (m.el.root.classList.contains("nm-fill")) fillWindow(m);
  else return false;
  return true;
}
