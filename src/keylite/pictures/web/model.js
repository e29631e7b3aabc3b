// Opens the model of this folder and finds points in images with it.
import {cropOf, imagePoint, pixelsOf} from "./crop.js";
import {decode, sigmas} from "./decode.js";

const here = (name) => new URL(name, import.meta.url).href;

/** Functions from pixels (bytes of one crop) to the raw output, by the kind of a model file. */
const ENGINES = {
  async onnx(file, {size: [width, height], input_type: type}) {
    const {env, InferenceSession, Tensor} = await import("./onnxruntime.js");
    env.wasm.wasmPaths = {mjs: here("onnxruntime-wasm.js"), wasm: here("onnxruntime.wasm")};
    env.wasm.numThreads = 1; // more need headers that a plain server does not send
    const session = await InferenceSession.create(here(file), {executionProviders: ["wasm"]});
    return async (pixels) => {
      const input = type === "float32" ? Float32Array.from(pixels) : pixels;
      const {raw} = await session.run({pixels: new Tensor(type, input, [1, height, width, 3])});
      const values = raw.data;
      raw.dispose();
      return values;
    };
  },
  async tflite(file, {size: [width, height]}) {
    const {loadAndCompile, loadLiteRt, Tensor} = await import("./litert.js");
    await loadLiteRt(here("./"));
    const model = await loadAndCompile(here(file), {accelerator: "wasm"});
    return async (pixels) => {
      const input = new Tensor(pixels, [1, height, width, 3]);
      const [output] = await model.run([input]);
      const values = (await output.data()).slice();
      input.delete();
      output.delete();
      return values;
    };
  },
};

let opened = null;

/** The model of this folder, opened once: {spec, facts, run}. */
export function openModel() {
  return (opened ??= open());
}

async function open() {
  const [facts, spec] = await Promise.all(["page.json", "spec.json"].map(json));
  const run = await ENGINES[facts.file.split(".").at(-1)](facts.file, spec);
  const raw = await run(new Uint8Array(3 * spec.size[0] * spec.size[1])); // the first run takes longer
  if (!(raw instanceof Float32Array)) throw new Error(`${facts.name}: expected float32 output, got ${raw.constructor.name}`);
  return {spec, facts, run};
}

async function json(name) {
  const answer = await fetch(here(name));
  if (!answer.ok) throw new Error(`${name}: the server answers ${answer.status}`);
  return answer.json();
}

/** The points of one object: arrays x, y and sigma (px of the image) and score, one value per keypoint, and the
 * milliseconds that crop and engine took. box: [x0, y0, x1, y1] in px; null: the whole image. */
export async function findPoints(model, image, box) {
  const {spec} = model;
  const start = performance.now();
  const padding = box && spec.box === "annotation" ? spec.padding : 0;
  const crop = cropOf(box ?? [0, 0, image.width, image.height], spec.size, padding);
  const pixels = pixelsOf(image, crop, spec.size);
  const cut = performance.now();
  const raw = await model.run(pixels);
  const ran = performance.now();
  const {x, y, score} = decode(raw, spec);
  const places = x.map((unitX, k) => imagePoint(unitX, y[k], crop, spec.size));
  return {
    x: places.map((place) => place[0]),
    y: places.map((place) => place[1]),
    score,
    sigma: sigmas(score, spec.confidence, spec.size, crop.scale),
    ms: {crop: cut - start, engine: ran - cut},
  };
}

/** An image for `findPoints` from a bitmap. */
export function imageOf(bitmap) {
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const read = (left, top, partWidth, partHeight) => {
    [canvas.width, canvas.height] = [partWidth, partHeight]; // which also clears it
    context.drawImage(bitmap, left, top, partWidth, partHeight, 0, 0, partWidth, partHeight);
    return context.getImageData(0, 0, partWidth, partHeight).data;
  };
  return {width: bitmap.width, height: bitmap.height, read};
}

/** The bitmap of a picture's file, upright, with its colours as they are stored. */
export function bitmapOf(file) {
  return createImageBitmap(file, {colorSpaceConversion: "none", imageOrientation: "from-image"});
}
