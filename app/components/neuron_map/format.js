// Words and numbers: visible token text, three significant digits, ticks.

const NM_VISIBLE = { " ": "·", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };
// Controls, format and direction marks would vanish or turn the text around them; they are spelt out (joiners of
// emoji excepted). The same signs as in moyu_core.figures.text.
const NM_HIDDEN = /(?!\u200d)[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;

/** Token text with every invisible character made visible. */
function visibleText(text) {
  const shown = text.replace(/[ \n\r\t\u00a0]/g, (mark) => NM_VISIBLE[mark]);
  return shown.replace(NM_HIDDEN, (mark) => `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`) || "∅";
}

/** A count with thin spaces between thousands: 11 008. */
function formatCount(count) {
  return String(Math.round(count)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u2009");
}

/** A number with at most three significant digits, without trailing zeros, with a true minus sign. */
function formatNumber(value) {
  if (!Number.isFinite(value)) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size >= 1e7 || size < 1e-3) {
    const [digits, power] = size.toExponential(2).split("e");
    text = `${Number(digits)}×10${superscript(Number(power))}`;
  } else {
    text = size >= 999.5 ? formatCount(Number(size.toPrecision(3))) : String(Number(size.toPrecision(3)));
  }
  return (value < 0 ? "−" : "") + text;
}

/** An integer as an exponent. */
function superscript(power) {
  return String(power).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
}

/** A share in [0, 1] as per cent with at most three significant digits. */
function formatShare(share) {
  return `${formatNumber(share * 100)} %`;
}

/** "1 neuron", "8 neurons". */
function plural(count, word) {
  return `${formatCount(count)} ${word}${count === 1 ? "" : "s"}`;
}

/** A value with its unit; "1" and "" are shares or counts without one. */
function withUnit(value, unit) {
  const text = formatNumber(value);
  return unit && unit !== "1" ? `${text} ${unit}` : text;
}

/** Round steps (1, 2, 5 times a power of ten) that give at most `most` ticks over `span`, and never less than `least`. */
function niceStep(span, most, least = 0) {
  const raw = Math.max(span / Math.max(1, most), least, Number.MIN_VALUE);
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw * 0.999999);
}

/** What the cells show, as a formula. */
function shownFormula(show) {
  return { signed: "a", abs: "|a|", contribution: "|a|·c", relative: "|a| / ‖a‖" }[show] || "";
}

/** The unit of the cells; one that only repeats the formula says nothing. */
function shownUnit(header) {
  return header.unit && header.unit !== "1" && header.unit !== shownFormula(header.show) ? header.unit : "";
}

/** "1 536 neurons by rate", whether or not the label of the order says what is ordered. */
function orderedNeurons(header) {
  const label = header.order_label || "";
  if (label.startsWith("neurons ")) return `${formatCount(header.cols)} ${label}`;
  return `${plural(header.cols, "neuron")}${label && `, ${label}`}`;
}

/** What the values are: in the page's own words, as those of a difference, or as a formula. */
function shownName(header) {
  return header.value_label || shownFormula(header.show);
}

/** The words of the colour legend: name and unit. */
function shownLabel(header) {
  const unit = shownUnit(header);
  return `${shownName(header)}${unit && ` (${unit})`}`;
}

/** How many neurons share a pixel and which of them is seen; "" where each has its own. */
function poolingNote(header, perPixel) {
  if (perPixel <= 1) return "every neuron shown";
  const many = `${perPixel === Math.round(perPixel) ? "" : "up to "}${Math.ceil(perPixel)} neurons a pixel`;
  if (header.kind === "values") return `${many}, strongest shown`;
  if (header.kind === "set") return `${many}, stronger tone = more of them active`;
  return `${many}, ${header.categories[0][0]} before ${header.categories[1][0]} shown`;
}

/** Cut a text to a width, with an ellipsis. `measure` gives the width of a text. */
function fitText(text, width, measure) {
  if (measure(text) <= width) return text;
  const letters = Array.from(text); // by code point: half a surrogate pair is not a letter
  let low = 0;
  let high = letters.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (measure(`${letters.slice(0, middle).join("")}…`) <= width) low = middle;
    else high = middle - 1;
  }
  return low ? `${letters.slice(0, low).join("")}…` : "";
}

/** Break a text into at most `most` lines of a width; the last one is cut. */
function wrapText(text, width, most, measure) {
  const lines = [];
  let line = "";
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const longer = line ? `${line} ${word}` : word;
    if (!line || measure(longer) <= width) line = longer;
    else {
      lines.push(line);
      line = word;
    }
  }
  if (line) lines.push(line);
  const kept = lines.slice(0, most);
  if (lines.length > most) kept[most - 1] = lines.slice(most - 1).join(" ");
  return kept.map((part) => fitText(part, width, measure));
}
