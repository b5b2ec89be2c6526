// Each library's call with a setting in both dimensions of an image: {code, note}.
"use strict";

const calls = (() => {
  const pair = (entry) => `(${entry}, ${entry})`;
  const unless1 = (name, value) => (value === 1 ? "" : `, ${name}=${value}`);

  function tensorflowPadding(padding) {
    if (typeof padding === "string") return `"${padding}"`;
    const pads = `[${padding.join(", ")}]`;
    return `[[0, 0], ${pads}, ${pads}, [0, 0]]`;
  }

  function jdeconv({ stride, dilation, padding }, output) {
    const steps = `strides=${stride}, padding=${tensorflowPadding(padding)}${unless1("dilations", dilation)}`;
    return { code: `jdeconv.conv2d_transpose(x, w, ${pair(output)}, ${steps})`, note: "" };
  }

  function tensorflow({ stride, dilation, padding }, output) {
    const steps = `strides=${stride}, padding=${tensorflowPadding(padding)}${unless1("dilations", dilation)}`;
    return {
      code: `tf.nn.conv2d_transpose(x, w, (n, ${output}, ${output}, c_out), ${steps})`,
      note: dilation === 1 ? "" : "Dilation on CPU needs oneDNN, or tf.function(jit_compile=True).",
    };
  }

  // PyTorch cuts `padding` at both ends and adds `output_padding` at the far one, less than stride or dilation.
  function torch(setting, output) {
    const { stride, dilation } = setting;
    const { low, high } = geometry.cut(setting, output);
    const steps = `stride=${stride}${unless1("dilation", dilation)}`;
    const extra = low - high;
    if (extra >= 0 && extra < Math.max(stride, dilation)) {
      const pads = `padding=${low}${extra ? `, output_padding=${extra}` : ""}`;
      return { code: `F.conv_transpose2d(x, w, ${steps}, ${pads})`, note: "" };
    }
    const more = high < 0 ? `, output_padding=${-high}` : "";
    const range = `${low}:${low + output}`;
    return {
      code: `F.conv_transpose2d(x, w, ${steps}${more})[..., ${range}, ${range}]`,
      note: `No padding argument cuts ${low} at the start and ${high} at the end: take the full result and slice.`,
    };
  }

  // Flax pads the zero-dilated input, by extent-1-cut; its "SAME" and "VALID" are two choices of such pads.
  function flax(setting, output) {
    const { kernel, stride, dilation } = setting;
    const { low, high } = geometry.cut(setting, output);
    const extent = geometry.extent(setting);
    const total = extent + stride - 2;
    const same = stride > extent - 1 ? extent - 1 : Math.ceil(total / 2);
    const [before, after] = [extent - 1 - low, extent - 1 - high];
    let padding = pair(`(${before}, ${after})`);
    let note = `Flax's "SAME" and "VALID" are other sizes or offsets here: give the pads of the dilated input.`;
    if (before === same && after === total - same) [padding, note] = [`"SAME"`, ""];
    else if (before === extent - 1 && after === Math.max(extent, stride) - 1) [padding, note] = [`"VALID"`, ""];
    else if (stride === 1 && Math.min(before, after) < 0) {
      note = "Negative pads at stride 1: jaxlib 0.10 returns wrong numbers for them on CPU.";
    }
    const steps = `strides=${stride}, padding=${padding}${unless1("kernel_dilation", dilation)}`;
    const rest = "transpose_kernel=True, rngs=rngs";
    return { code: `nnx.ConvTranspose(c_in, c_out, ${pair(kernel)}, ${steps}, ${rest})`, note };
  }

  return { jdeconv, tensorflow, torch, flax };
})();
