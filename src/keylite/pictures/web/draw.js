// Draws a picture with points, edges, names and a box on a canvas, in the colours of keylite's drawings.

// Colours of Okabe and Ito's palette, which people with any colour vision can tell apart.
const COLOURS = {left: "#e69f00", right: "#56b4e9", null: "#f0e442"};
const OUTLINE = "#141414";

/** The colour of a keypoint by its side: "left", "right" or null. */
export function colourOf(side) {
  return COLOURS[side];
}

/** Draw a bitmap over the whole canvas. view: {points, box, names, chosen}: points as `findPoints` gives them or null,
 * the box in px of the image or null, whether names are shown, and the number of the keypoint that is chosen or null. */
export function draw(canvas, bitmap, {points, box, names, chosen}, spec, sides) {
  const context = canvas.getContext("2d");
  const scale = canvas.width / bitmap.width, unit = window.devicePixelRatio || 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (box) drawBox(context, box.map((edge) => edge * scale), unit);
  if (!points) return;
  const places = points.x.map((x, k) => [x * scale, points.y[k] * scale]);
  const known = places.map((place) => place.every(Number.isFinite));
  const radius = unit * (spec.skeleton.names.length > 30 ? 2.5 : 4);
  context.lineCap = "round";
  for (const outline of [true, false]) { // all outlines first, so that none cuts through a line
    for (const [from, to] of spec.skeleton.edges) {
      if (!known[from] || !known[to]) continue;
      context.strokeStyle = outline ? OUTLINE : COLOURS[sides[from] === sides[to] ? sides[from] : null];
      context.lineWidth = unit * (outline ? 3.5 : 1.5);
      context.beginPath();
      context.moveTo(...places[from]);
      context.lineTo(...places[to]);
      context.stroke();
    }
  }
  places.forEach((place, k) => {
    if (!known[k]) return;
    context.beginPath();
    context.arc(...place, k === chosen ? 2 * radius : radius, 0, 2 * Math.PI);
    context.fillStyle = COLOURS[sides[k]];
    context.fill();
    context.strokeStyle = k === chosen ? "#ffffff" : OUTLINE;
    context.lineWidth = unit * (k === chosen ? 2 : 1);
    context.stroke();
  });
  context.font = `${12 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  places.forEach(([x, y], k) => {
    if (!known[k] || !(names || k === chosen)) return;
    const name = spec.skeleton.names[k], width = context.measureText(name).width;
    const right = x + 2.5 * radius + width < canvas.width; // else the name stands to the left of its point
    const at = right ? x + 2.5 * radius : x - 2.5 * radius - width;
    context.strokeStyle = OUTLINE;
    context.lineWidth = 3 * unit;
    context.strokeText(name, at, y);
    context.fillStyle = "#ffffff";
    context.fillText(name, at, y);
  });
}

function drawBox(context, [x0, y0, x1, y1], unit) {
  context.lineWidth = 3 * unit;
  context.strokeStyle = OUTLINE;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.lineWidth = 1.5 * unit;
  context.strokeStyle = "#ffffff";
  context.setLineDash([6 * unit, 4 * unit]);
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.setLineDash([]);
}
