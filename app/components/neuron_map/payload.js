// Reading the bytes that moyu_core.figures.map_payload writes: header, blocks, tokens. Throws an Error whose message
// can be shown; what is drawn later may rely on every shape checked here.

const NM_VERSION = 1;
const NM_BYTES = { u8: 1, u16: 2, u32: 4, f16: 2, f32: 4 };

/** Fail with a sentence fit to be shown. */
function nmFail(sentence) {
  throw new Error(sentence);
}

/**
 * Split a payload into its header and typed blocks.
 * @param {Uint8Array|ArrayBuffer} data
 * @returns {{header: object, blocks: Object<string, ArrayLike<number>>}}
 */
function readPayload(data) {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
  if (!(bytes instanceof Uint8Array) || bytes.length < 8) nmFail("This map received no data.");
  if (String.fromCharCode(...bytes.subarray(0, 4)) !== "MOYU") nmFail("The data of this map are damaged: wrong start.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = 8 + view.getUint32(4, true);
  if (start > bytes.length) nmFail("The data of this map are damaged: the header is cut off.");
  const header = parseHeader(bytes.subarray(8, start));
  const blocks = {};
  for (const [name, block] of Object.entries(header.blocks || {})) blocks[name] = readBlock(bytes, start, name, block);
  checkShapes(header, blocks);
  return { header, blocks };
}

/** Parse the JSON header; an unknown version is named, so that an old page beside a new server explains itself. */
function parseHeader(bytes) {
  let header = null;
  try {
    header = JSON.parse(new TextDecoder("utf-8").decode(bytes));
  } catch {
    nmFail("The data of this map are damaged: the header is not readable.");
  }
  if (!header || header.version !== NM_VERSION) {
    nmFail(`This map was made for version ${header && header.version}, this page draws version ${NM_VERSION}: reload the page.`);
  }
  if (!["values", "set", "compare"].includes(header.kind)) nmFail(`This page cannot draw a map of kind "${header.kind}".`);
  return header;
}

/** One block as a typed array; copied, because a block may start at an odd address of the message it came in. */
function readBlock(bytes, start, name, block) {
  const size = NM_BYTES[block.dtype];
  const first = start + block.offset;
  if (!size || !(block.length >= 0) || first + block.length > bytes.length || block.length % size) {
    nmFail(`The data of this map are damaged: block "${name}" is cut off.`);
  }
  const copy = bytes.slice(first, first + block.length);
  if (block.dtype === "u8") return copy;
  if (block.dtype === "f16") return halfToSingle(new Uint16Array(copy.buffer));
  const Type = { u16: Uint16Array, u32: Uint32Array, f32: Float32Array }[block.dtype];
  return new Type(copy.buffer);
}

/** Half to single precision; Float16Array is too new to rely on. */
function halfToSingle(halves) {
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const h = halves[i];
    const exponent = (h >> 10) & 31;
    const fraction = h & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    out[i] = (h & 32768 ? -1 : 1) * (exponent === 31 ? (fraction ? NaN : Infinity) : size);
  }
  return out;
}

/** Every block has the length that rows and columns ask for. */
function checkShapes(header, blocks) {
  const { rows, cols, kind } = header;
  if (!(rows > 0 && cols > 0)) nmFail("The data of this map are damaged: it has no rows or no columns.");
  const cells = rows * (kind === "set" ? Math.ceil(cols / 8) : cols);
  const expected = { cells, scale: rows, bars: rows, norms: cols, order: cols, profile: cols, rates: cols };
  for (const [name, array] of Object.entries(blocks)) {
    if (name in expected && array.length !== expected[name]) {
      nmFail(`The data of this map are damaged: block "${name}" has ${array.length} entries, expected ${expected[name]}.`);
    }
  }
  if (!blocks.cells) nmFail("The data of this map are damaged: the cells are missing.");
  if (kind === "values" && !blocks.scale) nmFail("The data of this map are damaged: the scale is missing.");
  if (header.show === "contribution" && !blocks.norms) nmFail("The data of this map are damaged: the norms are missing.");
  if (kind === "compare" && !(header.categories || []).length) nmFail("The data of this map are damaged: no categories.");
  if (!header.tokens || (header.tokens.text || []).length !== rows) nmFail("The data of this map are damaged: tokens are missing.");
  if (blocks.order) checkOrder(blocks.order, cols);
}

/** An order that is no permutation would show some neurons twice and hide others. */
function checkOrder(order, cols) {
  const seen = new Uint8Array(cols);
  for (let i = 0; i < cols; i++) {
    if (order[i] >= cols || seen[order[i]]) nmFail("The data of this map are damaged: the order of the columns is no order.");
    seen[order[i]] = 1;
  }
}

/**
 * The tokens as one list of records.
 * @returns {{text: string, label: string, position: number, id: (number|null), sink: boolean}[]}
 */
function readTokens(header) {
  const { text, position, first = 0, id, sink = [] } = header.tokens;
  const sinks = new Set(sink);
  return text.map((raw, row) => ({
    text: raw,
    label: visibleText(raw),
    position: position ? position[row] : first + row,
    id: id ? id[row] : null,
    sink: sinks.has(row),
  }));
}
