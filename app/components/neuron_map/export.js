// Out of the page: a PNG with labels, legend and caption, and full screen.

/** Draw everything but crosshair and tooltip on a canvas of twice the size. */
function pictureCanvas(m, scale = 2) {
  const { geo, theme, model } = m;
  const { header } = model;
  const pad = 16;
  const measure = measurer(geo.fonts.text);
  const title = wrapText(header.title || "", geo.width, 2, measurer(geo.fonts.title));
  const lines = wrapText(header.caption || "", geo.width, 6, measure);
  lines.push(...m.pins.map((pin, i) => pinSentence(m, pin, NM_PIN_NAMES[i])));
  const top = pad + title.length * 19 + 6;
  const canvas = make("canvas");
  canvas.width = Math.round((geo.width + 2 * pad) * scale);
  canvas.height = Math.round((top + geo.height + lines.length * 16 + pad) * scale);
  const ctx = canvas.getContext("2d");
  ctx.scale(scale, scale);
  ctx.fillStyle = theme.back;
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  title.forEach((line, i) => paintWords(ctx, line, pad, pad + 8 + 19 * i, geo.fonts.title, theme.text));
  ctx.translate(pad, top);
  paintBase(ctx, m, scale, {});
  if (m.brush) paintBrush(ctx, m, m.brush);
  m.pins.forEach((pin, i) => paintPin(ctx, m, pin, NM_PIN_NAMES[i]));
  lines.forEach((line, i) => paintWords(ctx, line, 0, geo.height + 8 + 16 * i, geo.fonts.text, theme.muted));
  return canvas;
}

/** A pin in one line. */
function pinSentence(m, pin, name) {
  const token = m.model.tokens[pin.row];
  const state = cellState(m.model, pin.row, m.model.place[pin.neuron]);
  return `${name}: ${token.label} at position ${token.position}, neuron ${pin.neuron}, ${state}`;
}

/** Offer the picture as a file named after its title. */
function savePicture(m) {
  const name = (m.model.header.title || "map").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  pictureCanvas(m).toBlob((blob) => {
    if (!blob) return say(m, "The picture is too large to be saved.");
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name || "map"}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    return say(m, "Picture saved.");
  }, "image/png");
}

/** Full screen, or the whole window where the browser has no full screen (phones). */
function toggleFull(m) {
  const { root } = m.el;
  const scope = root.getRootNode();
  if (scope.fullscreenElement === root) document.exitFullscreen();
  else if (root.requestFullscreen) root.requestFullscreen().catch(() => fillWindow(m));
  else fillWindow(m);
}

/** Stretch the map over the window, or back. */
function fillWindow(m) {
  m.el.root.classList.toggle("nm-fill");
  afterFull(m);
}

/** After full screen began or ended. */
function afterFull(m) {
  const { root } = m.el;
  const full = root.classList.contains("nm-fill") || root.getRootNode().fullscreenElement === root;
  setPressed(m.tools.full, full);
  relayout(m);
}
