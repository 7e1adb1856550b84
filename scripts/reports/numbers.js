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

function digitsOf(values) {
  return Math.max(...values.map(Math.abs)) >= 10 ? 1 : 2;
}

function medianAndRange(values, digits) {
  const [center, low, high] = [median(values), Math.min(...values), Math.max(...values)];
  const texts = [center, low, high].map((value) => fixed(value, digits));
  return texts[1] === texts[2] ? texts[0] : `${texts[0]} (${texts[1]} to ${texts[2]})`;
}
