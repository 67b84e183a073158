// Boxes of weak and strong beam, the patch that the network is least sure of, training, and the map before and after.

import * as S from "./state.js";
import { navigator_ } from "./sections.js";
import { state, on, tell, json, post, array, axis, scanAxes, valueAt, nearest, known, pixelOf, frameIndex, short } from "./state.js";

const find = id => document.getElementById(id);
const COLOURS = { weak: "#009e73", strong: "#cc3b28", unlit: "#3a3f47", ambiguous: "#8a6d00" };
let entries = [], digest = "", history = [], draft = null, preview = null, timer = 0;
export const compare = { mode: 0, values: null };

const here = one => scanAxes().every(name => nearest(name, one[name]) === (state.index[name] ?? 0)) && nearest("z", one.z) === (state.index.z ?? 0);
export const drawing = () => find("drawing").checked;

async function read() {
  if (!state.catalogue || !known("raw/counts")) return;
  ({ entries, digest } = await json(`labels/${state.store}`));
  history = [];
  said();
}
function said() {
  const count = kind => entries.filter(one => one.class === kind).length;
  const layers = new Set(entries.map(one => nearest("z", one.z))).size;
  find("counted").textContent = entries.length ? `${entries.length} boxes on ${layers} ${layers === 1 ? "layer" : "layers"}: ${Object.keys(COLOURS).map(k => `${count(k)} ${k}`).join(", ")}. ${layers < 2 ? "Training needs two layers or more." : ""}` : "No labels yet. Draw boxes of whole patches (64 pixels) with the mouse, then name their beam.";
  find("train").disabled = layers < 2;
  tell("labels");
}
async function save(next) {
  const before = entries;
  try {
    ({ entries, digest } = await post(`labels/${state.store}`, { entries: next, digest }));
    history.push(before);
    draft = null;
  } catch (error) {
    warn(error.message);
    ({ entries, digest } = await json(`labels/${state.store}`));
  }
  said();
}
export function warn(text) { find("output").textContent = text; }
export async function undo() { if (history.length) { const back = history.pop(); await save(back); history.pop(); } }

export function drawn(a, b, done) { // a box between two places, in pixels, inside the frame
  const [p, q] = [pixelOf(a), pixelOf(b)], clip = (v, n) => Math.min(n, Math.max(0, v));
  const [ny, nx] = [axis("y").size, axis("x").size];
  draft = { box: [clip(Math.min(p.row, q.row), ny), clip(Math.max(p.row, q.row) + 1, ny), clip(Math.min(p.column, q.column), nx), clip(Math.max(p.column, q.column) + 1, nx)], done };
  if (draft.box[1] <= draft.box[0] || draft.box[3] <= draft.box[2]) draft = null;
  tell("labels");
}
export function label(kind) {
  if (!draft) { warn("Draw a box first: tick draw boxes (l), then drag in the left image."); return; }
  const at = Object.fromEntries(["z", ...scanAxes()].map(name => [name, Number(valueAt(name, state.index[name] ?? 0).toPrecision(12))]));
  save([...entries, { ...at, box: draft.box, class: kind }]);
}

export function drawBoxes(context, toScreen, v) {
  const [y, x] = [axis("y"), axis("x")];
  const rectangle = ([y0, y1, x0, x1]) => {
    const a = toScreen({ x: x.first + (x0 - 0.5) * x.step, y: y.first + (y0 - 0.5) * y.step }), b = toScreen({ x: x.first + (x1 - 0.5) * x.step, y: y.first + (y1 - 0.5) * y.step });
    context.strokeRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
    return a;
  };
  context.font = `${11 * v.ratio}px system-ui, "DejaVu Sans", sans-serif`;
  for (const one of entries.filter(here)) {
    context.strokeStyle = "#fff"; context.lineWidth = 4 * v.ratio; const at = rectangle(one.box ?? [0, y.size, 0, x.size]);
    context.strokeStyle = context.fillStyle = COLOURS[one.class]; context.lineWidth = 2 * v.ratio; rectangle(one.box ?? [0, y.size, 0, x.size]);
    context.textAlign = "left"; context.lineWidth = 3 * v.ratio; context.strokeStyle = "#fff";
    context.strokeText(one.class, at[0] + 4 * v.ratio, at[1] + 13 * v.ratio); context.fillText(one.class, at[0] + 4 * v.ratio, at[1] + 13 * v.ratio);
  }
  if (draft) { context.strokeStyle = "#d4550f"; context.lineWidth = 1.5 * v.ratio; context.setLineDash([5, 4]); rectangle(draft.box); context.setLineDash([]); }
}

// ---- the patch whose P(weak) is nearest to one half, on the shown frame; then on all frames of the layer
async function uncertain() {
  const one = known("beams/p_weak");
  if (!one) { warn("There is no P(weak): run the recipe weak_beam once."); return; }
  const dims = one.dims.filter(d => d !== "patch_y" && d !== "patch_x"), at = dims.map(d => `${d}:${state.index[d] ?? 0}`).join(",");
  const made = compare.values ? slice(compare.values) : await array(`image/${state.store}/beams/p_weak?at=${at}`);
  const [, columns] = made.shape, order = [...made.values.keys()].filter(k => Number.isFinite(made.values[k])).sort((a, b) => Math.abs(made.values[a] - 0.5) - Math.abs(made.values[b] - 0.5));
  const free = order.find(k => !entries.filter(here).some(e => !e.box || covers(e.box, k, columns)));
  if (free === undefined) { warn("All lit patches of this frame have a label."); return; }
  const size = state.catalogue.patch, y0 = Math.min(Math.floor(free / columns) * size, axis("y").size - size), x0 = Math.min((free % columns) * size, axis("x").size - size);
  draft = { box: [Math.max(0, y0), Math.min(axis("y").size, y0 + size), Math.max(0, x0), Math.min(axis("x").size, x0 + size)], done: true };
  warn(`P(weak) = ${short(made.values[free], 3)}: press w, s, u or a.`);
  tell("labels");
}
const covers = ([y0, y1, x0, x1], k, columns) => {
  const size = state.catalogue.patch, [y, x] = [Math.floor(k / columns) * size + size / 2, (k % columns) * size + size / 2];
  return y >= y0 && y < y1 && x >= x0 && x < x1;
};
export function slice(made) { // the lattice of the shown frame
  const [, rows, columns] = made.shape, at = frameIndex() * rows * columns;
  return { values: made.values.subarray(at, at + rows * columns), shape: [rows, columns], missing: [] };
}

// ---- commands
async function start(job) {
  try { await post("job", { ...job, store: state.store }); follow(); } catch (error) { warn(error.message); }
}
async function follow() {
  clearTimeout(timer);
  let now;
  try { now = await json("job"); } catch (error) { warn(error.message); return; }
  if (!now.command) return;
  find("output").textContent = `${now.command}\n${now.lines.slice(-14).join("\n")}\n${now.running ? `running for ${now.seconds} s` : `ended with exit code ${now.code} after ${now.seconds} s`}`;
  find("cancel").hidden = !now.running;
  find("train").disabled = now.running || new Set(entries.map(one => nearest("z", one.z))).size < 2;
  if (!now.running && now.code === 0 && now.command.startsWith("dfxm-dask train")) { find("compare").disabled = find("rerun").disabled = false; preview = null; }
  if (now.running) timer = setTimeout(follow, 700);
}
async function next() { // old, new and difference of P(weak) in the right image
  if (!known("beams/p_weak")) { warn("There is no P(weak) to compare with: run the recipe weak_beam once."); return; }
  if (compare.mode === 0) {
    warn("P(weak) of this layer with the new weights …");
    try { compare.values = await array(`preview/${state.store}?z=${state.index.z ?? 0}`); compare.layer = state.index.z ?? 0; warn("Old, new, difference: press the button again."); } catch (error) { warn(error.message); return; }
  }
  compare.mode = (compare.mode + 1) % 4;
  if (!compare.mode) compare.values = null;
  find("compare").textContent = ["old | new | difference", "old", "new", "difference (new − old)"][compare.mode];
  tell("compare");
}

async function copy(text, what) {
  try { await navigator.clipboard.writeText(text); warn(`copied: ${what}\n${text}`); } catch { warn(text); }
}
export { copy };
function regions() {
  const boxes = entries.filter(one => one.box && (one.class === "weak" || one.class === "strong") && nearest("z", one.z) === (state.index.z ?? 0));
  if (!boxes.length) { warn("There is no box of weak or strong beam on this layer."); return; }
  const name = S.moving(), [, frames] = navigator_.shape ?? [0, 0], layer = state.index.z ?? 0, mean = navigator_.mean?.subarray(layer * frames, (layer + 1) * frames);
  const brightest = mean?.length === axis(name).size ? valueAt(name, mean.indexOf(Math.max(...mean))) : valueAt(name, Math.floor(axis(name).size / 2));
  const side = one => (one.class === "strong" ? "strong" : one[name] < brightest ? "weak_minus" : "weak_plus"); // the flank of the brightest frame
  const rows = boxes.map(one => `    - {name: ${side(one)}, box: [${one.box.join(", ")}], unit: pixel, z: ${one.z}}`);
  copy(`- gram_schmidt:\n    regions:\n${rows.map(r => "  " + r).join("\n")}`, "the parameter regions of gram_schmidt");
}

export function startLabels(viewBox) {
  for (const button of document.querySelectorAll("#labels [data-class]")) button.onclick = () => label(button.dataset.class);
  find("undo").onclick = undo;
  find("uncertain").onclick = uncertain;
  find("train").onclick = () => start({ kind: "train" });
  find("rerun").onclick = () => start({ kind: "run", recipe: "weak_beam", weights: true });
  find("cancel").onclick = async () => { await post("job", {}, "DELETE"); follow(); };
  find("compare").onclick = next;
  find("regions").onclick = regions;
  find("roi").onclick = () => { const b = viewBox(); if (b) copy(`--roi ${b[0]}:${b[1]},${b[2]}:${b[3]}`, "the option --roi of ingest"); };
  on("catalogue", () => { read().catch(error => warn(error.message)); follow(); });
  on("index", words => { draft = null; if (words.includes("z") && compare.mode) { compare.mode = 0; compare.values = null; find("compare").textContent = "old | new | difference"; tell("compare"); } });
}
export { uncertain, preview };
