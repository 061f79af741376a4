// From cells to pixels: every neuron of a pixel is looked at and the strongest is drawn, so none is lost by sampling.

/**
 * How columns fall on pixels. Buckets start at multiples of `ratio`, not at the left edge, so that the picture does
 * not shimmer while it is dragged.
 * @param {{start: number, end: number}} view visible columns
 * @param {number} width device pixels
 */
function bucketPlan(view, width, cols) {
  const ratio = (view.end - view.start) / width; // columns a device pixel
  if (ratio <= 1) {
    const first = Math.max(0, Math.floor(view.start));
    const last = Math.min(cols, Math.ceil(view.end));
    return { ratio, pooled: false, first, count: last - first, perPixel: 1 };
  }
  const first = Math.max(0, Math.floor(view.start / ratio + 1e-9));
  const last = Math.min(Math.floor((cols - 0.5) / ratio + 1e-6) + 1, Math.ceil(view.end / ratio - 1e-9));
  return { ratio, pooled: true, first, count: last - first, perPixel: Number(ratio.toFixed(3)) };
}

/** First column of a bucket: a column belongs to the pixel in which its middle lies. */
function bucketStart(bucket, ratio) {
  return Math.ceil(bucket * ratio - 0.5 - 1e-6);
}

/** First column of each bucket and the end of the last: count + 1 numbers. */
function bucketEdges(plan, cols) {
  const edges = new Int32Array(plan.count + 1);
  for (let i = 0; i <= plan.count; i++) {
    const at = plan.pooled ? bucketStart(plan.first + i, plan.ratio) : plan.first + i;
    edges[i] = Math.min(cols, at);
  }
  return edges;
}

/** The columns [from, to) that share the pixel of a (fractional) column. */
function bucketAt(plan, column, cols) {
  const clamp = (value) => Math.min(cols, Math.max(0, value));
  if (!plan.pooled) return [clamp(Math.floor(column)), clamp(Math.floor(column) + 1)];
  const bucket = Math.floor(column / plan.ratio + 1e-9);
  const from = clamp(bucketStart(bucket, plan.ratio));
  return [from, Math.max(from + 1, clamp(bucketStart(bucket + 1, plan.ratio)))];
}

/** One pixel a bucket and row of a map of values. */
function poolValues(model, edges, lut, out) {
  const { cells, cols, rows, colOffset, rowOffset, clipLevel } = model;
  const width = edges.length - 1;
  for (let row = 0; row < rows; row++) {
    const start = row * cols;
    const shift = rowOffset[row] - clipLevel + 127.5;
    for (let x = 0; x < width; x++) {
      let best = 0;
      let top = -1e9;
      let index = 0;
      for (let i = start + edges[x], end = start + edges[x + 1]; i < end; i++) {
        const code = cells[i];
        const level = code & 127;
        if (level === 0) {
          if (code !== NM_NOT_FINITE) continue;
          best = code;
          break;
        }
        const at = colOffset === null ? level : level + colOffset[i - start];
        if (at > top) {
          top = at;
          best = code;
        }
      }
      if (best !== 0 && best !== NM_NOT_FINITE) {
        index = Math.min(127, Math.max(0, Math.floor(top + shift)));
        if (index) index |= best & 128;
      } else index = best;
      out[row * width + x] = lut[index];
    }
  }
}

/** Set: tone by the share of the bucket that is active. */
function poolSet(model, edges, lut, out) {
  const { cells, cols, rows } = model;
  const width = edges.length - 1;
  for (let row = 0; row < rows; row++) {
    const start = row * cols;
    for (let x = 0; x < width; x++) {
      let active = 0;
      const from = start + edges[x];
      const to = start + edges[x + 1];
      for (let i = from; i < to; i++) active += cells[i];
      out[row * width + x] = lut[active ? Math.max(1, Math.round((64 * active) / (to - from))) : 0];
    }
  }
}

/** Comparison: the first category that occurs in the bucket. */
function poolStates(model, edges, lut, out) {
  const { cells, cols, rows } = model;
  const width = edges.length - 1;
  for (let row = 0; row < rows; row++) {
    const start = row * cols;
    for (let x = 0; x < width; x++) {
      let first = 255;
      for (let i = start + edges[x], end = start + edges[x + 1]; i < end; i++) if (cells[i] < first) first = cells[i];
      out[row * width + x] = lut[first];
    }
  }
}

/** Colours by code for the kind of map; remembered until model or theme change. */
function coloursOf(model, theme) {
  const id = `${model.stamp}|${theme.id}`;
  if (model.colours && model.colours.id === id) return model.colours.lut;
  let lut = null;
  if (model.kind === "values") lut = valueLut(model, theme);
  else if (model.kind === "set") lut = setLut(theme);
  else lut = Uint32Array.from(model.header.categories, (category) => packColour(categoryColour(category, theme)));
  model.colours = { id, lut };
  return lut;
}

/**
 * The visible columns of all rows as a canvas of one pixel a bucket and row, from `cache` when nothing changed.
 * @returns {{plan: object, canvas: HTMLCanvasElement}}
 */
function pooledImage(model, view, width, theme, cache) {
  const key = [model.stamp, theme.id, view.start, view.end, width].join("|");
  if (cache.key === key) return cache;
  const plan = bucketPlan(view, width, model.cols);
  const edges = bucketEdges(plan, model.cols);
  const canvas = cache.canvas || document.createElement("canvas");
  if (canvas.width !== plan.count) canvas.width = plan.count;
  if (canvas.height !== model.rows) canvas.height = model.rows;
  const ctx = canvas.getContext("2d");
  const image = ctx.createImageData(plan.count, model.rows);
  const out = new Uint32Array(image.data.buffer);
  const pool = { values: poolValues, set: poolSet, compare: poolStates }[model.kind];
  pool(model, edges, coloursOf(model, theme), out);
  ctx.putImageData(image, 0, 0);
  return Object.assign(cache, { key, plan, canvas });
}

/** The largest and the mean share of each bucket, for the profile on top. */
function pooledProfile(model, plan) {
  const edges = bucketEdges(plan, model.cols);
  const top = new Float32Array(plan.count);
  const mean = new Float32Array(plan.count);
  for (let x = 0; x < plan.count; x++) {
    let sum = 0;
    for (let col = edges[x]; col < edges[x + 1]; col++) {
      const value = model.profile.values[col];
      sum += value;
      if (value > top[x]) top[x] = value;
    }
    mean[x] = sum / Math.max(1, edges[x + 1] - edges[x]);
  }
  return { top, mean };
}
