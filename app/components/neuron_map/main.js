// The component: one run per change of data or theme, on elements and a state that survive the runs.

/** Take a payload in: keep zoom, scroll, pins and brush where they still mean the same. */
function adoptData(m, data) {
  const payload = readPayload(data);
  const before = m.model;
  if ((payload.header.group || "") !== m.group) m.borrowed = null; // another group, another order
  const model = buildModel(payload, m.borrowed);
  const header = model.header;
  const sameColumns = before && before.cols === model.cols && before.orderId === model.orderId;
  const sameScope = before && (before.header.scope || "") === (header.scope || "");
  m.model = model;
  m.cache.key = null;
  if (!sameColumns) m.view = { start: 0, end: model.cols };
  if (!sameColumns || !sameScope) m.brush = null;
  if (before && before.rows !== model.rows) m.el.scroller.scrollTop = 0;
  m.pins = m.pins.filter((pin) => pin.row < model.rows && pin.neuron < model.cols);
  adoptPins(m, !sameScope);
  m.hover = null;
  m.el.tip.hidden = true;
  describeMap(m);
  joinGroup(m, header.group || "");
  if (!sameColumns) introduce(m);
}

/** Title, caption and the words for those who cannot see the map. */
function describeMap(m) {
  const { header } = m.model;
  const { title, caption, stage, words } = m.el;
  title.textContent = header.title || "";
  title.title = header.title || "";
  caption.textContent = header.caption || "";
  caption.hidden = !header.caption;
  stage.setAttribute("aria-label", header.title || "token by neuron map");
  words.textContent = `${header.alt || ""} ${m.model.rows} tokens by ${m.model.cols} neurons. Arrow keys move, Enter pins, Escape takes back, plus and minus zoom, 0 resets.`;
  renderStatus(m);
}

/** Everything below the overlay, at `scale` device pixels a CSS pixel. */
function paintBase(ctx, m, scale, cache) {
  const { model, geo, view, theme, scroll } = m;
  const pooled = pooledImage(model, view, Math.max(1, Math.round(geo.cells.w * scale)), theme, cache);
  paintCells(ctx, model, geo, view, scroll, pooled);
  paintProfile(ctx, model, geo, view, theme, pooled.plan);
  paintLabels(ctx, model, geo, scroll, theme);
  paintBars(ctx, model, geo, scroll, theme);
  paintBarWords(ctx, model, geo, theme);
  paintMarks(ctx, model, geo, view, theme);
  paintAxis(ctx, model, geo, view, theme);
  paintMinimap(ctx, model, geo, view, theme);
  paintLegend(ctx, model, geo, scroll, theme, pooled.plan);
  paintScrollMark(ctx, m);
}

/** Where the visible rows are among all, for browsers that show no scroll bar until it is touched. */
function paintScrollMark(ctx, { geo, scroll, theme, el }) {
  if (!geo.scrolls || el.scroller.offsetWidth > el.scroller.clientWidth) return;
  const { cells } = geo;
  ctx.fillStyle = theme.faint;
  ctx.fillRect(geo.width - 5, cells.y, 4, cells.h);
  ctx.fillStyle = theme.muted;
  ctx.fillRect(geo.width - 5, cells.y + (scroll / geo.contentH) * cells.h, 4, Math.max(12, (cells.h / geo.contentH) * cells.h));
}

/** Measure again and draw everything. */
function relayout(m) {
  m.geo = null;
  requestPaint(m, true);
  if (m.model) layoutNow(m);
}

/**
 * Where heading and caption take many lines, as on a phone, the page's height is too little for the map below them: then
 * the page's box grows, instead of its parts lying on each other.
 */
function makeRoom(m, least) {
  const { root, head, stage, status } = m.el;
  const box = root.getRootNode().host?.closest(".stElementContainer");
  stage.style.minHeight = `${least}px`;
  if (!box) return;
  const sized = (height) => (box.style.height = box.style.flexBasis = height); // the page fixes both
  sized("");
  const needed = head.offsetHeight + least + status.offsetHeight;
  if (needed > box.clientHeight) sized(`${needed}px`);
}

/** Lay out for the present size; canvases and scroller follow. */
function layoutNow(m) {
  const { stage, base, over, scroller, spacer } = m.el;
  const width = stage.clientWidth;
  if (width < 40 || stage.clientHeight < 40) return false; // hidden for now; the observer calls again
  m.theme = readTheme(m.el.root);
  const { theme } = m;
  const options = { fonts: mapFonts(theme), tall: m.tall };
  makeRoom(m, layoutMap(m.model, width, stage.clientHeight, options).least);
  const height = stage.clientHeight;
  m.geo = layoutMap(m.model, width, height, options);
  m.geo.back = theme.back;
  m.geo.ink = m.model.kind === "values" && m.model.show !== "signed" ? "#10131a" : theme.back; // dots lie on viridis' yellow
  m.dpr = window.devicePixelRatio || 1;
  for (const canvas of [base, over]) {
    const [w, h] = [Math.round(width * m.dpr), Math.round(height * m.dpr)];
    if (canvas.width !== w) canvas.width = w;
    if (canvas.height !== h) canvas.height = h;
  }
  scroller.style.top = `${m.geo.cells.y}px`;
  scroller.style.height = `${m.geo.cells.h}px`;
  scroller.style.display = m.geo.scrolls ? "" : "none";
  spacer.style.height = `${m.geo.contentH}px`;
  m.tools.rows.style.display = m.geo.canGrow ? "" : "none";
  m.scroll = m.geo.scrolls ? wholeRows(m) : 0;
  return true;
}

/** Ask for a redraw in the next frame; the cells only where they changed. */
function requestPaint(m, base) {
  m.dirty = m.dirty || base;
  if (!m.frame) m.frame = requestAnimationFrame(() => guard(m, () => paintFrame(m)));
}

/** Ask for the crosshair to follow the pointer in the next frame. */
function requestHover(m) {
  m.follow = true;
  requestPaint(m, false);
}

/** One frame. How long the cells took is left on the root, where tests and curious people find it. */
function paintFrame(m) {
  m.frame = 0;
  if (!m.model || (!m.geo && !layoutNow(m))) return;
  if (m.dirty) {
    const started = performance.now();
    m.dirty = false;
    const ctx = m.el.base.getContext("2d");
    ctx.setTransform(m.dpr, 0, 0, m.dpr, 0, 0);
    ctx.clearRect(0, 0, m.geo.width, m.geo.height);
    paintBase(ctx, m, m.dpr, m.cache);
    m.el.root.dataset.paint = (performance.now() - started).toFixed(1);
    m.el.root.dataset.state = "drawn";
  }
  if (m.follow && m.lastPoint && !m.drag) hoverAt(m, m.lastPoint);
  m.follow = false;
  const over = m.el.over.getContext("2d");
  over.setTransform(m.dpr, 0, 0, m.dpr, 0, 0);
  paintOverlay(over, m);
}

/** Run something; what goes wrong is shown, never a blank. */
function guard(m, act) {
  try {
    act();
    return true;
  } catch (error) {
    showMessage(m, error instanceof Error ? error.message : String(error));
    m.el.root.dataset.state = "failed";
    return false;
  }
}

/** Show other columns, here and in the group. */
function setView(m, view) {
  m.view = view;
  shareView(m);
  requestPaint(m, true);
}

/** Zoom around the crosshair, or around the middle. */
function zoomBy(m, factor) {
  const anchor = m.hover ? m.hover.col + 0.5 : (m.view.start + m.view.end) / 2;
  setView(m, zoomedView(m.view, factor, anchor, m.model.cols));
  return true;
}

/** The whole width. */
function resetView(m) {
  setView(m, { start: 0, end: m.model.cols });
  return true;
}

/** A fresh state on a root element. */
function createMap(root) {
  const m = {
    id: `${Date.now()}-${Math.random()}`, model: null, geo: null, view: null, scroll: 0, tall: false, brushMode: false,
    hover: null, remote: null, pins: [], brush: null, drag: null, touch: false, cache: {}, timers: {}, sent: {}, echoes: [],
    headerPins: "[]", group: "", borrowed: null, frame: 0, dirty: false, coarse: matchMedia("(pointer: coarse)").matches,
  };
  buildDom(m, root);
  bindPointer(m);
  bindKeys(m);
  root.onfullscreenchange = () => afterFull(m);
  m.observer = new ResizeObserver(() => guard(m, () => m.model && relayout(m)));
  m.observer.observe(m.el.stage);
  m.observer.observe(m.el.status); // pins may need a second line
  root.neuronMap = m;
  return m;
}

/** Let go of everything outside the elements. */
function destroyMap(m) {
  m.observer.disconnect();
  cancelAnimationFrame(m.frame);
  Object.values(m.timers).forEach(clearTimeout);
  leaveGroup(m);
  delete m.el.root.neuronMap;
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const root = parentElement.querySelector(".nm");
  const m = root.neuronMap || createMap(root);
  m.send = setStateValue;
  const started = performance.now();
  const fine = guard(m, () => {
    if (m.data !== data) adoptData(m, data);
    m.data = data;
    showMessage(m, "");
    relayout(m);
  });
  if (fine) root.dataset.read = (performance.now() - started).toFixed(1);
  return () => destroyMap(m);
}
