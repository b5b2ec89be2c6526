// The arithmetic of one spatial dimension of a transposed convolution, as in jdeconv/_geometry.py.
//
// A setting is {input, kernel, stride, dilation, padding}: positive integers, and "SAME", "VALID" or [low, high].
// Tap t joins input position p to output position p*stride + t*dilation - low.
"use strict";

const geometry = (() => {
  // Positions from the first tap to the last, both included.
  function extent({ kernel, dilation }) {
    return (kernel - 1) * dilation + 1;
  }

  // The sizes whose strided convolution has `input` positions (none if largest < smallest), and the default one.
  function outputSizes(setting) {
    const { input, stride, padding } = setting;
    if (padding === "SAME") {
      const largest = input * stride;
      return { smallest: largest - stride + 1, largest, byDefault: largest };
    }
    const [low, high] = padding === "VALID" ? [0, 0] : padding;
    const exact = (input - 1) * stride + extent(setting) - low - high;
    const smallest = Math.max(exact, 0);
    return { smallest, largest: exact + stride - 1, byDefault: smallest };
  }

  // How many positions are cut from the full result at its start and at its end (negative: zeros are added).
  function cut(setting, output) {
    const { input, stride, padding } = setting;
    const total = (input - 1) * stride + extent(setting) - output;
    let low = 0;
    if (padding === "SAME") low = Math.floor(Math.max(total, 0) / 2);
    else if (padding !== "VALID") low = padding[0];
    return { low, high: total - low };
  }

  // Every tap of every input position; those with an output position outside 0 .. output-1 are cut.
  function joins(setting, output) {
    const { low } = cut(setting, output);
    const found = [];
    for (let input = 0; input < setting.input; input++) {
      for (let tap = 0; tap < setting.kernel; tap++) {
        const to = input * setting.stride + tap * setting.dilation - low;
        found.push({ input, tap, output: to, kept: to >= 0 && to < output });
      }
    }
    return found;
  }

  // How many taps reach each output position.
  function counts(setting, output) {
    const found = new Array(output).fill(0);
    for (const join of joins(setting, output)) if (join.kept) found[join.output] += 1;
    return found;
  }

  // How many taps reach the output positions of each remainder by the stride, far from the borders.
  function tapsPerPhase({ kernel, stride, dilation }) {
    const found = new Array(stride).fill(0);
    for (let tap = 0; tap < kernel; tap++) found[(tap * dilation) % stride] += 1;
    return found;
  }

  return { extent, outputSizes, cut, joins, counts, tapsPerPhase };
})();
