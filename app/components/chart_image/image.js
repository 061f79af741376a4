/** The drawn chart whose element, or one around it, bears this text alternative. */
function findChart(alt) {
  const named = [...document.querySelectorAll("[aria-label]")].filter((element) => element.getAttribute("aria-label") === alt);
  for (const element of named) {
    const chart = element.matches(".js-plotly-plot") ? element : element.querySelector(".js-plotly-plot");
    if (chart) return chart;
  }
  return null;
}

/** Keep the click with which Plotly hands over the file from closing the pop-over that this button is in. */
function keepOpen() {
  const stop = (event) => {
    if (!(event.target instanceof HTMLAnchorElement) || !event.target.hasAttribute("download")) return;
    event.stopPropagation();
    window.removeEventListener("click", stop, true);
  };
  window.addEventListener("click", stop, true);
}

/** Press the camera of the chart's own tool bar with another format; true when there was one. */
function save(chart, format, file) {
  const camera = chart.querySelector('.modebar-btn[data-title^="Download plot"]');
  if (!camera || !chart._context) return false;
  const before = chart._context.toImageButtonOptions;
  chart._context.toImageButtonOptions = { ...before, format, filename: file, scale: format === "png" ? 2 : 1 };
  keepOpen();
  camera.dispatchEvent(new MouseEvent("click", { bubbles: false }));
  chart._context.toImageButtonOptions = before;
  return true;
}

/** The save button in the tool bar of the map with this key; maps draw inside a shadow root. */
function findMapButton(key) {
  for (const host of document.querySelectorAll(`.st-key-${CSS.escape(key)} *`)) {
    const button = host.shadowRoot && host.shadowRoot.querySelector(".nm-tool-save");
    if (button) return button;
  }
  return null;
}

/** Save the map as PNG; true when it is there. The click stays at its button, so that the pop-over does not close. */
function saveMap(key) {
  const button = findMapButton(key);
  if (button) button.dispatchEvent(new MouseEvent("click", { bubbles: false }));
  return button !== null;
}

export default function ({ data, parentElement }) {
  const said = parentElement.querySelector("output");
  said.textContent = "";
  for (const button of parentElement.querySelectorAll("button")) {
    button.hidden = Boolean(data.map) && button.dataset.format !== "png"; // a map's SVG is made by the server
    button.onclick = () => {
      const chart = data.map ? null : findChart(data.alt);
      const saved = data.map ? saveMap(data.map) : chart !== null && save(chart, button.dataset.format, data.file);
      said.textContent = saved ? "Saved." : "This figure is not drawn right now; open its part of the page first.";
    };
  }
}
