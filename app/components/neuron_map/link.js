// Towards the outside: maps of the same group on this page, and Python.

const NM_SEND_AFTER = 180; // ms; a double click or a running brush sends once

/** Join a group of maps (an event on the window), leaving the one before. */
function joinGroup(m, group) {
  if (m.group === group) return;
  leaveGroup(m);
  m.group = group;
  if (!group) return;
  m.onGroup = (event) => hearGroup(m, event.detail);
  window.addEventListener(`moyu-map:${group}`, m.onGroup);
  postGroup(m, "hello", {});
}

/** Stop listening. */
function leaveGroup(m) {
  if (m.group) window.removeEventListener(`moyu-map:${m.group}`, m.onGroup);
  m.group = "";
}

/** Tell the other maps of the group. */
function postGroup(m, kind, detail) {
  if (!m.group) return;
  window.dispatchEvent(new CustomEvent(`moyu-map:${m.group}`, { detail: { ...detail, kind, from: m.id } }));
}

/** Act on what another map of the group says. */
function hearGroup(m, detail) {
  if (detail.from === m.id || !m.model) return;
  if (detail.kind === "hello") introduce(m);
  if (detail.kind === "cross") {
    m.remote = detail.neuron >= 0 ? detail : null;
    requestPaint(m, false);
  }
  if (detail.kind === "view" && detail.cols === m.model.cols && detail.orderId === m.model.orderId) {
    m.view = { start: detail.start, end: detail.end };
    requestPaint(m, true);
  }
  if (detail.kind === "order") followOrder(m, detail);
}

/** A map that brings an order of its own keeps it; one that brings none follows the group. */
function followOrder(m, { order, id }) {
  const { header, blocks, cols, orderId } = m.model;
  if (blocks.order || order.length !== cols || id === orderId) return;
  m.borrowed = { order, id };
  m.brush = m.hover = null;
  m.el.tip.hidden = true;
  m.model = buildModel({ header, blocks }, m.borrowed);
  renderStatus(m);
  relayout(m);
}

/** Tell a newcomer the order and the view of this map. */
function introduce(m) {
  shareOrder(m);
  shareView(m);
}

/** Send the order this map brought to its group. */
function shareOrder(m) {
  const { blocks, orderId } = m.model;
  if (blocks.order) postGroup(m, "order", { order: blocks.order, id: orderId });
}

/** Send the visible columns to the group. */
function shareView(m) {
  postGroup(m, "view", { ...m.view, cols: m.model.cols, orderId: m.model.orderId });
}

/**
 * Send pins or brush to Python a little later, together with what they refer to, so that a stale one is recognised.
 * @param {"pins"|"brush"} name
 */
function sendLater(m, name, value) {
  clearTimeout(m.timers[name]);
  m.timers[name] = setTimeout(() => {
    const state = { scope: m.model.header.scope || "", order: m.model.orderId, value };
    const text = JSON.stringify(state);
    if (m.sent[name] === text) return;
    m.sent[name] = text;
    if (name === "pins") m.echoes.push({ text: JSON.stringify(value), at: Date.now() });
    m.send(name, state);
  }, NM_SEND_AFTER);
}

/**
 * Take over the pins that Python sent, unless they are only the echo of what was clicked here: a click made while the
 * page was still answering the one before must not be undone by that answer.
 */
function adoptPins(m, fresh) {
  const pins = JSON.stringify(m.model.header.pins || []);
  const known = m.headerPins;
  m.headerPins = pins;
  m.echoes = m.echoes.filter((echo) => Date.now() - echo.at < 5000);
  const echo = m.echoes.findIndex((each) => each.text === pins);
  if (echo >= 0) m.echoes.splice(0, echo + 1);
  if (!fresh && (pins === known || echo >= 0)) return;
  m.pins = (m.model.header.pins || []).slice(0, NM_PIN_NAMES.length).map(([row, neuron]) => ({ row, neuron }));
  if (!fresh) sendLater(m, "pins", m.pins.map((pin) => [pin.row, pin.neuron])); // or Python's state would keep the old ones
}
