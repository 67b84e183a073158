// The rocking curve of one or two pixels or boxes: counts against the scan axis, its fit, and u.

import { rested, state, on, json, axis, scanAxes, moving, pixelOf, inside, valueAt, short, unit, tell, frameIndex, known } from "./state.js";
import { paint, limits } from "./colour.js";
import { sized } from "./image.js";

const root = () => document.getElementById("curve");
const find = one => root().querySelector(one);
export const curves = { cursor: null, second: null };
let plot = null, shown = [], busy = false, again = false;

function box(at, size) {
  const p = pixelOf(at), half = Math.floor(size / 2);
  const range = (k, n) => [Math.max(0, k - half), Math.min(n, k + half + 1)];
  return [...range(p.row, axis("y").size), ...range(p.column, axis("x").size)];
}

async function update() {
  if (!known("raw/counts")) return;
  if (busy) { again = true; return; }
  busy = true;
  do {
    again = false;
    for (const which of ["cursor", "second"]) {
      const at = state[which];
      if (!at || !inside(pixelOf(at))) { curves[which] = null; continue; }
      const place = String(box(at, +find(".size").value)), url = `curve/${state.store}?z=${state.index.z ?? 0}&box=${place}&fit=${+find(".fitted").checked}`;
      if (curves[which]?.url === state.catalogue.stamp + url) continue;
      try { curves[which] = { ...(await json(url)), url: state.catalogue.stamp + url, at: place }; }
      catch (error) { curves[which] = { counts: [], failed: error.message }; }
    }
  } while (again);
  busy = false;
  draw();
}

function draw() {
  if (!state.catalogue) return;
  const said = find(".said"), one = curves.cursor;
  find(".what").textContent = moving() === "time" ? "Counts over time" : "Rocking curve";
  find(".local").parentElement.hidden = !one?.u;
  find(".fitted").parentElement.hidden = moving() === "time" || scanAxes().filter(name => axis(name).size > 1).length !== 1;
  if (!scanAxes().length) { said.textContent = "one frame per layer"; return; }
  if (!one && !curves.second) { said.textContent = "click into an image"; clear(); return; }
  if (one?.failed) { said.textContent = one.failed; clear(); return; }
  const words = [];
  if (one?.peak !== undefined) words.push(`peak ${withError(one.peak, one.peak_error)}, FWHM ${withError(one.fwhm, one.fwhm_error)} ${unit(axis(moving()).units)}`);
  const frame = frameIndex();
  if (one?.u) words.push(`u = ${short(one.u[state.index[moving()]], 3)}`);
  if (one) words.push(`${short(one.counts[frame])} counts`);
  said.textContent = said.title = words.join("; ");
  if (scanAxes().filter(name => axis(name).size > 1).length > 1) drawPlane();
  else drawLine();
}
function withError(value, error) { // two digits of the error decide how many of the value are shown
  if (!error) return `${short(value, 5)} (poor fit, no error)`;
  const digits = Math.max(0, 1 - Math.floor(Math.log10(error)));
  return `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;
}
function clear() { plot?.destroy(); plot = null; find(".plot").replaceChildren(); }

function drawLine() {
  const name = moving(), n = axis(name).size, local = find(".local").checked && curves.cursor?.u;
  const x = local ? curves.cursor.u : Array.from({ length: n }, (_, k) => valueAt(name, k));
  const place = find(".plot"), size = { width: place.clientWidth, height: place.clientHeight };
  const now = [curves.cursor, curves.second, Boolean(local), find(".fitted").checked, size.width, size.height, name];
  if (plot && now.every((one, k) => one === shown[k])) { plot.redraw(false); return; } // only the shown frame has changed
  shown = now;
  const model = !local && find(".fitted").checked ? curves.cursor?.model : null;
  // One common axis for uPlot: positions of the frames and of the fit, with gaps.
  const columns = [[x, curves.cursor?.counts, "counts"], ...(curves.second ? [[x, curves.second.counts, "second"]] : []), ...(model ? [[model.position, model.counts, "fit"]] : [])];
  const tables = columns.map(([at, values]) => {
    const order = [...at.keys()].sort((a, b) => at[a] - at[b]);
    return [order.map(k => at[k]), order.map(k => values?.[k] ?? null)];
  });
  const data = (curves.data = uPlot.join(tables, tables.map(() => [2])));
  const points = { show: true, size: 5 }, colours = { counts: "#d4550f", second: "#1769aa", fit: "#555" };
  const label = local ? "u (half widths from the local peak)" : `${name} (${unit(axis(name).units)})`;
  const options = {
    ...size, legend: { show: false }, cursor: { drag: { x: false, y: false } }, scales: { x: { time: false } },
    axes: [{ label, labelSize: 16, size: 32, font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif" }, { size: 56, label: "counts", labelSize: 14, font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif" }],
    series: [{}, ...columns.map(([, , word]) => word === "fit" ? { stroke: colours.fit, width: 1, spanGaps: true, points: { show: false } } : { stroke: colours[word], width: 1.3, spanGaps: true, points })],
    hooks: { draw: [mark] },
  };
  clear();
  plot = new uPlot(options, data, place);
  plot.over.addEventListener("click", event => {
    const at = plot.posToVal(event.offsetX, "x");
    let best = 0;
    for (let k = 1; k < n; k++) if (Math.abs(x[k] - at) < Math.abs(x[best] - at)) best = k;
    state.index[name] = best;
    tell("index");
  });
  place.dataset.points = String(curves.cursor?.counts?.length ?? 0);
}

function mark(u) { // the shown frame, the peak and its half maxima
  const name = moving(), local = find(".local").checked && curves.cursor?.u, c = u.ctx, top = u.bbox.top, bottom = top + u.bbox.height;
  const line = (value, style, dash) => {
    const at = u.valToPos(value, "x", true);
    if (!Number.isFinite(at)) return;
    c.save(); c.strokeStyle = style; c.lineWidth = 1.2; c.setLineDash(dash); c.beginPath(); c.moveTo(at, top); c.lineTo(at, bottom); c.stroke(); c.restore();
  };
  line(local ? local[state.index[name] ?? 0] : valueAt(name, state.index[name] ?? 0), "#1c2430", []);
  const one = curves.cursor;
  if (!local && one?.peak !== undefined && find(".fitted").checked) {
    line(one.peak, "#888", [4, 3]);
    for (const side of [-0.5, 0.5]) line(one.peak + side * one.fwhm, "#bbb", [2, 3]);
  }
}

function drawPlane() { // two scan axes: counts as a map
  const place = find(".plot"), [first, second] = scanAxes(), counts = curves.cursor?.counts;
  plot?.destroy(); plot = null;
  let canvas = place.querySelector("canvas.plane");
  if (!canvas) { place.replaceChildren(); canvas = document.createElement("canvas"); canvas.className = "plane"; canvas.style.cssText = "width:100%;height:100%;cursor:crosshair"; place.append(canvas); canvas.onclick = choose; }
  const { w, h, ratio } = sized(canvas), context = canvas.getContext("2d");
  context.clearRect(0, 0, w, h);
  place.dataset.points = String(counts?.length ?? 0);
  if (!counts?.length) return;
  const [n, m] = [axis(first).size, axis(second).size], image = new ImageData(n, m);
  const turned = new Float32Array(n * m); // first axis to the right, second upwards
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) turned[(m - 1 - j) * n + i] = counts[i * m + j];
  const [low, high] = limits(turned, 0, 1);
  paint(turned, low, high, "sqrt", "viridis", new Uint32Array(image.data.buffer));
  const small = new OffscreenCanvas(n, m);
  small.getContext("2d").putImageData(image, 0, 0);
  const room = planeRoom(w, h, ratio);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, ...room);
  context.font = `${11 * ratio}px system-ui, "DejaVu Sans", sans-serif`; context.fillStyle = "#1c2430"; context.textAlign = "center";
  context.fillText(`${first} (${unit(axis(first).units)})  ${short(valueAt(first, 0), 4)} to ${short(valueAt(first, n - 1), 4)}`, room[0] + room[2] / 2, h - 5 * ratio);
  context.save(); context.translate(12 * ratio, room[1] + room[3] / 2); context.rotate(-Math.PI / 2);
  context.fillText(`${second} (${unit(axis(second).units)})  ${short(valueAt(second, 0), 4)} to ${short(valueAt(second, m - 1), 4)}`, 0, 0); context.restore();
  const [i, j] = [state.index[first] ?? 0, state.index[second] ?? 0];
  context.strokeStyle = "#d4550f"; context.lineWidth = 2 * ratio;
  context.strokeRect(room[0] + i * room[2] / n, room[1] + (m - 1 - j) * room[3] / m, room[2] / n, room[3] / m);
  function choose(event) {
    const at = canvas.getBoundingClientRect();
    const i = Math.floor(((event.clientX - at.left) * ratio - room[0]) / room[2] * n), j = m - 1 - Math.floor(((event.clientY - at.top) * ratio - room[1]) / room[3] * m);
    if (i < 0 || j < 0 || i >= n || j >= m) return;
    state.index[first] = i; state.index[second] = j;
    tell("index");
  }
}
const planeRoom = (w, h, ratio) => [22 * ratio, 4 * ratio, w - 28 * ratio, h - 24 * ratio];

export function startCurve() {
  on("cursor catalogue", update);
  const later = rested(update);
  on("index", words => { if (words.includes("z")) later(); else draw(); });
  for (const one of [".size", ".fitted"]) find(one).onchange = update;
  find(".local").onchange = draw;
  new ResizeObserver(() => draw()).observe(find(".plot"));
}
