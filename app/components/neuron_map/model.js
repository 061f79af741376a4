// The numbers behind the picture. Cells are kept as one byte each, arranged in column order, so that pooling runs
// through memory in a straight line; levels are logarithms, so that products with norms become sums.

const NM_NOT_FINITE = 128;
const NM_CLIP_SHARE = 0.995;

/**
 * @param {{header: object, blocks: object}} payload
 * @param {?{order: ArrayLike<number>, id: number}} borrowed order of the map's group, for a map that brings none
 */
function buildModel(payload, borrowed) {
  const { header, blocks } = payload;
  const order = blocks.order || (borrowed && borrowed.order.length === header.cols ? borrowed.order : null);
  const model = {
    header, blocks, order,
    orderId: blocks.order ? header.order_id : order ? borrowed.id : 0,
    kind: header.kind, show: header.show, rows: header.rows, cols: header.cols,
    tokens: readTokens(header), octave: header.levels_per_octave || 11,
    place: new Int32Array(header.cols), stamp: ++buildModel.count,
  };
  for (let col = 0; col < model.cols; col++) model.place[neuronAt(model, col)] = col;
  model.cells = arrangeCells(model);
  model.profile = arrangeShares(model, blocks.profile);
  model.marks = (header.marks || []).map(([neuron, name]) => ({ neuron, name }));
  if (model.kind === "values") measureValues(model);
  else countStates(model);
  return model;
}
buildModel.count = 0;

/** The neuron id that a column shows. */
function neuronAt(model, col) {
  return model.order ? model.order[col] : col;
}

/** (rows * cols) bytes in column order: companded code, 0 / 1, or category. */
function arrangeCells(model) {
  const { rows, cols, kind, order, blocks } = model;
  const raw = blocks.cells;
  const set = kind === "set";
  if (!set && !order) return raw;
  const out = new Uint8Array(rows * cols);
  const stride = set ? Math.ceil(cols / 8) : cols;
  for (let row = 0; row < rows; row++) {
    const from = row * stride;
    const to = row * cols;
    for (let col = 0; col < cols; col++) {
      const neuron = order ? order[col] : col;
      out[to + col] = set ? (raw[from + (neuron >> 3)] >> (neuron & 7)) & 1 : raw[from + neuron];
    }
  }
  return out;
}

/** A share per neuron in column order, with its largest value; null where there is none. */
function arrangeShares(model, shares) {
  if (!shares) return null;
  const values = new Float32Array(model.cols);
  let top = 0;
  for (let col = 0; col < model.cols; col++) {
    values[col] = shares[neuronAt(model, col)];
    if (values[col] > top) top = values[col];
  }
  return { values, top: top || 1 };
}

/** Fill in what turns a code into a value: table, offsets per row and column in levels, the clip level. */
function measureValues(model) {
  const { rows, cols, octave, blocks, show } = model;
  model.table = new Float64Array(256);
  for (let code = 0; code < 256; code++) {
    const level = code & 127;
    model.table[code] = level ? (code & 128 ? -1 : 1) * 2 ** ((level - 127) / octave) : code ? NaN : 0;
  }
  model.factor = new Float64Array(rows);
  for (let row = 0; row < rows; row++) model.factor[row] = show === "relative" ? 1 / rowNorm(model, row) : blocks.scale[row];
  model.rowOffset = Float32Array.from(model.factor, (factor) => (factor > 0 ? octave * Math.log2(factor) : -1e6));
  model.colOffset = null;
  if (show === "contribution") {
    model.colOffset = new Float32Array(cols);
    for (let col = 0; col < cols; col++) {
      const norm = blocks.norms[neuronAt(model, col)];
      model.colOffset[col] = norm > 0 ? octave * Math.log2(norm) : -1e6;
    }
  }
  measureClip(model);
}

/** L2 norm of a row in units of its scale; 1 for a row of zeros, which stays zero. */
function rowNorm(model, row) {
  let sum = 0;
  const counts = levelCounts(model, row);
  for (let level = 1; level < 128; level++) sum += counts[level] * model.table[level] ** 2;
  return Math.sqrt(sum) || 1;
}

/** How often each level occurs in a row, sign left out; entry 0 counts zeros, `notFinite` the rest. */
function levelCounts(model, row) {
  const counts = new Uint32Array(256);
  const end = (row + 1) * model.cols;
  for (let i = row * model.cols; i < end; i++) counts[model.cells[i]]++;
  const levels = new Uint32Array(128);
  levels[0] = counts[0];
  for (let level = 1; level < 128; level++) levels[level] = counts[level] + counts[level + 128];
  levels.notFinite = counts[NM_NOT_FINITE];
  return levels;
}

/** The colour scale ends where 99.5 % of the non-zero cells (sink left out) end; the rest is drawn as clipped. */
function measureClip(model) {
  const histogram = new Map();
  model.notFinite = 0;
  let top = -Infinity; // of all rows, the sink's too: it may be clipped without counting
  const add = (level, count) => histogram.set(level, (histogram.get(level) || 0) + count);
  for (let row = 0; row < model.rows; row++) {
    const counts = levelCounts(model, row);
    const skipped = model.tokens[row].sink && model.rows > 1;
    const offset = model.rowOffset[row];
    model.notFinite += counts.notFinite;
    const note = (level, count) => {
      top = Math.max(top, level);
      if (!skipped) add(level, count);
    };
    if (model.colOffset) addShifted(model, row, offset, note);
    else for (let level = 1; level < 128; level++) if (counts[level]) note(Math.round(level + offset), counts[level]);
  }
  const levels = [...histogram.keys()].sort((a, b) => a - b);
  const total = levels.reduce((sum, level) => sum + histogram.get(level), 0);
  let below = 0;
  let clip = levels.length ? levels[levels.length - 1] : 127;
  const largest = clip;
  for (const level of levels) {
    below += histogram.get(level);
    if (below >= NM_CLIP_SHARE * total) {
      clip = level;
      break;
    }
  }
  if (largest - clip < 4) clip = largest; // less than a third of an octave is not worth a clipped end
  model.clipLevel = clip;
  model.clip = levels.length ? 2 ** ((clip - 127) / model.octave) : 1;
  const over = levels.reduce((sum, level) => sum + (level > clip ? histogram.get(level) : 0), 0);
  model.clippedShare = total ? over / total : 0;
  model.clips = top > clip;
}

/** Histogram of a row whose columns carry their own offsets. */
function addShifted(model, row, offset, add) {
  const bins = new Uint32Array(4096);
  const start = row * model.cols;
  for (let col = 0; col < model.cols; col++) {
    const level = model.cells[start + col] & 127;
    const shifted = level + model.colOffset[col];
    if (level && shifted > -2000 && shifted < 2000) bins[Math.round(shifted) + 2048]++;
  }
  for (let bin = 0; bin < 4096; bin++) if (bins[bin]) add(Math.round(bin - 2048 + offset), bins[bin]);
}

/** How many cells are in each state, per row and in all; for sets and comparisons. */
function countStates(model) {
  const states = model.kind === "set" ? 2 : model.header.categories.length;
  model.states = new Uint32Array(states);
  model.rowStates = new Uint32Array(states * model.rows);
  for (let row = 0; row < model.rows; row++) {
    const counts = new Uint32Array(256);
    for (let i = row * model.cols, end = i + model.cols; i < end; i++) counts[model.cells[i]]++;
    for (let state = 0; state < states; state++) {
      model.rowStates[row * states + state] = counts[state];
      model.states[state] += counts[state];
    }
  }
}
