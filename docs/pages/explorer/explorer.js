// Draws what the sliders set: which input pixels feed which output pixels, how many taps each gets, and the calls.
"use strict";

(() => {
  const root = document.getElementById("geometry-explorer");
  const CELL = 26;
  const ROWS = { input: 22, output: 170, bars: 260 };
  const LIBRARIES = { jdeconv: "jdeconv", tensorflow: "TensorFlow", torch: "PyTorch (NCHW)", flax: "Flax" };
  const SLIDERS = [
    ["input", "input size", 1, 8, 4],
    ["kernel", "kernel", 1, 7, 3],
    ["stride", "stride", 1, 5, 2],
    ["dilation", "dilation", 1, 4, 1],
    ["low", "low pad", 0, 8, 1],
    ["high", "high pad", 0, 8, 1],
    ["output", "output size", 0, 1, 0],
  ];

  root.innerHTML = `
    <form class="controls">
      ${SLIDERS.map(([name, label, least, most, start]) => `
        <label data-for="${name}"><span>${label}</span>
          <input type="range" name="${name}" min="${least}" max="${most}" value="${start}"><output></output></label>`).join("")}
      <label><span>padding</span>
        <select name="padding"><option>SAME</option><option>VALID</option><option>explicit</option></select></label>
    </form>
    <p class="sizes" aria-live="polite"></p>
    <p class="legend"></p>
    <div class="drawing"></div>
    <p class="readout" aria-live="polite"></p>
    <div class="map"></div>
    <div class="calls"></div>`;
  const form = root.querySelector("form");
  const part = (name) => root.querySelector(`.${name}`);
  const number = (name) => Number(form.elements[name].value);

  function setting() {
    const padding = form.elements.padding.value;
    return {
      input: number("input"),
      kernel: number("kernel"),
      stride: number("stride"),
      dilation: number("dilation"),
      padding: padding === "explicit" ? [number("low"), number("high")] : padding,
    };
  }

  function update(changed) {
    const now = setting();
    const sizes = geometry.outputSizes(now);
    const reachable = sizes.largest >= sizes.smallest;
    const slider = form.elements.output;
    slider.min = sizes.smallest;
    slider.max = Math.max(sizes.largest, sizes.smallest);
    slider.disabled = slider.min === slider.max;
    if (changed !== "output") slider.value = sizes.byDefault;
    for (const name of ["low", "high"]) root.querySelector(`[data-for=${name}]`).hidden = typeof now.padding === "string";
    for (const label of form.querySelectorAll("label")) {
      const shown = label.querySelector("output");
      if (shown) shown.textContent = label.querySelector("input").value;
    }
    part("sizes").innerHTML = reachable ? reachableText(sizes) : "The padding leaves nothing: no output size is reachable.";
    for (const name of ["legend", "drawing", "readout", "map", "calls"]) part(name).hidden = !reachable;
    if (!reachable) return;
    const output = number("output");
    const joins = geometry.joins(now, output);
    draw(now, output, joins);
    drawMap(now, geometry.counts(now, output));
    part("calls").innerHTML = Object.entries(LIBRARIES).map(([key, name]) => {
      const { code, note } = calls[key](now, output);
      return `<h4>${name}</h4><pre><code>${code}</code></pre>${note ? `<p>${note}</p>` : ""}`;
    }).join("");
  }

  function reachableText({ smallest, largest, byDefault }) {
    const all = Array.from({ length: largest - smallest + 1 }, (_, i) => smallest + i);
    const shown = all.map((size) => (size === byDefault ? `<strong>${size}</strong> (default)` : String(size)));
    return `Reachable output sizes: ${shown.join(", ")}.`;
  }

  // One axis for both rows: output position q stands at q, input position p in the middle of its taps.
  function draw(now, output, joins) {
    const { low } = geometry.cut(now, output);
    const places = [0, output - 1, ...joins.map((join) => join.output)];
    const first = Math.min(...places);
    const width = (Math.max(...places) - first + 1) * CELL;
    const x = (position) => (position - first + 0.5) * CELL;
    const inputX = (position) => x(position * now.stride - low + (geometry.extent(now) - 1) / 2);
    const counts = geometry.counts(now, output);
    const most = Math.max(1, ...counts);
    const cell = (kind, index, at, top, text, extra = "") =>
      `<g class="${kind} ${extra}" data-${kind}="${index}"><rect x="${at - 11}" y="${top}" width="22" height="22" rx="3"/>` +
      `<text x="${at}" y="${top + 15}">${text}</text></g>`;
    const parts = [];
    for (const join of joins) {
      const kept = join.kept ? "" : "cut";
      parts.push(`<line class="join tap-${join.tap} ${kept}" data-input="${join.input}" data-output="${join.output}"
        x1="${inputX(join.input)}" y1="${ROWS.input + 22}" x2="${x(join.output)}" y2="${ROWS.output}"/>`);
    }
    for (let p = 0; p < now.input; p++) parts.push(cell("input", p, inputX(p), ROWS.input, p));
    for (const q of new Set(joins.filter((join) => !join.kept).map((join) => join.output))) {
      parts.push(cell("output", q, x(q), ROWS.output, "", "cut"));
    }
    counts.forEach((count, q) => {
      parts.push(cell("output", q, x(q), ROWS.output, q, count ? "" : "unreached"));
      const height = (count / most) * 40;
      parts.push(`<rect class="bar" x="${x(q) - 9}" y="${ROWS.bars - height}" width="18" height="${height}"/>`);
      parts.push(`<text class="count" x="${x(q)}" y="${ROWS.bars + 14}">${count}</text>`);
    });
    part("drawing").innerHTML =
      `<svg viewBox="0 0 ${width} ${ROWS.bars + 20}" style="min-width: ${0.75 * width}px; max-width: ${1.3 * width}px" role="img"
        aria-label="Input pixels above, output pixels below, a line for each tap between them">
        <text class="row" x="2" y="14">input</text>${parts.join("")}
        <text class="row" x="2" y="${ROWS.output + 38}">output, and the taps that reach each pixel</text></svg>`;
    part("legend").innerHTML =
      `Taps: ${Array.from({ length: now.kernel }, (_, t) => `<span class="key tap-${t}">w[${t}]</span>`).join(" ")}`;
    readout(null, joins);
    for (const group of part("drawing").querySelectorAll("g")) {
      const kind = group.dataset.input === undefined ? "output" : "input";
      const chosen = { kind, index: Number(group.dataset[kind]) };
      for (const event of ["pointerenter", "click"]) group.addEventListener(event, () => readout(chosen, joins));
      group.addEventListener("pointerleave", () => readout(null, joins));
    }
  }

  // Highlights the lines of one pixel, and writes them as a sum.
  function readout(chosen, joins) {
    const svg = part("drawing").querySelector("svg");
    svg.classList.toggle("chosen", chosen !== null);
    for (const line of svg.querySelectorAll(".join")) {
      line.classList.toggle("lit", chosen !== null && Number(line.dataset[chosen.kind]) === chosen.index);
    }
    if (chosen === null) {
      part("readout").textContent = "Point at a pixel, or tap it, to see its taps.";
      return;
    }
    const { kind, index } = chosen;
    const own = joins.filter((join) => join[kind] === index);
    const products = own.map((join) => `x[${join.input}]·w[${join.tap}]`).join(" + ") || "0: no tap reaches it";
    const kept = own.filter((join) => join.kept).map((join) => `y[${join.output}]`).join(", ") || "nothing";
    const cut = own.some((join) => !join.kept) ? "; the rest is cut" : "";
    const output = own.length > 0 && !own[0].kept ? `cut: ${products}` : `y[${index}] = ${products}`;
    part("readout").textContent = kind === "output" ? output : `x[${index}] feeds ${kept}${cut}`;
  }

  // Both dimensions: a pixel gets the product of its row's and its column's taps.
  function drawMap(now, counts) {
    const most = Math.max(1, ...counts) ** 2;
    const squares = new Map();
    counts.forEach((rows, i) => counts.forEach((columns, j) => {
      squares.set(rows * columns, `${squares.get(rows * columns) ?? ""}M${j} ${i}h1v1h-1z`);
    }));
    const paths = [...squares].sort(([a], [b]) => a - b);
    part("map").innerHTML =
      `<svg viewBox="0 0 ${counts.length || 1} ${counts.length || 1}" role="img"
        aria-label="The number of taps that reach each pixel of an image">
        ${paths.map(([count, path]) => `<path d="${path}" style="opacity: ${count / most}"><title>${count} taps</title></path>`).join("")}
      </svg><p>Taps per pixel of an image: ${paths.map(([count]) => count).join(", ")}. ${evenness(now)}</p>`;
  }

  function evenness(now) {
    const phases = geometry.tapsPerPhase(now);
    if (new Set(phases).size === 1) return `Away from the borders every pixel gets ${phases[0] ** 2}.`;
    const each = phases.join(", ");
    return `Uneven, a checkerboard: along one dimension ${each} taps in turn, away from the borders.`;
  }

  form.addEventListener("input", (event) => update(event.target.name));
  form.addEventListener("submit", (event) => event.preventDefault());
  update(null);
})();
