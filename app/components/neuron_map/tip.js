// Words about cells in the page itself: tooltip, status line with pins and brush, live region. Only textContent is
// ever set, so a token cannot bring markup along.

/** An element with a class and a text. */
function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Fill the tooltip with a cell and put it beside the pointer. */
function showTip(m, x, y) {
  const { tip } = m.el;
  const { row, col, pixel } = m.hover;
  const { token, lines, notes } = describeCell(m.model, row, col, pixel);
  const head = make("div", "nm-tip-head");
  head.append(make("code", "", token.label), make("span", "", tokenPlace(token)));
  const table = make("dl");
  for (const [name, value] of lines) table.append(make("dt", "", name), make("dd", "", value));
  tip.replaceChildren(head, table, ...notes.map((note) => make("p", "", note)));
  if (m.touch) tip.append(make("p", "", isPinned(m, row, neuronAt(m.model, col)) ? "tap again to unpin" : "tap again to pin"));
  tip.hidden = false;
  placeTip(m, x, y);
}

/** "position 12, id 734". */
function tokenPlace(token) {
  return `position ${token.position}${token.id === null ? "" : ` · id ${token.id}`}`;
}

/** Beside the pointer, on the side where there is room, never outside the map. */
function placeTip(m, x, y) {
  const { tip, stage, root } = m.el;
  const offset = stage.offsetTop;
  const width = tip.offsetWidth;
  const height = tip.offsetHeight;
  const left = x + 18 + width < root.clientWidth ? x + 18 : Math.max(4, x - 18 - width);
  const lowest = root.clientHeight - height - 4;
  const top = Math.min(lowest, Math.max(4, offset + y + 16 + height < root.clientHeight ? offset + y + 16 : offset + y - height - 14));
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

/** Take the crosshair and the tooltip away. */
function clearHover(m) {
  if (!m.hover) return;
  m.hover = null;
  m.el.tip.hidden = true;
  postGroup(m, "cross", { neuron: -1, position: null });
  requestPaint(m, false);
}

/**
 * Move the crosshair to a cell; `pixel` = the columns [from, to) that share its pixel.
 * @param {{x: number, y: number, speak: boolean}} how where the tooltip goes; whether the live region says it
 */
function setHover(m, row, col, pixel, how) {
  m.hover = { row, col, pixel };
  const neuron = neuronAt(m.model, col);
  showTip(m, how.x, how.y);
  if (how.speak) say(m, describeCell(m.model, row, col, pixel).spoken);
  postGroup(m, "cross", { neuron, position: m.model.tokens[row].position });
  requestPaint(m, false);
}

/** Let the live region read a sentence. */
function say(m, sentence) {
  m.el.live.textContent = sentence;
}

/** Whether a cell is pinned. */
function isPinned(m, row, neuron) {
  return m.pins.some((pin) => pin.row === row && pin.neuron === neuron);
}

/** Pin a cell, or unpin it; the first pin stays as the reference, a third replaces the second. */
function togglePin(m, row, neuron) {
  if (isPinned(m, row, neuron)) m.pins = m.pins.filter((pin) => pin.row !== row || pin.neuron !== neuron);
  else m.pins = [...m.pins.slice(0, NM_PIN_NAMES.length - 1), { row, neuron }];
  afterPins(m);
  const cell = describeCell(m.model, row, m.model.place[neuron], null);
  say(m, `${isPinned(m, row, neuron) ? "pinned" : "unpinned"}: ${cell.spoken}`);
}

/** Show and send the pins. */
function afterPins(m) {
  renderStatus(m);
  sendLater(m, "pins", m.pins.map((pin) => [pin.row, pin.neuron]));
  requestPaint(m, false);
}

/** Set the brushed columns [from, to), or null. */
function setBrush(m, range) {
  m.brush = range;
  renderStatus(m);
  sendLater(m, "brush", range);
  requestPaint(m, false);
}

/** The line under the map: pins, their comparison, the brush; or how to use the map. */
function renderStatus(m) {
  const { status } = m.el;
  const parts = m.pins.map((pin, i) => pinChip(m, pin, NM_PIN_NAMES[i]));
  if (m.pins.length === 2) parts.push(make("span", "nm-compare", comparePins(m)));
  if (m.brush) parts.push(brushChip(m));
  if (!parts.length) {
    const mouse = "Hover for values · click to pin, twice to compare · wheel zooms, drag pans · shift-drag brushes";
    const touch = "Tap for values, tap again to pin · pinch to zoom, drag to pan";
    parts.push(make("span", "nm-hint", m.touch || m.coarse ? touch : mouse));
  }
  status.replaceChildren(...parts);
}

/** One pin in words, with a button that takes it away. */
function pinChip(m, pin, name) {
  const token = m.model.tokens[pin.row];
  const chip = make("span", "nm-chip");
  const words = `neuron ${pin.neuron} · ${cellState(m.model, pin.row, m.model.place[pin.neuron])}`;
  chip.append(make("b", "", name), make("code", "", token.label), make("span", "", `at ${token.position} · ${words}`));
  chip.append(closeButton(`Unpin ${name}`, () => togglePin(m, pin.row, pin.neuron)));
  return chip;
}

/** The brushed range in words, with a button that takes it away. */
function brushChip(m) {
  const [from, to] = m.brush;
  const chip = make("span", "nm-chip");
  const place = m.model.order ? "places" : "neurons";
  chip.append(make("span", "", `${place} ${from}–${to - 1} · ${plural(to - from, "neuron")}`));
  chip.append(closeButton("Clear the brush", () => setBrush(m, null)));
  return chip;
}

/** A small round button with a cross. */
function closeButton(label, act) {
  const button = make("button", "nm-close", "×");
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  button.onclick = act;
  return button;
}

/** The second pin against the first. */
function comparePins(m) {
  const [a, b] = m.pins;
  const same = a.neuron === b.neuron ? "same neuron" : a.row === b.row ? "same token" : "";
  if (m.model.kind !== "values") return same;
  const [va, vb] = m.pins.map((pin) => cellValue(m.model, pin.row, m.model.place[pin.neuron]));
  if (!Number.isFinite(va) || !Number.isFinite(vb)) return same;
  const ratio = va && vb ? ` · |B| / |A| ≈ ${formatNumber(Math.abs(vb / va))}` : "";
  return `${same ? `${same} · ` : ""}B − A ≈ ${withUnit(vb - va, shownUnit(m.model.header))}${ratio}`;
}
