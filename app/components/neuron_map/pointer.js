// Mouse, pen and fingers. Handlers are properties, so a run with new data replaces them instead of adding to them.

const NM_MOVE = 4; // pixels before a press becomes a drag

/** Stage coordinates of an event. */
function stagePoint(m, event) {
  const box = m.el.stage.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

/** Attach everything a pointer does. */
function bindPointer(m) {
  const { stage, scroller } = m.el;
  m.pointers = new Map();
  stage.onpointerdown = (event) => pointerDown(m, event);
  stage.onpointermove = (event) => pointerMove(m, event);
  stage.onpointerup = (event) => pointerUp(m, event, true);
  stage.onpointercancel = (event) => pointerUp(m, event, false);
  stage.onpointerleave = () => {
    if (!m.drag && !m.touch) clearHover(m);
  };
  stage.onwheel = (event) => wheel(m, event);
  stage.ondblclick = (event) => {
    const { x, y } = stagePoint(m, event);
    if (m.touch || regionAt(m.geo, x, y) === "none") return;
    m.pins = m.pinsBefore || m.pins; // its two clicks were no pins
    afterPins(m);
    resetView(m);
  };
  scroller.onscroll = () => {
    m.scroll = wholeRows(m);
    requestPaint(m, true);
  };
}

/** The scroll position at whole rows, so that labels, rows and edges stay aligned. */
function wholeRows(m) {
  return m.geo ? Math.round(m.el.scroller.scrollTop / m.geo.rowH) * m.geo.rowH : 0;
}

/** Put the crosshair on the strongest cell of the pixel under a point. */
function hoverAt(m, { x, y }) {
  const region = regionAt(m.geo, x, y);
  if (region !== "cells" && region !== "profile") return clearHover(m);
  const row = region === "cells" ? rowAt(m.geo, m.scroll, y, m.model.rows) : m.hover ? m.hover.row : visibleRows(m.geo, m.scroll, m.model.rows)[0];
  const [from, to] = bucketAt(m.cache.plan, columnAt(m.geo, m.view, x), m.model.cols);
  return setHover(m, row, strongestIn(m.model, row, from, to), [from, to], { x, y, speak: false });
}

/** A press: a pinch with the second finger, else the start of a click or drag. */
function pointerDown(m, event) {
  const point = stagePoint(m, event);
  m.touch = event.pointerType === "touch";
  m.pointers.set(event.pointerId, point);
  if (m.pointers.size === 2) {
    m.drag = { kind: "pinch", ...pinchOf(m), view: m.view };
    return;
  }
  const region = regionAt(m.geo, point.x, point.y);
  if (event.button !== 0 || region === "none") return;
  const brushing = m.brushMode || event.shiftKey || region === "profile";
  const kind = region === "mini" ? "mini" : region === "gutter" || region === "bars" ? "rows" : brushing ? "brush" : "pan";
  m.drag = { kind, from: point, view: m.view, scroll: m.scroll, moved: kind === "mini" };
  if (kind === "mini") dragMini(m, point);
  if (event.target.setPointerCapture && !m.touch) m.el.stage.setPointerCapture(event.pointerId);
}

/** Distance and middle of two fingers. */
function pinchOf(m) {
  const [a, b] = [...m.pointers.values()];
  return { gap: Math.max(20, Math.abs(a.x - b.x), Math.abs(a.y - b.y) / 2), middle: (a.x + b.x) / 2 };
}

/** A move: pinch, drag or hover. */
function pointerMove(m, event) {
  const point = stagePoint(m, event);
  if (m.pointers.has(event.pointerId)) m.pointers.set(event.pointerId, point);
  const { drag } = m;
  if (!drag) {
    if (event.pointerType !== "touch") {
      m.touch = false;
      m.lastPoint = point;
      requestHover(m);
    }
    return;
  }
  if (drag.kind === "pinch") return pinch(m, drag);
  if (!drag.moved && Math.hypot(point.x - drag.from.x, point.y - drag.from.y) < NM_MOVE) return;
  drag.moved = true;
  if (drag.kind === "mini") dragMini(m, point);
  else if (drag.kind === "brush") dragBrush(m, drag, point);
  else dragPan(m, drag, point);
}

/** Zoom and pan by two fingers: the columns under them stay under them. */
function pinch(m, drag) {
  if (m.pointers.size < 2) return;
  const now = pinchOf(m);
  const anchor = columnAt(m.geo, drag.view, drag.middle);
  const zoomed = zoomedView(drag.view, drag.gap / now.gap, anchor, m.model.cols);
  const span = zoomed.end - zoomed.start;
  setView(m, clampView(anchor - ((now.middle - m.geo.cells.x) / m.geo.cells.w) * span, span, m.model.cols));
}

/** Drag the picture: along the neurons, and along the rows where they scroll. */
function dragPan(m, drag, point) {
  const span = drag.view.end - drag.view.start;
  m.el.stage.classList.add("nm-dragging");
  if (drag.kind === "pan") setView(m, clampView(drag.view.start - ((point.x - drag.from.x) / m.geo.cells.w) * span, span, m.model.cols));
  if (m.geo.scrolls && !m.touch) m.el.scroller.scrollTop = drag.scroll - (point.y - drag.from.y);
  clearHover(m);
}

/** Brush the columns between press and pointer. */
function dragBrush(m, drag, point) {
  const ends = [drag.from.x, point.x].map((x) => columnAt(m.geo, m.view, x)).sort((a, b) => a - b);
  const from = Math.min(m.model.cols - 1, Math.max(0, Math.floor(ends[0])));
  const to = Math.min(m.model.cols, Math.max(from + 1, Math.ceil(ends[1])));
  clearHover(m);
  setBrush(m, [from, to]);
}

/** Move the window of the minimap under the pointer. */
function dragMini(m, point) {
  const { mini } = m.geo;
  const span = m.view.end - m.view.start;
  const centre = ((point.x - mini.x) / mini.w) * m.model.cols;
  setView(m, clampView(centre - span / 2, span, m.model.cols));
}

/** A release: a press that did not move is a click. */
function pointerUp(m, event, whole) {
  const { drag } = m;
  m.pointers.delete(event.pointerId);
  if (drag && drag.kind === "pinch" && m.pointers.size) return;
  m.drag = null;
  m.el.stage.classList.remove("nm-dragging");
  if (!drag || drag.moved || drag.kind === "pinch" || !whole) return;
  const point = stagePoint(m, event);
  const before = m.hover;
  hoverAt(m, point);
  if (!m.hover || regionAt(m.geo, point.x, point.y) !== "cells") return;
  const again = before && before.row === m.hover.row && before.col === m.hover.col;
  if (m.touch && !again) return; // the first tap looks, the second pins
  if (event.timeStamp - (m.clickedAt || 0) > 450) m.pinsBefore = m.pins;
  m.clickedAt = event.timeStamp;
  togglePin(m, m.hover.row, neuronAt(m.model, m.hover.col));
  showTip(m, point.x, point.y);
}

/** Wheel: zoom at the pointer, pan when it is pushed sideways; the page scrolls where neither has anything to do. */
function wheel(m, event) {
  const point = stagePoint(m, event);
  const region = regionAt(m.geo, point.x, point.y);
  if (!["cells", "profile", "mini"].includes(region) || event.altKey) return;
  const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 120 : 1;
  const [dx, dy] = [event.deltaX * unit, event.deltaY * unit];
  const span = m.view.end - m.view.start;
  let next;
  if (Math.abs(dx) > Math.abs(dy)) next = clampView(m.view.start + (dx / m.geo.cells.w) * span, span, m.model.cols);
  else {
    const speed = event.ctrlKey ? 0.012 : 0.0022; // a pinch on a touchpad arrives as small steps with ctrl
    next = zoomedView(m.view, Math.exp(Math.max(-240, Math.min(240, dy)) * speed), columnAt(m.geo, m.view, point.x), m.model.cols);
  }
  if (next.start === m.view.start && next.end === m.view.end) return;
  event.preventDefault();
  setView(m, next);
  m.lastPoint = point;
  requestHover(m);
}
