// Colours: theme from the page, viridis for magnitude, red-blue for sign, two tones for sets, tones for comparisons.

const NM_VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const NM_BLUES = {
  light: ["#f7f7f7", "#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#0f4383"],
  dark: ["#1d2430", "#24426b", "#2b62a8", "#3f86e0", "#6aa9f7", "#9fcbff"],
};
const NM_REDS = {
  light: ["#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#8a0d22"],
  dark: ["#1d2430", "#642b30", "#a03733", "#de5a49", "#f5816a", "#ffb09c"],
};
// Hit, miss and false alarm, and stay, out and in, differ in lightness too: grey tells them apart where a cell is too narrow for its mark.
const NM_TONES = {
  light: { hit: "#0a5745", miss: "#c65a10", false_alarm: "#9a86e0", stay: "#23568f", out: "#e3a932", in: "#c2508b" },
  dark: { hit: "#7fe9cb", miss: "#e47b2c", false_alarm: "#7d60cc", stay: "#a9cdfb", out: "#b07a12", in: "#ec7fb5" },
};
const NM_ACTIVE = { light: "#1b4f9c", dark: "#8cb8ff" };
const NM_NAN = "#ff2fd0"; // in none of the scales, so it cannot be taken for a value

/** Any CSS colour as [r, g, b]; the browser does the parsing. */
function parseColour(css) {
  const known = parseColour.cache.get(css);
  if (known) return known;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const ctx = canvas.getContext("2d", { willReadFrequently: true });
  ctx.fillStyle = "#808080";
  ctx.fillStyle = css;
  ctx.fillRect(0, 0, 1, 1);
  const rgb = [...ctx.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  parseColour.cache.set(css, rgb);
  return rgb;
}
parseColour.cache = new Map();

/** [r, g, b] as CSS. */
function cssColour([r, g, b], alpha = 1) {
  return `rgba(${Math.round(r)},${Math.round(g)},${Math.round(b)},${alpha})`;
}

/** t of the way from one colour to another. */
function mixColours(from, to, t) {
  return from.map((part, i) => part + (to[i] - part) * t);
}

/** The colour at t in [0, 1] of a list of evenly spaced stops. */
function rampColour(stops, t) {
  const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
  const first = Math.min(Math.floor(at), stops.length - 2);
  return mixColours(parseColour(stops[first]), parseColour(stops[first + 1]), at - first);
}

/** One pixel of ImageData as a 32-bit number (every machine that runs a browser is little-endian). */
function packColour([r, g, b]) {
  return ((255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;
}

/** Colours and fonts of the page, read from its CSS variables; `id` changes when any of them does. */
function readTheme(root) {
  const style = getComputedStyle(root);
  const value = (name, fallback) => {
    const text = style.getPropertyValue(name).trim();
    return text && text !== "unset" ? text : fallback;
  };
  const text = parseColour(value("--st-text-color", "#1a1c21"));
  const back = parseColour(value("--st-background-color", "#ffffff"));
  const dark = luminance(back) < 0.4;
  const theme = {
    dark, text: cssColour(text), back: cssColour(back), backRgb: back,
    muted: cssColour(mixColours(text, back, 0.36)),
    faint: cssColour(mixColours(text, back, 0.82)),
    line: cssColour(mixColours(text, back, 0.6)),
    accent: cssColour(parseColour(value("--st-primary-color", "#0b57d0"))),
    panel: cssColour(mixColours(text, back, dark ? 0.9 : 0.94)),
    panelRgb: mixColours(text, back, dark ? 0.9 : 0.94),
    font: value("--st-font", "system-ui, sans-serif"),
    mono: value("--st-code-font", "ui-monospace, monospace"),
  };
  theme.id = [theme.text, theme.back, theme.accent, theme.font].join("|");
  return theme;
}

/** Relative brightness of a colour, 0 to 1. */
function luminance([r, g, b]) {
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}

/** Colour at t in [-1, 1] of the scale of values; negative only for signed maps. */
function valueColour(show, t, dark) {
  if (show !== "signed") return rampColour(NM_VIRIDIS, t);
  const side = t < 0 ? NM_BLUES : NM_REDS;
  return rampColour(dark ? side.dark : side.light, Math.abs(t));
}

/**
 * Colours of the 127 levels below the clip level, for either sign, as pixels. The scale is a square root, which lifts
 * small values out of the dark: t = sqrt(value / clip).
 */
function valueLut(model, theme) {
  const lut = new Uint32Array(256);
  for (let level = 1; level < 128; level++) {
    const t = 2 ** ((level - 127) / (2 * model.octave));
    lut[level] = packColour(valueColour(model.show, t, theme.dark));
    lut[level + 128] = packColour(valueColour(model.show, model.show === "signed" ? -t : t, theme.dark));
  }
  lut[0] = packColour(valueColour(model.show, 0, theme.dark));
  lut[NM_NOT_FINITE] = packColour(parseColour(NM_NAN));
  return lut;
}

/** Tone of a set pixel in which a share of the neurons is active; one active neuron is always seen. */
function setColour(share, theme) {
  const active = parseColour(theme.dark ? NM_ACTIVE.dark : NM_ACTIVE.light);
  return share > 0 ? mixColours(theme.panelRgb, active, 0.2 + 0.8 * share) : theme.panelRgb;
}

/** Pixels of 0..64 sixty-fourths of a pixel's neurons active. */
function setLut(theme) {
  return Uint32Array.from({ length: 65 }, (_, i) => packColour(setColour(i / 64, theme)));
}

/** Tone of a category of a comparison. */
function categoryColour(category, theme) {
  const tone = (theme.dark ? NM_TONES.dark : NM_TONES.light)[category[1]];
  return tone ? parseColour(tone) : theme.panelRgb;
}
