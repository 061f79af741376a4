// What moves above the picture: crosshair, pins, brush; and the tooltip. Kept on a second canvas, so that hovering
// never redraws the cells.

const NM_PIN_NAMES = ["A", "B"];

/** Redraw the overlay. */
function paintOverlay(ctx, m) {
  const { geo } = m;
  ctx.clearRect(0, 0, geo.width, geo.height);
  if (m.brush) paintBrush(ctx, m, m.brush);
  m.pins.forEach((pin, i) => paintPin(ctx, m, pin, NM_PIN_NAMES[i]));
  const remote = m.remote && !m.hover ? remoteCell(m) : null;
  if (remote) paintCross(ctx, m, remote.row, remote.col, [3, 3]);
  if (m.hover) paintCross(ctx, m, m.hover.row, m.hover.col, []);
}

/** The row and column another map of the group points at; row -1 when this map has no such position. */
function remoteCell(m) {
  const { neuron, position } = m.remote;
  if (!(neuron >= 0 && neuron < m.model.cols)) return null;
  return { col: m.model.place[neuron], row: m.model.tokens.findIndex((token) => token.position === position) };
}

/** Left edge and width of a column, at least as wide as a pixel. */
function columnBox(m, col) {
  const { geo, view } = m;
  const left = columnX(geo, view, col);
  const width = columnX(geo, view, col + 1) - left;
  return width < 1.5 ? [left + width / 2 - 0.75, 1.5] : [left, width];
}

/** A hairline with a halo of the background, so that it is seen on any colour. */
function haloLine(ctx, theme, x1, y1, x2, y2) {
  for (const [ink, width, alpha] of [[theme.back, 3, 0.45], [theme.text, 1, 0.85]]) {
    ctx.strokeStyle = ink;
    ctx.lineWidth = width;
    ctx.globalAlpha = alpha;
    ctx.beginPath();
    ctx.moveTo(x1, y1);
    ctx.lineTo(x2, y2);
    ctx.stroke();
  }
  ctx.globalAlpha = 1;
}

/** Lines towards a cell, over profile, cells and bars, that leave the cell itself free; its row's whole label. */
function paintCross(ctx, m, row, col, dash) {
  const { geo, theme, scroll } = m;
  const { cells } = geo;
  const [x, w] = columnBox(m, col);
  const y = rowY(geo, scroll, row);
  const [cx, cy] = [Math.round(x + w / 2) + 0.5, Math.round(y + geo.rowH / 2) + 0.5];
  const inRows = row >= 0 && cy >= cells.y && cy <= cells.y + cells.h;
  const inColumns = cx >= cells.x && cx <= cells.x + cells.w;
  const [gapX, gapY] = [Math.max(7, w / 2 + 2), inRows ? Math.max(7, geo.rowH / 2 + 2) : 0];
  const right = geo.bars ? geo.bars.x + geo.bars.w : cells.x + cells.w;
  ctx.save();
  ctx.setLineDash(dash);
  if (inColumns) {
    haloLine(ctx, theme, cx, geo.profile ? geo.profile.y : cells.y, cx, Math.max(cells.y, cy - gapY));
    if (cy + gapY < cells.y + cells.h) haloLine(ctx, theme, cx, cy + gapY, cx, cells.y + cells.h);
  }
  if (inRows) {
    if (cx - gapX > cells.x) haloLine(ctx, theme, cells.x, cy, cx - gapX, cy);
    haloLine(ctx, theme, inColumns ? cx + gapX : cells.x, cy, right, cy);
    ctx.setLineDash([]);
    if (inColumns && w >= 4 && geo.rowH >= 4) outlineCell(ctx, m, x, y, w);
    if (!dash.length) paintFullLabel(ctx, m, row, cy);
  }
  ctx.restore();
}

/** The cell itself in a double outline. */
function outlineCell(ctx, m, x, y, w) {
  ctx.lineWidth = 1;
  ctx.strokeStyle = m.theme.back;
  ctx.strokeRect(x - 1.5, y - 1.5, w + 3, m.geo.rowH + 3);
  ctx.strokeStyle = m.theme.text;
  ctx.strokeRect(x - 0.5, y - 0.5, w + 1, m.geo.rowH + 1);
}

/** The uncut label of a row on a plate over the gutter. */
function paintFullLabel(ctx, m, row, y) {
  const { geo, theme, model } = m;
  const token = model.tokens[row];
  const measure = measurer(geo.fonts.token);
  const text = fitText(token.label, geo.width - geo.gutter.numbers - 40, measure);
  const words = Math.max(geo.gutter.words, measure(text));
  const width = geo.gutter.numbers + words + 18;
  const half = Math.min(9, Math.max(7, geo.rowH / 2)); // a plate as high as its row leaves the neighbours alone
  hideLabelsNear(ctx, m, y, half + 6);
  ctx.fillStyle = theme.panel;
  ctx.beginPath();
  ctx.roundRect(0.5, y - half, width, 2 * half, 3);
  ctx.fill();
  ctx.strokeStyle = theme.line;
  ctx.stroke();
  const wide = { ...geo, gutter: { ...geo.gutter, words: words + 12 }, cells: { ...geo.cells, x: width + 4 } };
  paintLabel(ctx, token, wide, y - 0.5, theme, theme.text);
}

/** Cover the labels nearer than `reach` to y, which would stick out from under a plate there. */
function hideLabelsNear(ctx, m, y, reach) {
  const { geo, theme, scroll, model } = m;
  const step = labelStep(geo);
  const [from, to] = visibleRows(geo, scroll, model.rows);
  ctx.fillStyle = theme.back;
  for (let row = Math.ceil(from / step) * step; row < to; row += step) {
    const at = rowY(geo, scroll, row) + geo.rowH / 2;
    if (Math.abs(at - y) < reach) ctx.fillRect(0, at - 7, geo.cells.x - 5, 14);
  }
}

/** A pin: a line down its column, a ring round its cell, its letter on top. */
function paintPin(ctx, m, pin, name) {
  const { geo, theme, view, scroll, model } = m;
  const { cells } = geo;
  const col = model.place[pin.neuron];
  const x = columnX(geo, view, col + 0.5);
  const y = rowY(geo, scroll, pin.row) + geo.rowH / 2;
  const inside = x >= cells.x && x <= cells.x + cells.w;
  ctx.save();
  if (inside) {
    for (const [ink, width, alpha] of [[theme.back, 4, 0.6], [theme.accent, 1.5, 1]]) {
      ctx.strokeStyle = ink;
      ctx.lineWidth = width;
      ctx.globalAlpha = alpha;
      ctx.beginPath();
      ctx.moveTo(x, cells.y);
      ctx.lineTo(x, cells.y + cells.h);
      ctx.stroke();
    }
  }
  if (y >= cells.y && y <= cells.y + cells.h) {
    ctx.fillStyle = theme.accent;
    ctx.fillRect(cells.x - 4, Math.round(y - Math.max(1.5, geo.rowH / 2)), 3, Math.max(3, geo.rowH));
    if (inside) ringCell(ctx, m, x, y);
  }
  if (inside) paintBadge(ctx, m, x, cells.y - 4, name);
  ctx.restore();
}

/** A ring that fits the cell but is never too small to see. */
function ringCell(ctx, m, x, y) {
  const columnW = m.geo.cells.w / (m.view.end - m.view.start);
  const w = Math.max(9, columnW + 3);
  const h = Math.max(9, m.geo.rowH + 3);
  for (const [ink, width] of [[m.theme.back, 4], [m.theme.accent, 2]]) {
    ctx.strokeStyle = ink;
    ctx.lineWidth = width;
    ctx.beginPath();
    ctx.roundRect(x - w / 2, y - h / 2, w, h, 3);
    ctx.stroke();
  }
}

/** The letter of a pin in a disc. */
function paintBadge(ctx, m, x, y, name) {
  ctx.fillStyle = m.theme.accent;
  ctx.beginPath();
  ctx.arc(x, y, 7, 0, 2 * Math.PI);
  ctx.fill();
  ctx.font = "700 9px " + m.theme.font;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.fillStyle = luminance(parseColour(m.theme.accent)) > 0.6 ? "#10131a" : "#ffffff";
  ctx.fillText(name, x, y + 0.5);
}

/** The brushed columns as a band. */
function paintBrush(ctx, m, [from, to]) {
  const { geo, view, theme } = m;
  const { cells } = geo;
  const top = geo.profile ? geo.profile.y : cells.y;
  const left = Math.max(cells.x, columnX(geo, view, from));
  const right = Math.min(cells.x + cells.w, columnX(geo, view, to));
  if (right <= left) return;
  ctx.save();
  ctx.fillStyle = theme.back;
  ctx.globalAlpha = 0.38; // what is outside steps back, what is brushed keeps its colours
  ctx.fillRect(cells.x, top, left - cells.x, cells.y + cells.h - top);
  ctx.fillRect(right, top, cells.x + cells.w - right, cells.y + cells.h - top);
  ctx.globalAlpha = 1;
  ctx.fillStyle = theme.accent;
  ctx.fillRect(left - 0.75, top, 1.5, cells.y + cells.h - top);
  ctx.fillRect(right - 0.75, top, 1.5, cells.y + cells.h - top);
  ctx.restore();
}
