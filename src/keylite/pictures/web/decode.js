// Decoding: from the raw output of a network to points, scores and sigmas. docs/model-file.md of keylite describes it.

/** Raw values of one object, keypoints x channels -> {x, y, score}: unit coordinates of the crop, one per keypoint.
 * spec: the description of the model. All three are NaN for a keypoint that no training object labels; the score is
 * NaN if the head gives none. */
export function decode(raw, spec) {
  const {head, skeleton, unlearnt} = spec;
  const channels = raw.length / head.keypoints;
  const points = {x: [], y: [], score: []};
  skeleton.names.forEach((name, k) => {
    const untaught = Object.hasOwn(unlearnt, name) && unlearnt[name] === 0;
    const point = untaught ? [NaN, NaN, NaN] : HEADS[head.name](raw.subarray(channels * k, channels * (k + 1)), head);
    points.x.push(point[0]), points.y.push(point[1]), points.score.push(point[2]);
  });
  return points;
}

const HEADS = {
  regression: (raw) => [raw[0], raw[1], NaN],
  rle: (raw) => [raw[0], raw[1], 1 - (Math.exp(Math.min(raw[2], 0)) + Math.exp(Math.min(raw[3], 0))) / 2],
  simcc: (raw, {bins}) => {
    const x = shares(raw.subarray(0, bins[0])), y = shares(raw.subarray(bins[0]));
    return [mean(x, bins[0]), mean(y, bins[1]), Math.min(Math.max(...x), Math.max(...y))];
  },
  heatmap: (raw, {grid: [columns, rows]}) => {
    const share = shares(raw);
    let x = 0, y = 0;
    share.forEach((value, cell) => {
      x += (value * ((cell % columns) + 0.5)) / columns;
      y += (value * (Math.floor(cell / columns) + 0.5)) / rows;
    });
    return [x, y, share.reduce((most, value) => Math.max(most, value), 0)];
  },
};

/** The softmax: shares that lie in 0..1 and add up to 1. */
function shares(logits) {
  const largest = logits.reduce((most, value) => Math.max(most, value), -Infinity);
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((power) => power / total);
}

/** The mean of the centres of bins, weighted by their shares. */
function mean(share, bins) {
  return share.reduce((sum, value, bin) => sum + (value * (bin + 0.5)) / bins, 0);
}

/** The distances to expect between points and their labels, px of the image; NaN if the model does not say.
 * confidence: that of the spec. scale: that of the crop. */
export function sigmas(score, confidence, [width, height], scale) {
  if (!confidence) return score.map(() => NaN);
  const quotients = score.map((value, k) => value / confidence.levels[k]);
  const known = quotients.filter(Number.isFinite);
  const level = known.reduce((sum, value) => sum + value, 0) / Math.max(known.length, 1);
  return quotients.map((quotient, k) => {
    const share = curve(quotient * level ** 2, confidence.knots) * confidence.factors[k];
    return (share * Math.max(width, height)) / scale;
  });
}

/** The value at a place on a curve of straight pieces between knots [place, value]; both ends are level. */
function curve(place, knots) {
  if (Number.isNaN(place)) return NaN;
  const next = knots.findIndex(([at]) => at > place);
  if (next <= 0) return knots.at(next)[1];
  const [[from, before], [to, after]] = knots.slice(next - 1, next + 1);
  return before + ((place - from) / (to - from)) * (after - before);
}
