// A drawing in steps. The step lives in the element, so it survives new drawings of another token, layer or scheme.

const PLAY_MS = 2600;

/** A button with a label and what it does. */
function button(label, hint, act) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = label;
  element.title = hint;
  element.onclick = act;
  return element;
}

/** The parts of the component, made once. */
function build(root) {
  const bar = Object.assign(document.createElement("div"), { className: "bar" });
  const picture = Object.assign(document.createElement("div"), { className: "picture" });
  const place = Object.assign(document.createElement("span"), { className: "place" });
  const words = document.createElement("p");
  words.setAttribute("aria-live", "polite");
  root.tabIndex = 0;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Drawing in steps: left and right arrow keys, Home and End");
  root.append(bar, picture, words);
  return { bar, picture, place, words, step: null, timer: null };
}

/** Show a step, kept inside the drawing. */
function show(state, data, step) {
  const last = data.drawings.length - 1;
  state.step = Math.min(Math.max(step, 0), last);
  state.picture.innerHTML = data.drawings[state.step];
  state.words.textContent = data.sentences[state.step];
  state.place.textContent = `Step ${state.step + 1} of ${last + 1}`;
  state.back.disabled = state.step === 0;
  state.next.disabled = state.step === last;
  reveal(state.picture, state.step === last);
}

/** On a narrow page the drawing is wider than its place: bring what the step adds into view. */
function reveal(picture, last) {
  const drawing = picture.querySelector("svg");
  const added = picture.querySelectorAll('[data-now="yes"]');
  if (!added.length || picture.scrollWidth <= picture.clientWidth) return;
  const left = drawing.getBoundingClientRect().left;
  const ends = [...added].map((element) => element.getBoundingClientRect());
  const [from, to] = [Math.min(...ends.map((end) => end.left)) - left, Math.max(...ends.map((end) => end.right)) - left];
  const [start, end] = [from - 8, to + 8 - picture.clientWidth]; // where it begins, or ends, at the edge of its place
  picture.scrollLeft = start >= end ? (start + end) / 2 : last ? end : start;
}

/** Stop playing. */
function halt(state) {
  clearInterval(state.timer);
  state.timer = null;
  state.play.textContent = "Play";
}

/** Play from the first step, or stop. */
function play(state, data) {
  if (state.timer) return halt(state);
  show(state, data, 0);
  state.play.textContent = "Stop";
  state.timer = setInterval(() => {
    show(state, data, state.step + 1);
    if (state.step === data.drawings.length - 1) halt(state);
  }, PLAY_MS);
  return undefined;
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".sd");
  const state = root.moyuSteps || (root.moyuSteps = build(root));
  const go = (step) => {
    if (state.timer) halt(state);
    show(state, data, step);
    if (root.getRootNode().activeElement?.disabled) root.focus(); // or the arrow keys would be lost at the first and last step
  };
  state.back = button("Back", "Left arrow key", () => go(state.step - 1));
  state.next = button("Next", "Right arrow key", () => go(state.step + 1));
  state.play = button("Play", "From the first step to the last", () => play(state, data));
  state.bar.replaceChildren(state.back, state.next, state.play, state.place);
  root.onkeydown = (event) => {
    const steps = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1, Home: 0, End: data.drawings.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    go(steps[event.key]);
  };
  clearInterval(state.timer);
  state.timer = null;
  show(state, data, state.step ?? data.drawings.length - 1);
  return () => clearInterval(state.timer);
}
