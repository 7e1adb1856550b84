"use strict";

// Statistics of the seeds that are chosen, where some of a group are not; those of all come from Python.

const RESAMPLES = 1000;

function interquartileMean(values) {
  const sorted = Float64Array.from(values).sort();
  const cut = Math.floor(sorted.length / 4);
  const middle = sorted.subarray(cut, sorted.length - cut);
  return middle.reduce((sum, value) => sum + value, 0) / middle.length;
}

// Mulberry32: the same draws each time
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function resamples(seeds) {
  const random = generator(0);
  const draw = () => Array.from({ length: seeds }, () => Math.floor(random() * seeds));
  return Array.from({ length: RESAMPLES }, draw);
}

function percentile(sorted, share) {
  const at = share * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

// The estimate for one set of values, given the draws of `resamples`
function estimate(values, drawn) {
  const iqm = interquartileMean(values);
  if (values.length < 2) return { iqm, low: null, high: null };
  const means = drawn.map((draw) => interquartileMean(draw.map((index) => values[index])));
  const sorted = Float64Array.from(means).sort();
  return { iqm, low: percentile(sorted, 0.025), high: percentile(sorted, 0.975) };
}

function median(values) {
  return percentile(Float64Array.from(values).sort(), 0.5);
}

function fixed(value, digits) {
  if (value === null || value === undefined) return "–";
  // adding 0 turns -0 into 0
  const rounded = Number(value.toFixed(digits)) + 0;
  return rounded.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// Returns as text, by the rules of `column` in numbers.py

const [SMALLEST, LARGEST] = [1e-4, 1e7];

function column(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  const largest = Math.max(0, ...known.map(Math.abs));
  const spread = Math.max(...known) - Math.min(...known);
  let decimals = decimalsOf(largest);
  if (spread > 1e-6 * largest && spread < 10 ** -decimals) decimals = 1 - exponent(spread);
  return values.map((value) => {
    if (value === null || value === undefined) return "–";
    const text = returnText(value, decimals, largest > 0 && largest < SMALLEST);
    const vanished = value !== 0 && Number(text.replaceAll(",", "")) === 0;
    return vanished && Math.abs(value) > 1e-12 * largest ? column([value])[0] : text;
  });
}

function returnText(value, decimals, tiny) {
  if (value !== 0 && (tiny || Math.abs(value) >= LARGEST)) {
    // two digits of the exponent, as in the terminal
    return value.toExponential(Math.max(2, decimals + exponent(value))).replace(/e([+-])(\d)$/, "e$10$2");
  }
  return fixed(value, tiny ? 0 : Math.max(0, decimals));
}

function decimalsOf(largest) {
  if (largest === 0) return 2;
  if (largest >= 0.1 && largest < LARGEST) return largest < 10 ? 2 : largest < 1e6 ? 1 : 0;
  return 2 - exponent(largest);
}

function exponent(value) {
  return Math.floor(Math.log10(Math.abs(value)));
}

function secondsDigits(longest) {
  if (longest >= 100) return 0;
  return longest >= 1 || longest <= 0 ? 1 : 1 - exponent(longest);
}

function medianAndRange(values, digits) {
  const [center, low, high] = [median(values), Math.min(...values), Math.max(...values)];
  const texts = [center, low, high].map((value) => fixed(value, digits));
  return texts[1] === texts[2] ? texts[0] : `${texts[0]} (${texts[1]} to ${texts[2]})`;
}
