// Where things are, in CSS pixels of the stage: gutter with tokens | cells | bars; profile above, axis and minimap below.

const NM_LABEL_ROW = 14; // a label needs this much; lower rows get every n-th label
const NM_TALL_ROW = 16;
const NM_MIN_ROW = 2;
const NM_MAX_ROW = 40;
const NM_LEAST_ROWS = 60; // the rows get this much, however little there is
const NM_MIN_SPAN = 6; // columns at the deepest zoom

/** A measuring function for a font, with a memory: labels are measured on every redraw. */
function measurer(font) {
  const ctx = (measurer.ctx = measurer.ctx || document.createElement("canvas").getContext("2d"));
  const widths = (measurer.fonts[font] = measurer.fonts[font] || new Map());
  return (text) => {
    let width = widths.get(text);
    if (width === undefined) {
      ctx.font = font;
      width = ctx.measureText(text).width;
      if (widths.size < 20000) widths.set(text, width);
    }
    return width;
  };
}
measurer.fonts = {};

/** The fonts of the map, from the page's families. */
function mapFonts(theme) {
  return {
    token: `11px ${theme.mono}`, small: `10px ${theme.font}`, text: `11px ${theme.font}`,
    bold: `600 11px ${theme.font}`, title: `600 14px ${theme.font}`,
  };
}

/** Widths of the gutter's two columns: position number and token. */
function gutterWidths(model, fonts, narrow) {
  const small = measurer(fonts.small);
  const token = measurer(fonts.token);
  const numbers = Math.max(...model.tokens.map((each) => small(String(each.position))));
  const most = narrow ? 76 : 136;
  let words = narrow ? 30 : 70; // the names of the axes stand in this column too
  for (const each of model.tokens) words = Math.max(words, Math.min(most, token(each.label)));
  return { numbers: Math.ceil(numbers), words: Math.ceil(words), all: Math.ceil(numbers + words) + 22 };
}

/**
 * Lay the map out.
 * @param {object} model
 * @param {number} width CSS pixels
 * @param {number} height CSS pixels
 * @param {{fonts: object, tall: boolean}} options
 */
function layoutMap(model, width, height, { fonts, tall }) {
  const narrow = width < 560;
  const stacked = width < 900; // the legend's scale below its note instead of beside it
  const gutter = gutterWidths(model, fonts, narrow);
  const bars = model.blocks.bars ? { w: narrow ? 30 : 76 } : null;
  const gap = model.marks.length ? 15 : 10; // room for marks, or for the upper half of the first label
  const top = (model.profile ? (narrow ? 30 : 36) : bars ? 26 : 0) + gap;
  const bottom = 17 + 16 + legendHeight(model, width, fonts, stacked ? (narrow ? 8 : gutter.all) : null);
  const rows = rowHeight(model, height - top - bottom, tall);
  const right = (bars ? bars.w + 8 : 0) + (rows.scrolls ? 14 : 8);
  const cells = { x: gutter.all, y: top, w: Math.max(40, width - gutter.all - right), h: rows.visible };
  if (bars) bars.x = cells.x + cells.w + 8;
  const below = cells.y + cells.h;
  return {
    width, height, narrow, stacked, gutter, cells, bars, fonts,
    rowH: rows.height, contentH: rows.height * model.rows, scrolls: rows.scrolls, canGrow: rows.canGrow,
    profile: model.profile ? { y: 1, h: top - gap - 1 } : null,
    marksY: cells.y - 4, axisY: below + 3,
    mini: { x: cells.x, y: below + 20, w: cells.w, h: 10 },
    legendY: below + 39,
    least: top + bottom + Math.min(NM_LEAST_ROWS, NM_MAX_ROW * model.rows),
  };
}

/** Height of the legend's band. `left` = where it begins if the note stands above the scale, null if beside it. */
function legendHeight(model, width, fonts, left) {
  if (left === null) return 34;
  if (model.kind !== "compare") return 66;
  return 38 + 17 * placeCategories(model, fonts, left, width).lines;
}

/** Row height and the part of the rows that is visible at once. */
function rowHeight(model, space, tall) {
  const room = Math.max(NM_LEAST_ROWS, space);
  const fitting = room / model.rows;
  const wanted = tall ? Math.max(fitting, NM_TALL_ROW) : fitting;
  const height = Math.min(NM_MAX_ROW, Math.max(NM_MIN_ROW, wanted));
  const content = height * model.rows;
  const scrolls = content > room + 0.5;
  const visible = scrolls ? Math.max(1, Math.floor(room / height)) * height : content; // no row is cut in half
  return { height, visible, scrolls, canGrow: fitting < NM_LABEL_ROW };
}

/** Left edge of a column on the stage. */
function columnX(geo, view, col) {
  return geo.cells.x + ((col - view.start) / (view.end - view.start)) * geo.cells.w;
}

/** The (fractional) column under an x of the stage. */
function columnAt(geo, view, x) {
  return view.start + ((x - geo.cells.x) / geo.cells.w) * (view.end - view.start);
}

/** Top edge of a row on the stage. */
function rowY(geo, scroll, row) {
  return geo.cells.y + row * geo.rowH - scroll;
}

/** The row under a y of the stage, kept inside. */
function rowAt(geo, scroll, y, rows) {
  return Math.min(rows - 1, Math.max(0, Math.floor((y - geo.cells.y + scroll) / geo.rowH)));
}

/** First and last visible row, [from, to). */
function visibleRows(geo, scroll, rows) {
  const from = Math.max(0, Math.floor(scroll / geo.rowH));
  return [from, Math.min(rows, Math.ceil((scroll + geo.cells.h) / geo.rowH))];
}

/** Rows whose label is drawn: all where there is room, else every n-th. */
function labelStep(geo) {
  return Math.max(1, Math.ceil(NM_LABEL_ROW / geo.rowH));
}

/** A view of `span` columns that keeps `anchor` (a column) at the same share of the width. */
function zoomedView(view, factor, anchor, cols) {
  const span = Math.min(cols, Math.max(Math.min(NM_MIN_SPAN, cols), (view.end - view.start) * factor));
  const share = (anchor - view.start) / (view.end - view.start);
  return clampView(anchor - share * span, span, cols);
}

/** A view of `span` columns from `start`, kept inside. */
function clampView(start, span, cols) {
  const first = Math.min(Math.max(0, start), cols - span);
  return { start: first, end: first + span };
}

/** Which part of the map a point of the stage lies in. */
function regionAt(geo, x, y) {
  const { cells, mini, bars, profile } = geo;
  const inColumns = x >= cells.x && x < cells.x + cells.w;
  if (y >= cells.y && y < cells.y + cells.h) {
    if (inColumns) return "cells";
    if (x < cells.x) return "gutter";
    return bars && x >= bars.x && x < bars.x + bars.w ? "bars" : "none";
  }
  if (inColumns && y >= mini.y - 4 && y <= mini.y + mini.h + 4) return "mini";
  if (inColumns && profile && y < cells.y) return "profile";
  return "none";
}
