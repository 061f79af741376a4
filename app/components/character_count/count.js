/** Shows "n of limit characters" and what would be left out; counts code points, as Python does. */
function describe(output, count, limit) {
  const over = count - limit;
  const number = (value) => value.toLocaleString("en-US");
  output.textContent =
    `${number(count)} of ${number(limit)} characters` + (over > 0 ? `; the last ${number(over)} will be left out` : "");
  output.classList.toggle("over", over > 0);
}

/** Code points of a string without building an array of them. */
function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

export default function ({ data, parentElement }) {
  const output = parentElement.querySelector(".count");
  describe(output, data.count, data.limit);
  const listen = (event) => {
    if (event.target.closest && event.target.closest(`.st-key-${data.area}`)) {
      describe(output, codePoints(event.target.value), data.limit);
    }
  };
  document.addEventListener("input", listen);
  return () => document.removeEventListener("input", listen);
}
