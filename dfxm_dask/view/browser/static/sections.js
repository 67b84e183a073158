// Sections through the cursor (z–x, scan–x), and the navigator: mean counts of all frames as z against frame.

import { rested, state, on, tell, array, axis, scanAxes, moving, valueAt, pixelOf, inside, unit, short, frameIndex, known } from "./state.js";
import { paint, paintClasses, limits } from "./colour.js";
import { sized, hatched } from "./image.js";

class Section {
  constructor(id, rows, none) {
    this.none = none;
    this.root = document.getElementById(id);
    this.rows = rows; // a function: the dim along the rows
    this.picture = this.root.querySelector(".picture");
    this.marks = this.root.querySelector(".marks");
    this.got = null; this.busy = false; this.again = false;
    this.marks.onclick = event => this.clicked(event);
    new ResizeObserver(() => this.update()).observe(this.root);
    const later = rested(() => this.update());
    on("cursor catalogue section variable", () => this.update());
    on("index", () => { if (this.root.classList.contains("on") && this.got && state.catalogue) this.draw(); later(); }); // the lines at once
  }
  get name() { // counts, or the chosen map where it has this dim
    const one = known(state.variable);
    return this.rows() === "z" && one && one.kind !== "lattice" && one.name !== "raw/counts" && (document.getElementById("ofmap").checked || !known("raw/counts")) ? one.name : "raw/counts";
  }
  async update() {
    if (!this.root.classList.contains("on") || !state.catalogue) return;
    const rows = this.rows();
    if (!rows || !known(this.name)) { this.got = { failed: this.none }; this.draw(); return; }
    if (!state.cursor || !inside(pixelOf(state.cursor))) { this.got = null; this.draw(); return; }
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    do {
      this.again = false;
      const dims = known(this.name).dims, at = dims.filter(d => d !== rows && d !== "y" && d !== "x").map(d => `${d}:${state.index[d] ?? 0}`).join(",");
      const url = `section/${state.store}/${this.name}?rows=${rows}&at=${at}&y=${pixelOf(state.cursor).row}&most=${Math.max(64, sized(this.picture).w)}`;
      if (this.got?.url === state.catalogue.stamp + url) continue;
      try { this.got = { ...(await array(url)), url: state.catalogue.stamp + url, rows }; } catch (error) { this.got = { failed: error.message }; }
    } while (this.again);
    this.busy = false;
    this.draw();
  }
  draw() {
    const { w, h, ratio } = sized(this.picture), context = this.picture.getContext("2d");
    sized(this.marks);
    const over = this.marks.getContext("2d");
    context.clearRect(0, 0, w, h); over.clearRect(0, 0, w, h);
    context.font = `${11 * ratio}px system-ui, "DejaVu Sans", sans-serif`; context.fillStyle = "#5c6775";
    if (!this.got?.values) { context.fillText(this.got?.failed ?? "click into an image", 8 * ratio, 18 * ratio); return; }
    const [rows, columns] = this.got.shape, image = new ImageData(columns, rows);
    const [low, high] = limits(this.got.values, 0.005, 0.995);
    const out = new Uint32Array(image.data.buffer), one = known(this.name), counts = one.name === "raw/counts";
    if (/int/.test(one.dtype) && one.group !== "raw") paintClasses(this.got.values, out, Object.values(one.flags));
    else paint(this.got.values, low, high, counts ? "sqrt" : "linear", counts ? "grey" : "viridis", out);
    const small = new OffscreenCanvas(columns, rows);
    small.getContext("2d").putImageData(image, 0, 0);
    const room = this.room(w, h, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, ...room);
    for (const k of this.got.missing) hatched(context, room[0], room[1] + +k * room[3] / rows, room[2], room[3] / rows);
    const a = axis(this.got.rows), x = axis("x");
    context.textAlign = "left";
    const span = (name, one) => `${name} ${short(valueAt(name, 0), 4)} to ${short(valueAt(name, one.size - 1), 4)} ${unit(one.units)}${one.even ? "" : ", uneven"}`;
    context.fillText(`right: ${span("x", x)};  down: ${span(this.got.rows, a)};  y = ${short(state.cursor.y, 4)} ${unit(axis("y").units)}`, room[0], room[1] + room[3] + 14 * ratio);
    over.strokeStyle = "#d4550f"; over.lineWidth = 1.2 * ratio; over.beginPath();
    const sx = room[0] + (pixelOf(state.cursor).column + 0.5) / x.size * room[2], sy = room[1] + ((state.index[this.got.rows] ?? 0) + 0.5) / a.size * room[3];
    over.moveTo(sx, room[1]); over.lineTo(sx, room[1] + room[3]); over.moveTo(room[0], sy); over.lineTo(room[0] + room[2], sy); over.stroke();
  }
  room(w, h, ratio) { // z against x on one scale in um where that leaves the layers readable
    const width = w - 12 * ratio, height = h - 24 * ratio;
    if (this.got.rows !== "z" || axis("z").units !== axis("x").units) return [6 * ratio, 4 * ratio, width, height];
    const true_height = width * (axis("z").size * Math.abs(axis("z").step)) / (axis("x").size * Math.abs(axis("x").step));
    const used = Math.min(height, Math.max(true_height, Math.min(height, axis("z").size * 8 * ratio)));
    return [6 * ratio, 4 * ratio, width, used];
  }
  clicked(event) {
    if (!this.got?.values) return;
    const { w, h, ratio } = sized(this.picture), box = this.marks.getBoundingClientRect(), room = this.room(w, h, ratio);
    const column = Math.floor(((event.clientX - box.left) * ratio - room[0]) / room[2] * axis("x").size);
    const row = Math.floor(((event.clientY - box.top) * ratio - room[1]) / room[3] * axis(this.got.rows).size);
    if (row < 0 || row >= axis(this.got.rows).size || column < 0 || column >= axis("x").size) return;
    state.index[this.got.rows] = row;
    state.cursor = { ...state.cursor, x: axis("x").first + column * axis("x").step };
    tell("index", this.got.rows, "cursor");
  }
}

export const sections = {};
export const navigator_ = { mean: null, limits: null };
async function readNavigator() {
  const canvas = document.querySelector("#navigator .picture");
  navigator_.mean = navigator_.limits = null;
  if (!known("raw/counts")) return;
  try {
    const made = await array(`navigator/${state.store}`);
    const [nz, frames] = made.shape;
    navigator_.mean = new Float32Array(nz * frames);
    navigator_.limits = new Float32Array(nz * frames * 2);
    for (let k = 0; k < nz * frames; k++) {
      navigator_.mean[k] = made.values[3 * k];
      navigator_.limits[2 * k] = made.values[3 * k + 1];
      navigator_.limits[2 * k + 1] = made.values[3 * k + 2];
    }
    navigator_.shape = [nz, frames];
    tell("contrast");
  } catch (error) { navigator_.mean = null; canvas.title = error.message; }
  drawNavigator();
}
const navigatorRoom = (w, h, ratio) => [24 * ratio, 4 * ratio, w - 30 * ratio, h - 22 * ratio];
function drawNavigator() {
  const root = document.getElementById("navigator"), canvas = root.querySelector(".picture"), marks = root.querySelector(".marks");
  const { w, h, ratio } = sized(canvas), context = canvas.getContext("2d");
  context.clearRect(0, 0, w, h);
  sized(marks);
  const over = marks.getContext("2d");
  over.clearRect(0, 0, w, h);
  if (!navigator_.mean) return;
  const [nz, frames] = navigator_.shape, room = navigatorRoom(w, h, ratio), image = new ImageData(frames, nz);
  const [low, high] = limits(navigator_.mean, 0, 1);
  paint(navigator_.mean, low, high, "sqrt", "cividis", new Uint32Array(image.data.buffer));
  const small = new OffscreenCanvas(frames, nz);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, ...room);
  for (let k = 0; k < nz; k++) if (!Number.isFinite(navigator_.mean[k * frames])) hatched(context, room[0], room[1] + k * room[3] / nz, room[2], room[3] / nz);
  context.font = `${11 * ratio}px system-ui, "DejaVu Sans", sans-serif`; context.fillStyle = "#5c6775"; context.textAlign = "center";
  const name = scanAxes().length > 1 ? "frame" : moving() ?? "frame", one = axis(name);
  context.fillText(one ? `${name} ${short(valueAt(name, 0), 4)} to ${short(valueAt(name, one.size - 1), 4)} ${unit(one.units)}${one.even ? "" : ", uneven"}` : `frames 0 to ${frames - 1}`, room[0] + room[2] / 2, h - 4 * ratio);
  context.save(); context.translate(13 * ratio, room[1] + room[3] / 2); context.rotate(-Math.PI / 2);
  if (axis("z")?.size > 1) context.fillText(`z ${short(valueAt("z", 0), 4)} to ${short(valueAt("z", nz - 1), 4)} ${unit(axis("z").units)}`, 0, 0);
  context.restore();
  over.strokeStyle = "#d4550f"; over.lineWidth = 2 * ratio;
  const [i, j] = [state.index.z ?? 0, frameIndex()];
  over.strokeRect(room[0] + j * room[2] / frames, room[1] + i * room[3] / nz, Math.max(3 * ratio, room[2] / frames), Math.max(3 * ratio, room[3] / nz));
}
function chosen(event) {
  if (!navigator_.mean) return;
  const marks = document.querySelector("#navigator .marks"), { w, h, ratio } = sized(marks), box = marks.getBoundingClientRect(), room = navigatorRoom(w, h, ratio), [nz, frames] = navigator_.shape;
  const j = Math.floor(((event.clientX - box.left) * ratio - room[0]) / room[2] * frames), i = Math.floor(((event.clientY - box.top) * ratio - room[1]) / room[3] * nz);
  if (i < 0 || j < 0 || i >= nz || j >= frames) return;
  const before = state.index.z;
  state.index.z = i;
  let rest = j;
  for (const name of [...scanAxes()].reverse()) { state.index[name] = rest % axis(name).size; rest = Math.floor(rest / axis(name).size); }
  tell("index", ...(before === i ? [] : ["z"]));
}

export function startSections() {
  sections.zx = new Section("zx", () => (axis("z")?.size > 1 ? "z" : null), "the scan has one layer");
  sections.sx = new Section("sx", moving, "one frame per layer");
  const marks = document.querySelector("#navigator .marks");
  let down = false;
  marks.onpointerdown = event => { down = true; marks.setPointerCapture(event.pointerId); chosen(event); };
  marks.onpointermove = event => down && chosen(event);
  marks.onpointerup = () => (down = false);
  document.getElementById("ofmap").onchange = () => tell("section");
  on("catalogue", readNavigator);
  on("index", drawNavigator);
  new ResizeObserver(drawNavigator).observe(marks.parentElement);
}
