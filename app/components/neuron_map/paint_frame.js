// Around the cells: profile, marks, axis, minimap.

/** Fill under a step line of one value a bucket. */
function fillSteps(ctx, values, xOf, base, height, top) {
  ctx.beginPath();
  ctx.moveTo(xOf(0), base);
  for (let i = 0; i < values.length; i++) {
    const y = base - (values[i] / top) * height;
    ctx.lineTo(xOf(i), y);
    ctx.lineTo(xOf(i + 1), y);
  }
  ctx.lineTo(xOf(values.length), base);
  ctx.closePath();
  ctx.fill();
}

/** Rate of each column: the largest of a pixel light, the mean dark; its name in the gutter, its scale at the left. */
function paintProfile(ctx, model, geo, view, theme, plan) {
  const { profile, cells, fonts } = geo;
  if (!profile) return;
  const base = profile.y + profile.h;
  const per = plan.pooled ? plan.ratio : 1;
  const xOf = (i) => columnX(geo, view, (plan.first + i) * per);
  const shares = pooledProfile(model, plan);
  ctx.save();
  ctx.beginPath();
  ctx.rect(cells.x, 0, cells.w, base + 1);
  ctx.clip();
  ctx.fillStyle = theme.accent;
  ctx.globalAlpha = plan.pooled ? 0.3 : 0.65;
  fillSteps(ctx, shares.top, xOf, base, profile.h - 2, model.profile.top);
  ctx.globalAlpha = 0.5;
  if (plan.pooled) fillSteps(ctx, shares.mean, xOf, base, profile.h - 2, model.profile.top);
  ctx.restore();
  ctx.fillStyle = theme.line;
  ctx.fillRect(cells.x, base, cells.w, 1);
  paintProfileWords(ctx, model, geo, theme);
}

/** Name of the profile and the value of its upper edge, in the gutter. */
function paintProfileWords(ctx, model, geo, theme) {
  const { profile, cells, fonts } = geo;
  const measure = measurer(fonts.small);
  const right = cells.x - 9;
  ctx.font = fonts.small;
  ctx.textAlign = "right";
  ctx.textBaseline = "alphabetic";
  ctx.fillStyle = theme.muted;
  const scale = formatShare(model.profile.top);
  ctx.fillText(scale, right, profile.y + 9);
  const label = model.header.profile_label || "rate";
  wrapText(label, right - 4, profile.h >= 40 ? 2 : 1, measure).forEach((line, i, lines) => {
    ctx.fillText(line, right, profile.y + profile.h - 1 - 11 * (lines.length - 1 - i));
  });
  ctx.fillStyle = theme.line;
  ctx.fillRect(cells.x - 5, profile.y + 2, 4, 1);
}

/** Name of the bars above them, its largest value at their end. */
function paintBarWords(ctx, model, geo, theme) {
  const { bars, cells, fonts } = geo;
  if (!bars) return;
  const measure = measurer(fonts.small);
  ctx.font = fonts.small;
  ctx.textBaseline = "alphabetic";
  ctx.textAlign = "left";
  ctx.fillStyle = theme.muted;
  const lines = wrapText(model.header.bar_label || "per token", bars.w + 8, geo.narrow ? 2 : 3, measure);
  lines.forEach((line, i) => ctx.fillText(line, bars.x, cells.y - 6 - 11 * (lines.length - 1 - i)));
  const y = cells.y + cells.h + 12;
  const top = formatNumber(barTop(model));
  const unit = model.header.bar_unit && model.header.bar_unit !== "1" ? ` ${model.header.bar_unit}` : "";
  if (!geo.narrow) ctx.fillText("0", bars.x, y);
  ctx.textAlign = "right";
  barScale(top, unit, bars.w + (geo.narrow ? 6 : -10), measure).forEach((line, i) => {
    const over = 6 * i; // into the margin, or the unit would reach the strip under the cells
    ctx.fillText(fitText(line, bars.w + 12, measure), bars.x + bars.w + over, y + 12 * i);
  });
}

/** The largest value of the bars with its unit, which gets a line of its own where both have no room beside the zero. */
function barScale(top, unit, room, measure) {
  return !unit || measure(top + unit) <= room ? [top + unit] : [top, unit.trim()];
}

/** Flagged neurons: a triangle each, named where the names do not collide. */
function paintMarks(ctx, model, geo, view, theme) {
  if (!model.marks.length) return;
  const measure = measurer(geo.fonts.small);
  const placed = model.marks.map((mark) => ({ ...mark, col: model.place[mark.neuron] })).sort((a, b) => a.col - b.col);
  let free = geo.cells.x;
  ctx.font = geo.fonts.small;
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  for (const mark of placed) {
    const x = columnX(geo, view, mark.col + 0.5);
    if (x < geo.cells.x || x > geo.cells.x + geo.cells.w) continue;
    ctx.fillStyle = theme.text;
    ctx.beginPath();
    ctx.moveTo(x - 3.5, geo.marksY - 3);
    ctx.lineTo(x + 3.5, geo.marksY - 3);
    ctx.lineTo(x, geo.marksY + 2.5);
    ctx.fill();
    const width = measure(mark.name);
    if (x + 6 < free || x + 6 + width > geo.cells.x + geo.cells.w) continue;
    ctx.fillText(mark.name, x + 6, geo.marksY - 1.5);
    free = x + 16 + width;
  }
}

/** Ticks of the columns: places in the order, or neuron ids where single columns have room. */
function paintAxis(ctx, model, geo, view, theme) {
  const { cells, axisY, fonts } = geo;
  const span = view.end - view.start;
  const ids = !model.order || cells.w / span >= measurer(fonts.small)(String(model.cols)) + 8;
  const step = model.order && ids ? 1 : niceStep(span, cells.w / 70, 1);
  ctx.font = fonts.small;
  ctx.textBaseline = "top";
  ctx.textAlign = "center";
  for (let col = Math.ceil(view.start / step) * step; col < view.end; col += step) {
    const x = columnX(geo, view, col + 0.5);
    if (x > cells.x + cells.w) break;
    ctx.fillStyle = theme.line;
    ctx.fillRect(Math.round(x), axisY - 2, 1, 4);
    ctx.fillStyle = theme.muted;
    const label = String(ids ? neuronAt(model, col) : col);
    const half = measurer(fonts.small)(label) / 2;
    ctx.fillText(label, Math.min(Math.max(x, cells.x + half - 4), cells.x + cells.w - half + 4), axisY + 4);
  }
  ctx.textAlign = "right";
  ctx.fillStyle = theme.muted;
  const name = ids ? "neuron" : "place in order";
  ctx.fillText(fitText(name, cells.x - 14, measurer(fonts.small)), cells.x - 9, axisY + 4);
}

/** The whole width in one strip, with the visible part as a window. */
function paintMinimap(ctx, model, geo, view, theme) {
  const { mini, cells, fonts } = geo;
  ctx.fillStyle = theme.panel;
  ctx.fillRect(mini.x, mini.y, mini.w, mini.h);
  if (model.profile) {
    const plan = bucketPlan({ start: 0, end: model.cols }, mini.w, model.cols);
    const shares = pooledProfile(model, plan);
    ctx.fillStyle = theme.line;
    const per = (plan.pooled ? plan.ratio : 1) / model.cols;
    fillSteps(ctx, shares.top, (i) => mini.x + Math.min(1, (plan.first + i) * per) * mini.w, mini.y + mini.h, mini.h, model.profile.top);
  }
  const x = mini.x + (view.start / model.cols) * mini.w;
  const w = Math.max(3, ((view.end - view.start) / model.cols) * mini.w);
  const zoom = model.cols / (view.end - view.start);
  if (zoom > 1.0001) {
    ctx.fillStyle = theme.accent;
    ctx.globalAlpha = 0.22;
    ctx.fillRect(x, mini.y, w, mini.h);
    ctx.globalAlpha = 1;
  }
  ctx.strokeStyle = zoom > 1.0001 ? theme.accent : theme.line;
  ctx.lineWidth = zoom > 1.0001 ? 1.5 : 1;
  ctx.strokeRect(x + 0.5, mini.y + 0.5, Math.max(2, w - 1), mini.h - 1);
  ctx.font = fonts.small;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  ctx.fillStyle = theme.muted;
  const label = zoom > 1.0001 ? `zoom ${formatNumber(Number(zoom.toPrecision(2)))}×` : "whole width";
  ctx.fillText(fitText(label, cells.x - 14, measurer(fonts.small)), cells.x - 9, mini.y + mini.h / 2 + 0.5);
}
