// What the colours mean, and how many neurons share a pixel.

/** The legend's band: the scale at the left, the note on pooling at the right (below each other where it is narrow). */
function paintLegend(ctx, model, geo, scroll, theme, plan) {
  const x = geo.narrow ? 8 : geo.cells.x;
  const y = geo.legendY + (geo.stacked ? 32 : 0);
  let used = 0;
  if (model.kind === "values") used = paintScale(ctx, model, geo, theme, x, y);
  else if (model.kind === "set") used = paintSetLegend(ctx, geo, theme, x, y, plan);
  else used = paintCategories(ctx, model, geo, theme, x, y);
  paintNote(ctx, model, geo, scroll, theme, plan, used);
}

/** Which rows and neurons are seen, and how many share a pixel. */
function paintNote(ctx, model, geo, scroll, theme, plan, used) {
  const [from, to] = visibleRows(geo, scroll, model.rows);
  const rows = geo.scrolls ? `${to - from} of ${model.rows} rows in view, ` : "";
  const left = geo.narrow ? 8 : geo.cells.x;
  const right = geo.cells.x + geo.cells.w;
  const room = geo.stacked ? geo.width - 8 - left : right - used - 24;
  ctx.font = geo.fonts.text;
  ctx.fillStyle = theme.muted;
  ctx.textBaseline = "middle";
  ctx.textAlign = geo.stacked ? "left" : "right";
  [`${rows}${orderedNeurons(model.header)}`, poolingNote(model.header, plan.perPixel)].forEach((line, i) => {
    ctx.fillText(fitText(line, room, measurer(geo.fonts.text)), geo.stacked ? left : right, geo.legendY + 6 + 15 * i);
  });
}

/** Colour ramp on a square-root scale with ticks, clipped ends and the mark of cells that are not finite. */
function paintScale(ctx, model, geo, theme, x, y) {
  const signed = model.show === "signed";
  const width = geo.narrow ? 130 : 190;
  const height = 11;
  const steps = width;
  const left = signed ? x + 8 : x;
  for (let i = 0; i < steps; i++) {
    const t = signed ? (2 * i) / (steps - 1) - 1 : i / (steps - 1);
    ctx.fillStyle = cssColour(valueColour(model.show, t, theme.dark));
    ctx.fillRect(left + (i * width) / steps, y, width / steps + 0.5, height);
  }
  const clipped = model.clips;
  if (clipped) {
    paintCap(ctx, left + width, y, 7, height, cssColour(valueColour(model.show, 1, theme.dark)));
    if (signed) paintCap(ctx, left, y, -7, height, cssColour(valueColour(model.show, -1, theme.dark)));
  }
  paintScaleTicks(ctx, model, geo, theme, left, y + height, width, signed);
  let at = left + width + 26;
  at = paintWords(ctx, shownLabel(model.header), at, y + 6, geo.fonts.bold, theme.text) + 12;
  const extra = `square-root scale${clipped ? clippedNote(model, geo.narrow) : ""}`;
  let end = paintWords(ctx, extra, left + width + 26, y + 21, geo.fonts.small, theme.muted);
  if (model.notFinite) end = Math.max(end, paintNotFinite(ctx, model, geo, theme, at, y));
  return Math.max(at, end);
}

/** How many cells lie above the scale; they carry a dot where cells are large enough. */
function clippedNote(model, short) {
  if (!model.clippedShare) return ", only the sink above it";
  const share = formatShare(model.clippedShare);
  return short ? `, ${share} above it` : `, ${share} of the cells above it (dotted when zoomed)`;
}

/** The swatch of cells that are not finite. */
function paintNotFinite(ctx, model, geo, theme, x, y) {
  ctx.fillStyle = NM_NAN;
  ctx.fillRect(x, y, 12, 11);
  const cross = new Path2D();
  addPattern(cross, "cross", x, y, 12, 11);
  inkPattern(ctx, "cross", cross, theme.back);
  return paintWords(ctx, `not finite (${formatCount(model.notFinite)})`, x + 17, y + 6, geo.fonts.text, theme.text);
}

/** A pointed end: values beyond it are drawn in the same colour. */
function paintCap(ctx, x, y, length, height, colour) {
  ctx.fillStyle = colour;
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(x + length, y + height / 2);
  ctx.lineTo(x, y + height);
  ctx.closePath();
  ctx.fill();
}

/** Ticks of the ramp: zero, the clip value and one round value between. */
function paintScaleTicks(ctx, model, geo, theme, x, y, width, signed) {
  const inner = niceStep(model.clip / 4, 1);
  const marks = [0, inner, model.clip];
  const zero = signed ? x + width / 2 : x;
  const reach = signed ? width / 2 : width;
  ctx.font = geo.fonts.small;
  ctx.textBaseline = "top";
  ctx.textAlign = "center";
  const put = (value, side) => {
    const at = zero + side * Math.sqrt(value / model.clip) * reach;
    ctx.fillStyle = theme.line;
    ctx.fillRect(Math.round(at - 0.5), y, 1, 3);
    ctx.fillStyle = theme.muted;
    const label = formatNumber(side * value);
    ctx.fillText(label, signed ? at : Math.max(at, x + measurer(geo.fonts.small)(label) / 2), y + 5);
  };
  for (const value of signed && geo.narrow ? [0, model.clip] : marks) {
    put(value, 1);
    if (signed && value) put(value, -1);
  }
}

/** Two tones, and what lies between them where a pixel holds several neurons. */
function paintSetLegend(ctx, geo, theme, x, y, plan) {
  const swatch = (share, at, label) => {
    ctx.fillStyle = cssColour(setColour(share, theme));
    ctx.fillRect(at, y, 14, 12);
    ctx.strokeStyle = theme.line;
    ctx.lineWidth = 1;
    ctx.strokeRect(at + 0.5, y + 0.5, 13, 11);
    return paintWords(ctx, label, at + 20, y + 6.5, geo.fonts.text, theme.text) + 14;
  };
  let at = swatch(0, x, "not active");
  if (plan.perPixel > 1) at = swatch(1 / Math.ceil(plan.perPixel), at, "one active");
  return swatch(1, at, plan.perPixel > 1 ? "all active" : "active");
}

/** Where each category's swatch goes, broken into lines where there is no room. */
function placeCategories(model, fonts, x, width) {
  const measure = measurer(fonts.text);
  const total = model.rows * model.cols;
  let [at, line, widest] = [x, 0, x];
  const places = model.header.categories.map((category, i) => {
    const label = `${category[0]} ${formatShare(model.states[i] / total)}`;
    const wide = 20 + measure(label);
    if (at > x && at + wide > width - 8) [at, line] = [x, line + 1];
    const place = { category, label, x: at, line };
    at += wide + 14;
    widest = Math.max(widest, at);
    return place;
  });
  return { places, lines: line + 1, widest };
}

/** One swatch a category, with the pattern its cells get and its share of the cells. */
function paintCategories(ctx, model, geo, theme, x, y) {
  const { places, widest } = placeCategories(model, geo.fonts, x, geo.width);
  for (const { category, label, x: left, line } of places) {
    const top = y + 17 * line;
    ctx.fillStyle = cssColour(categoryColour(category, theme));
    ctx.fillRect(left, top, 14, 12);
    const path = new Path2D();
    addPattern(path, category[2], left, top, 14, 12);
    inkPattern(ctx, category[2], path, theme.back);
    ctx.strokeStyle = theme.line;
    ctx.lineWidth = 1;
    ctx.strokeRect(left + 0.5, top + 0.5, 13, 11);
    paintWords(ctx, label, left + 20, top + 6.5, geo.fonts.text, theme.text);
  }
  return widest;
}

/** Left-aligned words; gives back where they end. */
function paintWords(ctx, text, x, y, font, ink) {
  ctx.font = font;
  ctx.fillStyle = ink;
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  ctx.fillText(text, x, y);
  return x + measurer(font)(text);
}
