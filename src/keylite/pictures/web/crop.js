// The crop of keylite: where it lies in an image, and its pixels. docs/model-file.md of keylite describes it.
//
// Coordinates are continuous: an image covers 0..width and 0..height, and the centre of its first pixel is (0.5, 0.5).
// An image is {width, height, read}; read(left, top, width, height) gives the RGBA bytes of a part of it, row by row.

const MARGIN = 2; // blocks kept around the part that the crop sees, so that bilinear resampling never reaches its edges
const READ = 2 ** 22; // pixels that are read at once: phones refuse larger canvases

/** The crop of size [width, height] around box [x0, y0, x1, y1], grown by padding (0 for a whole image).
 * Image px become crop px by scale * x + shiftX and scale * y + shiftY. */
export function cropOf([x0, y0, x1, y1], [width, height], padding) {
  const scale = Math.min(width / (x1 - x0), height / (y1 - y0)) / (1 + padding);
  return {scale, shiftX: (width - scale * (x0 + x1)) / 2, shiftY: (height - scale * (y0 + y1)) / 2};
}

/** The place in the image, px, of unit coordinates of the crop. */
export function imagePoint(unitX, unitY, crop, [width, height]) {
  return [(unitX * width - crop.shiftX) / crop.scale, (unitY * height - crop.shiftY) / crop.scale];
}

/** The network's input: height * width * 3 bytes, R, G, B. */
export function pixelsOf(image, crop, [width, height]) {
  const factor = reduction(image, crop.scale);
  const part = averaged(image, crop, [width, height], factor);
  const pixels = new Uint8Array(3 * width * height);
  const place = (at, shift, first) => (at + 0.5 - shift) / crop.scale / factor - 0.5 - first;
  for (let row = 0, at = 0; row < height; row++) {
    const y = place(row, crop.shiftY, part.top);
    const top = Math.floor(y), v = y - top;
    const above = 3 * part.width * clamp(top, part.height), below = 3 * part.width * clamp(top + 1, part.height);
    for (let column = 0; column < width; column++) {
      const x = place(column, crop.shiftX, part.left);
      const left = Math.floor(x), u = x - left;
      const near = 3 * clamp(left, part.width), far = 3 * clamp(left + 1, part.width);
      for (let c = 0; c < 3; c++, at++) {
        const upper = (1 - u) * part.rgb[above + near + c] + u * part.rgb[above + far + c];
        const lower = (1 - u) * part.rgb[below + near + c] + u * part.rgb[below + far + c];
        pixels[at] = Math.round((1 - v) * upper + v * lower);
      }
    }
  }
  return pixels;
}

/** The side of the blocks that are averaged first: a power of two, 1 if the image shrinks by less than two. */
function reduction(image, scale) {
  const side = Math.max(image.width, image.height);
  let factor = 1;
  while (2 * factor * scale <= 1.000001 && factor <= side) factor *= 2; // larger blocks would hold edge pixels alone
  return factor;
}

/** The part of the image that the crop sees, in means over blocks of factor x factor px; left and top are in blocks.
 * Blocks that reach beyond the image repeat its edge. */
function averaged(image, crop, [width, height], factor) {
  const [left, right] = span(-crop.shiftX, width, crop.scale * factor, Math.ceil(image.width / factor));
  const [top, bottom] = span(-crop.shiftY, height, crop.scale * factor, Math.ceil(image.height / factor));
  const columns = right - left, rows = bottom - top;
  const rgb = new Uint8Array(3 * columns * rows);
  const readWidth = Math.min(right * factor, image.width) - left * factor;
  const band = Math.max(1, Math.floor(READ / (readWidth * factor)));
  for (let first = top; first < bottom; first += band) {
    const end = Math.min(first + band, bottom);
    const readHeight = Math.min(end * factor, image.height) - first * factor;
    const rgba = image.read(left * factor, first * factor, readWidth, readHeight);
    for (let row = first; row < end; row++) {
      for (let column = 0; column < columns; column++) {
        let red = 0, green = 0, blue = 0;
        for (let y = 0; y < factor; y++) {
          const line = readWidth * clamp((row - first) * factor + y, readHeight);
          for (let x = 0; x < factor; x++) {
            const pixel = 4 * (line + clamp(column * factor + x, readWidth));
            red += rgba[pixel], green += rgba[pixel + 1], blue += rgba[pixel + 2];
          }
        }
        const at = 3 * ((row - top) * columns + column);
        rgb[at] = mean(red, factor), rgb[at + 1] = mean(green, factor), rgb[at + 2] = mean(blue, factor);
      }
    }
  }
  return {left, top, width: columns, height: rows, rgb};
}

/** The first block that a crop sees along one axis, and the block after the last. from: crop px, scale: per block. */
function span(from, length, scale, blocks) {
  const first = Math.min(Math.max(Math.floor(from / scale) - MARGIN, 0), blocks - 1);
  return [first, Math.min(Math.max(Math.ceil((from + length) / scale) + MARGIN, first + 1), blocks)];
}

/** The mean of a block, rounded as OpenCV does it: a half becomes the next number in 2 x 2 px, else an even one. */
function mean(sum, factor) {
  const exact = sum / (factor * factor), whole = Math.floor(exact), rest = exact - whole;
  if (rest !== 0.5) return Math.round(exact);
  return factor === 2 || whole % 2 ? whole + 1 : whole;
}

function clamp(at, length) {
  return at < 0 ? 0 : at < length ? at : length - 1;
}
