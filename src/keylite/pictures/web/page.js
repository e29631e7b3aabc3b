// The page: opens pictures, videos and the camera, runs the model on them and shows what it finds.
import {colourOf, draw} from "./draw.js";
import {bitmapOf, findPoints, imageOf, openModel} from "./model.js";
import {cameraOf, framesOf, videoOf} from "./moving.js";

const part = (id) => document.getElementById(id);
const canvas = part("canvas"), stage = part("stage");
const MANY = 12; // with more keypoints, names are first left off the picture
const TAP = 24; // px of the screen: so near a point a tap chooses it
/** What is shown and found; drawn: the box while it is drawn. */
export const state = {bitmap: null, box: null, drawn: null, points: null, chosen: null, moving: null, frames: []};
let model;

async function start() {
  try {
    model = await openModel();
  } catch (error) {
    return say(`The model cannot be opened: ${error.message ?? error}`, true);
  }
  const {spec, facts} = model;
  const count = spec.skeleton.names.length;
  document.title = facts.name;
  part("title").textContent = facts.name;
  part("about").textContent = `Finds ${count} ${count === 1 ? "point" : "points"} of one object in a picture.`;
  part("facts").textContent = `${facts.network}, ${spec.precision}; run by ${facts.runtime}; made by keylite.`;
  part("names").checked = count <= MANY;
  canvas.classList.toggle("boxed", boxed());
  makeRows();
  for (const section of [document.querySelector("main"), part("footer")]) section.hidden = false;
  say("");
}

function boxed() {
  return model.spec.box === "annotation";
}

function say(text, wrong = false) {
  part("status").textContent = text;
  part("status").hidden = !text;
  part("status").classList.toggle("wrong", wrong);
}

// ---- what is looked at

async function openFile(file) {
  stop();
  say(`Opening ${file.name}`);
  try {
    if (file.type.startsWith("video/")) await follow(await videoOf(file));
    else await look(await bitmapOf(file).catch(() => { throw new Error("this browser cannot read it as a picture"); }));
  } catch (error) {
    say(`${file.name}: ${error.message ?? error}`, true);
  }
}

async function openCamera(facing) {
  stop();
  say("Opening the camera");
  try {
    await follow(await cameraOf(facing));
  } catch (error) {
    say(error.message ?? String(error), true);
  }
}

/** Show a picture and find its points. */
async function look(bitmap) {
  Object.assign(state, {box: null, points: null});
  await show(bitmap);
  say("");
  fitTools();
}

/** Show a video or a camera, frame by frame, until another thing is opened. */
async function follow(moving) {
  Object.assign(state, {moving, frames: [], points: null});
  const {width, height} = moving;
  state.box = moving.live && boxed() ? middle(width, height) : null;
  say("");
  fitTools();
  for await (const bitmap of framesOf(moving, () => state.moving === moving)) {
    await show(bitmap);
    state.frames.push(performance.now());
    if (moving.length) part("seek").value = moving.place() / moving.length;
  }
}

function stop() {
  state.moving?.stop();
  state.moving = null;
  fitTools();
}

/** A box in the middle of a camera's picture, into which the object can be held. */
function middle(width, height) {
  const half = 0.35 * Math.min(width, height);
  return [width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half];
}

async function show(bitmap) {
  state.bitmap?.close();
  state.bitmap = bitmap;
  canvas.hidden = false;
  part("empty").hidden = true;
  stage.classList.add("full");
  await find();
}

/** Find the points of what is shown; a call while another one runs makes that one run again. */
async function find() {
  state.again = true;
  state.running ??= (async () => {
    while (state.again) {
      state.again = false;
      state.points = await findPoints(model, imageOf(state.bitmap), state.box);
      paint();
      tell();
    }
  })().finally(() => { state.running = undefined; });
  await state.running;
}

// ---- what is shown

function paint() {
  const {bitmap} = state;
  if (!bitmap?.width) return;
  const width = Math.min(stage.clientWidth, (0.65 * window.innerHeight * bitmap.width) / bitmap.height);
  const unit = window.devicePixelRatio || 1;
  canvas.style.width = `${width}px`;
  [canvas.width, canvas.height] = [width * unit, (width * unit * bitmap.height) / bitmap.width];
  const view = {...state, box: state.drawn ?? state.box, names: part("names").checked};
  draw(canvas, bitmap, view, model.spec, model.facts.sides);
}

function makeRows() {
  const {spec, facts} = model;
  part("points").replaceChildren(...spec.skeleton.names.map((name, k) => {
    const row = document.createElement("tr");
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = colourOf(facts.sides[k]);
    const cells = ["name", "x", "y", "score", "sigma"].map((kind) => {
      const cell = document.createElement("td");
      cell.className = kind;
      return cell;
    });
    cells[0].append(dot, name);
    row.append(...cells);
    row.addEventListener("click", () => choose(state.chosen === k ? null : k));
    return row;
  }));
  const table = document.querySelector("table");
  const scored = spec.head.name !== "regression";
  table.classList.toggle("without-score", !scored);
  table.classList.toggle("without-sigma", !spec.confidence);
  part("explained").textContent = [
    "x and y are px of the picture, from its top left corner.",
    scored ? "The score is between 0 and 1; higher is surer." : "",
    spec.confidence ? "± px is the distance to expect between a point and the true place." : "",
  ].join(" ");
}

/** Write the figures and the table; of moving pictures at most five times a second. */
function tell() {
  const {points, frames, moving} = state;
  const now = performance.now();
  if (moving?.playing() && now - (state.told ?? 0) < 200) return;
  state.told = now;
  state.frames = frames.filter((time) => now - time < 2000);
  const rate = state.frames.length > 1 ? (1000 * (state.frames.length - 1)) / (state.frames.at(-1) - state.frames[0]) : 0;
  const scores = points.score.filter(Number.isFinite);
  const score = scores.reduce((sum, value) => sum + value, 0) / scores.length;
  part("figures").textContent = [
    `crop ${points.ms.crop.toFixed(1)} ms`,
    `model ${points.ms.engine.toFixed(1)} ms`,
    moving && rate ? `${rate.toFixed(1)} frames per second` : "",
    scores.length ? `mean score ${score.toFixed(2)}` : "",
    `${state.bitmap.width} x ${state.bitmap.height} px`,
  ].filter(Boolean).join(", ");
  [...part("points").children].forEach((row, k) => {
    for (const [kind, digits] of [["x", 1], ["y", 1], ["score", 2], ["sigma", 1]]) {
      const value = points[kind][k];
      row.querySelector(`.${kind}`).textContent = Number.isFinite(value) ? value.toFixed(digits) : "–";
      row.dataset[kind] = value;
    }
  });
}

function choose(k) {
  state.chosen = k;
  [...part("points").children].forEach((row, at) => row.classList.toggle("chosen", at === k));
  if (k !== null) part("points").children[k].scrollIntoView({block: "nearest"});
  paint();
}

function fitTools() {
  const {moving, box} = state;
  part("stop").hidden = !moving;
  part("pause").hidden = !moving || moving.live;
  part("pause").textContent = moving?.playing() ? "Pause" : "Play";
  part("seek").hidden = !moving?.length;
  part("other-camera").hidden = !(moving?.live && moving.cameras > 1);
  part("whole").hidden = !box;
  part("hint").hidden = !boxed() || !(state.bitmap || moving);
  part("hint").textContent = box ? "Drag over the picture to draw another box." : "Drag over the picture to draw a box around the object.";
}

// ---- hands

/** Where a pointer is, px of the image. */
function placeOf(event) {
  const area = canvas.getBoundingClientRect();
  const at = (from, length, pixels) => Math.min(Math.max(from / length, 0), 1) * pixels;
  return [
    at(event.clientX - area.left, area.width, state.bitmap.width),
    at(event.clientY - area.top, area.height, state.bitmap.height),
  ];
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.bitmap) return;
  const from = placeOf(event);
  const boxTo = ([x, y]) => [Math.min(from[0], x), Math.min(from[1], y), Math.max(from[0], x), Math.max(from[1], y)];
  const wide = (box) => Math.min(box[2] - box[0], box[3] - box[1]) * (canvas.clientWidth / state.bitmap.width) > 8;
  canvas.setPointerCapture(event.pointerId);
  canvas.onpointermove = (move) => {
    if (!boxed()) return;
    state.drawn = boxTo(placeOf(move));
    if (!state.moving?.playing()) paint();
  };
  canvas.onpointerup = canvas.onpointercancel = (up) => {
    canvas.onpointermove = canvas.onpointerup = canvas.onpointercancel = null;
    const box = boxTo(placeOf(up));
    state.drawn = null;
    if (boxed() && wide(box)) setBox(box);
    else choose(nearest(from));
  };
});

function nearest([x, y]) {
  const {points, bitmap} = state;
  if (!points) return null;
  const far = points.x.map((px, k) => Math.hypot(px - x, points.y[k] - y) * (canvas.clientWidth / bitmap.width));
  const least = Math.min(...far.filter(Number.isFinite));
  return least < TAP ? far.indexOf(least) : null;
}

function setBox(box) {
  state.box = box;
  fitTools();
  find().catch((error) => say(error.message ?? String(error), true));
}

part("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) openFile(file);
  event.target.value = ""; // so that the same file can be opened again
});
part("camera").addEventListener("click", () => openCamera("environment"));
part("other-camera").addEventListener("click", () => openCamera(state.moving.facing === "user" ? "environment" : "user"));
part("stop").addEventListener("click", stop);
part("pause").addEventListener("click", async () => {
  await state.moving.toggle();
  fitTools();
});
part("seek").addEventListener("input", (event) => state.moving?.seek(event.target.value));
part("whole").addEventListener("click", () => setBox(null));
part("names").addEventListener("change", paint);
new ResizeObserver(paint).observe(stage);

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    stage.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && model && event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (model && event.clipboardData.files.length) openFile(event.clipboardData.files[0]);
});

start();
