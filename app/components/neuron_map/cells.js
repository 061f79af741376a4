// One cell: its value, rank and words; the strongest cell of a pixel.

/** The neurons that share a pixel: columns [from, to). */
function strongestIn(model, row, from, to) {
  const { cells, cols, colOffset, kind } = model;
  const start = row * cols;
  let best = from;
  let bestLevel = -Infinity;
  for (let col = from; col < to; col++) {
    const code = cells[start + col];
    if (kind === "values" && code === NM_NOT_FINITE) return col; // never hidden by a neighbour
    const level = levelOf(kind, code) + (colOffset && code ? colOffset[col] : 0);
    if (level > bestLevel) {
      bestLevel = level;
      best = col;
    }
  }
  return best;
}

/** What is compared in a pixel: the companded level, active over inactive, the first category over later ones. */
function levelOf(kind, code) {
  return kind === "values" ? code & 127 : kind === "set" ? code : -code;
}

/** The shown value of a cell (kind values): a, |a|, |a|*c or |a| / norm. */
function cellValue(model, row, col) {
  const raw = model.table[model.cells[row * model.cols + col]] * model.factor[row];
  const norm = model.colOffset ? model.blocks.norms[neuronAt(model, col)] : 1;
  return model.show === "signed" ? raw : Math.abs(raw) * norm;
}

/** Logarithmic level of a cell, -Infinity for zero. */
function cellLevel(model, row, col) {
  const level = model.cells[row * model.cols + col] & 127;
  return level ? level + model.rowOffset[row] + (model.colOffset ? model.colOffset[col] : 0) : -Infinity;
}

/** 1 = the largest magnitude of its row; equal values share the better rank. */
function cellRank(model, row, col) {
  const { cells, cols, colOffset } = model;
  const own = cellLevel(model, row, col) - model.rowOffset[row];
  const start = row * cols;
  let larger = 0;
  for (let other = 0; other < cols; other++) {
    const level = cells[start + other] & 127;
    if (level && level + (colOffset ? colOffset[other] : 0) > own + 1e-4) larger++;
  }
  return larger + 1;
}

/** Marks of a cell that its colour alone does not tell. */
function cellFlags(model, row, col) {
  const notFinite = model.kind === "values" && model.cells[row * model.cols + col] === NM_NOT_FINITE;
  const clipped = model.kind === "values" && !notFinite && cellLevel(model, row, col) > model.clipLevel + 0.5;
  return { notFinite, clipped };
}

/** The state of a cell in words: "≈ 0.127 activation", "active", "miss". */
function cellState(model, row, col) {
  const code = model.cells[row * model.cols + col];
  if (model.kind === "set") return code ? "active" : "not active";
  if (model.kind === "compare") return model.header.categories[code][0];
  if (code === NM_NOT_FINITE) return "not finite (NaN or infinite)";
  const value = cellValue(model, row, col);
  return `${value ? "≈ " : ""}${withUnit(value, shownUnit(model.header))}`;
}

/** Where the cell stands in its row, as label and value. */
function cellStanding(model, row, col) {
  if (model.kind === "values") {
    if (model.cells[row * model.cols + col] === NM_NOT_FINITE) return null;
    return ["rank", `${formatCount(cellRank(model, row, col))} of ${formatCount(model.cols)} in this row`];
  }
  const states = model.states.length;
  const state = model.kind === "set" ? 1 : model.cells[row * model.cols + col];
  const count = model.rowStates[row * states + state];
  const word = model.kind === "set" ? "active" : model.header.categories[state][0];
  return ["row", `${formatCount(count)} of ${formatCount(model.cols)} ${word}`];
}

/** Shares of a neuron, as label and value pairs. */
function neuronShares(model, neuron) {
  const { header, blocks } = model;
  const shares = [];
  if (blocks.profile) shares.push([header.profile_label || "rate", formatShare(blocks.profile[neuron])]);
  if (blocks.rates) shares.push([header.rates_label || "rate in the run", formatShare(blocks.rates[neuron])]);
  return shares;
}

/** How the told cell was chosen among those of its pixel, the columns [from, to). */
function pixelNote(model, row, [from, to]) {
  const shared = to - from;
  if (model.kind === "values") return `strongest of ${shared} neurons in this pixel`;
  if (model.kind === "compare") return `one of ${shared} neurons in this pixel`;
  let active = 0;
  for (let col = from; col < to; col++) active += model.cells[row * model.cols + col];
  return `${active} of ${shared} neurons in this pixel active`;
}

/**
 * Everything that is said about a cell, for the tooltip and for the live region; `pixel` = columns sharing its pixel.
 * @returns {{token: string, lines: string[][], notes: string[], spoken: string}}
 */
function describeCell(model, row, col, pixel) {
  const token = model.tokens[row];
  const neuron = neuronAt(model, col);
  const name = model.marks.find((mark) => mark.neuron === neuron);
  const flags = cellFlags(model, row, col);
  const valueName = model.kind === "values" ? shownName(model.header) : "state";
  const lines = [
    ["neuron", `${neuron}${name ? ` · ${name.name}` : ""}`],
    [valueName, cellState(model, row, col)],
  ];
  const standing = cellStanding(model, row, col);
  if (standing) lines.push(standing);
  lines.push(...neuronShares(model, neuron));
  const bar = model.blocks.bars && model.blocks.bars[row];
  if (Number.isFinite(bar)) lines.push([model.header.bar_label || "token", withUnit(bar, model.header.bar_unit)]);
  const notes = [];
  if (pixel && pixel[1] - pixel[0] > 1) notes.push(pixelNote(model, row, pixel));
  if (flags.clipped) notes.push("above the colour scale");
  if (token.sink) notes.push("sink token, left out of the statistics");
  const said = lines.map((pair) => pair.filter(Boolean).join(" "));
  const spoken = [`token ${token.label}`, `position ${token.position}`, ...said, ...notes].join(", ");
  return { token, lines, notes, spoken };
}
