// The map itself: cells, patterns that survive greyscale, token labels, bars.

/** Draw the visible part of the pooled image, one image pixel a bucket and row. */
function paintCells(ctx, model, geo, view, scroll, pooled) {
  const { cells, rowH } = geo;
  const { plan, canvas } = pooled;
  const [from, to] = visibleRows(geo, scroll, model.rows);
  const perBucket = plan.pooled ? plan.ratio : 1;
  const x = columnX(geo, view, plan.first * perBucket);
  const width = ((plan.count * perBucket) / (view.end - view.start)) * cells.w;
  ctx.save();
  ctx.beginPath();
  ctx.rect(cells.x, cells.y, cells.w, cells.h);
  ctx.clip();
  ctx.imageSmoothingEnabled = false;
  ctx.drawImage(canvas, 0, from, plan.count, to - from, x, rowY(geo, scroll, from), width, (to - from) * rowH);
  const columnW = cells.w / (view.end - view.start);
  if (columnW >= 5 && rowH >= 5) paintPatterns(ctx, model, geo, view, scroll, columnW);
  ctx.restore();
}

/** Marks on single cells: category patterns, crosses on cells that are not finite, dots on clipped ones. */
function paintPatterns(ctx, model, geo, view, scroll, columnW) {
  const [from, to] = visibleRows(geo, scroll, model.rows);
  const first = Math.max(0, Math.floor(view.start));
  const last = Math.min(model.cols, Math.ceil(view.end));
  const paths = {};
  for (let row = from; row < to; row++) {
    const y = rowY(geo, scroll, row);
    for (let col = first; col < last; col++) {
      const pattern = cellPattern(model, row, col);
      if (pattern === "none") continue;
      const path = (paths[pattern] = paths[pattern] || new Path2D());
      addPattern(path, pattern, columnX(geo, view, col), y, columnW, geo.rowH);
    }
  }
  for (const [pattern, path] of Object.entries(paths)) inkPattern(ctx, pattern, path, geo.ink);
  if (columnW >= 9 && geo.rowH >= 9) paintGrid(ctx, geo, view, scroll, from, to, first, last);
}

/** The pattern of one cell. */
function cellPattern(model, row, col) {
  const code = model.cells[row * model.cols + col];
  if (model.kind === "compare") return model.header.categories[code][2];
  if (model.kind === "set") return "none";
  if (code === NM_NOT_FINITE) return "cross";
  return cellLevel(model, row, col) > model.clipLevel + 0.5 ? "dot" : "none";
}

/** Add the pattern of a cell of w x h at (x, y) to a path. */
function addPattern(path, pattern, x, y, w, h) {
  const size = Math.min(w, h);
  if (pattern === "dot") {
    const radius = Math.min(3, Math.max(1, size * 0.16));
    path.moveTo(x + w / 2 + radius, y + h / 2);
    path.arc(x + w / 2, y + h / 2, radius, 0, 2 * Math.PI);
  } else if (pattern === "hatch") {
    const half = size * 0.3;
    const [cx, cy] = [x + w / 2, y + h / 2];
    path.moveTo(cx - half, cy + half);
    path.lineTo(cx + half, cy - half);
  } else if (pattern === "cross") {
    const half = size * 0.28;
    const [cx, cy] = [x + w / 2, y + h / 2];
    path.moveTo(cx - half, cy - half);
    path.lineTo(cx + half, cy + half);
    path.moveTo(cx - half, cy + half);
    path.lineTo(cx + half, cy - half);
  }
}

/** Draw a collected pattern: dots filled, lines stroked. */
function inkPattern(ctx, pattern, path, ink) {
  ctx.fillStyle = ctx.strokeStyle = ink;
  ctx.lineWidth = 1.5;
  ctx.lineCap = "round";
  if (pattern === "dot") ctx.fill(path);
  else ctx.stroke(path);
}

/** Hairlines between large cells. */
function paintGrid(ctx, geo, view, scroll, from, to, first, last) {
  ctx.beginPath();
  for (let row = from; row <= to; row++) {
    const y = Math.round(rowY(geo, scroll, row)) - 0.5;
    ctx.moveTo(geo.cells.x, y);
    ctx.lineTo(geo.cells.x + geo.cells.w, y);
  }
  for (let col = first; col <= last; col++) {
    const x = Math.round(columnX(geo, view, col)) - 0.5;
    ctx.moveTo(x, geo.cells.y);
    ctx.lineTo(x, geo.cells.y + geo.cells.h);
  }
  ctx.strokeStyle = geo.back;
  ctx.globalAlpha = 0.55;
  ctx.lineWidth = 1;
  ctx.stroke();
  ctx.globalAlpha = 1;
}

/** Position and token of the rows that have room, each beside its own row; a tick ties thinned labels to their row. */
function paintLabels(ctx, model, geo, scroll, theme) {
  const step = labelStep(geo);
  const [from, to] = visibleRows(geo, scroll, model.rows);
  ctx.save();
  ctx.beginPath();
  ctx.rect(0, geo.cells.y - 6, geo.cells.x, geo.cells.h + 12);
  ctx.clip();
  for (let row = Math.ceil(from / step) * step; row < to; row += step) {
    const y = rowY(geo, scroll, row) + geo.rowH / 2;
    if (y < geo.cells.y - 1 || y > geo.cells.y + geo.cells.h + 1) continue;
    paintLabel(ctx, model.tokens[row], geo, y, theme, model.tokens[row].sink ? theme.muted : theme.text);
    if (step > 1) {
      ctx.fillStyle = theme.line;
      ctx.fillRect(geo.cells.x - 5, Math.round(y - 0.5), 4, 1);
    }
  }
  ctx.restore();
}

/** One label: number right-aligned in its column, token right-aligned against the cells; the sink with a diamond. */
function paintLabel(ctx, token, geo, y, theme, ink) {
  const { gutter, fonts, cells } = geo;
  ctx.textBaseline = "middle";
  ctx.textAlign = "right";
  ctx.direction = "ltr"; // numbers and tokens keep their places whatever the token's script is
  ctx.font = fonts.small;
  ctx.fillStyle = theme.muted;
  ctx.fillText(String(token.position), gutter.numbers + 2, y + 0.5);
  ctx.font = fonts.token;
  ctx.fillStyle = ink;
  const room = gutter.words - (token.sink ? 10 : 0);
  const text = fitText(token.label, room, measurer(fonts.token));
  const right = cells.x - 9;
  ctx.fillText(text, right, y + 0.5);
  if (token.sink) paintDiamond(ctx, right - measurer(fonts.token)(text) - 6, y, theme.muted);
}

/** The mark of the sink token. */
function paintDiamond(ctx, x, y, ink) {
  ctx.beginPath();
  ctx.moveTo(x, y - 3.5);
  ctx.lineTo(x + 3.5, y);
  ctx.lineTo(x, y + 3.5);
  ctx.lineTo(x - 3.5, y);
  ctx.closePath();
  ctx.strokeStyle = ink;
  ctx.lineWidth = 1;
  ctx.stroke();
}

/** One bar a token; the sink's is hollow and does not stretch the scale. */
function paintBars(ctx, model, geo, scroll, theme) {
  const { bars, cells, rowH } = geo;
  if (!bars) return;
  const values = model.blocks.bars;
  const top = barTop(model);
  const [from, to] = visibleRows(geo, scroll, model.rows);
  ctx.save();
  ctx.beginPath();
  ctx.rect(bars.x, cells.y, bars.w + 1, cells.h);
  ctx.clip();
  const gap = rowH >= 6 ? Math.min(3, rowH * 0.18) : 0;
  for (let row = from; row < to; row++) {
    if (!Number.isFinite(values[row])) continue;
    const width = Math.max(0, Math.min(1, values[row] / top)) * bars.w;
    const y = rowY(geo, scroll, row) + gap;
    ctx.fillStyle = ctx.strokeStyle = theme.muted;
    ctx.globalAlpha = 0.75;
    if (model.tokens[row].sink && rowH >= 5) ctx.strokeRect(bars.x + 0.5, y + 0.5, Math.max(0, width - 1), rowH - 2 * gap - 1);
    else ctx.fillRect(bars.x, y, width, Math.max(1, rowH - 2 * gap));
  }
  ctx.restore();
  ctx.fillStyle = theme.line;
  ctx.fillRect(bars.x - 1, cells.y, 1, cells.h);
}

/** The value at the right end of the bars. */
function barTop(model) {
  let top = 0;
  model.blocks.bars.forEach((value, row) => {
    if (Number.isFinite(value) && value > top && (!model.tokens[row].sink || model.rows === 1)) top = value;
  });
  return top || 1;
}
