// Points, planes, lines and junctions in space, drawn by the processor: the same pixels on every machine, and faster
// than software WebGL.

import { state, on, json, array, axis, unit, short } from "./state.js";
import { classCss } from "./colour.js";
import { sized } from "./image.js";

const rgb = css => [1, 3, 5].map(k => parseInt(css.slice(k, k + 2), 16));
const pack = (r, g, b) => (255 << 24) | (b << 16) | (g << 8) | r;

// Rotation: x to the right, z upwards, seen from the front (-y), turned about z, then tipped.
export function turned(about, tip) {
  const [c, s, ct, st] = [Math.cos(about), Math.sin(about), Math.cos(tip), Math.sin(tip)];
  return [[c, s, 0], [st * s, -st * c, -ct], [-ct * s, ct * c, -st]]; // right, down, depth
}

// Draws into an ImageData: scene {low, high, planes, lines, junctions, points: Float32Array of (x, y, z, plane)}.
export function render(image, depth, scene, about, tip, zoom = 1, size = 2) {
  const { width, height } = image, out = new Uint32Array(image.data.buffer);
  out.fill(pack(255, 255, 255));
  depth.fill(Infinity);
  const m = turned(about, tip), middle = scene.low.map((v, k) => (v + scene.high[k]) / 2);
  const reach = Math.hypot(...scene.high.map((v, k) => v - scene.low[k])) || 1, scale = zoom * 0.92 * Math.min(width, height * 1.35) / reach;
  const project = p => {
    const d = [p[0] - middle[0], p[1] - middle[1], p[2] - middle[2]];
    return [width / 2 + scale * (m[0][0] * d[0] + m[0][1] * d[1] + m[0][2] * d[2]), height / 2 + scale * (m[1][0] * d[0] + m[1][1] * d[1] + m[1][2] * d[2]), m[2][0] * d[0] + m[2][1] * d[1] + m[2][2] * d[2]];
  };
  const p = scene.points, n = p.length / 4;
  let last = -1;
  for (let i = 0; i < n; i++) if (p[4 * i + 3] > last) last = p[4 * i + 3];
  const shades = new Int32Array(last + 2).map((_, k) => (k ? pack(...rgb(classCss(k))) : pack(150, 156, 164))); // of no boundary first
  const [a0, a1, a2, b0, b1, b2, c0, c1, c2] = m.flat(), [m0, m1, m2] = middle, [w2, h2] = [width / 2, height / 2];
  for (let i = 0; i < n; i++) {
    const x = p[4 * i] - m0, y = p[4 * i + 1] - m1, z = p[4 * i + 2] - m2;
    const sx = (w2 + scale * (a0 * x + a1 * y + a2 * z)) | 0, sy = (h2 + scale * (b0 * x + b1 * y + b2 * z)) | 0;
    if (sx < 0 || sy < 0 || sx >= width - 1 || sy >= height - 1) continue;
    const far = c0 * x + c1 * y + c2 * z, colour = shades[(p[4 * i + 3] | 0) + 1];
    let at = sy * width + sx;
    if (size === 2) { // the usual size, without loops
      if (far < depth[at]) { depth[at] = far; out[at] = colour; }
      if (far < depth[at + 1]) { depth[at + 1] = far; out[at + 1] = colour; }
      at += width;
      if (far < depth[at]) { depth[at] = far; out[at] = colour; }
      if (far < depth[at + 1]) { depth[at + 1] = far; out[at + 1] = colour; }
      continue;
    }
    for (let v = 0; v < size; v++, at += width - size) for (let u = 0; u < size; u++, at++) {
      if (far < depth[at]) { depth[at] = far; out[at] = colour; }
    }
  }
  scene.planes.forEach((ring, k) => ring.length > 2 && fill(out, depth, width, height, ring.map(project), rgb(classCss(k + 1)), 0.28));
  for (const one of scene.lines) line(out, depth, width, height, project(one.ends[0]), project(one.ends[1]), pack(...rgb(classCss(one.plane + 1)).map(v => v * 0.62 | 0)), 1, 0.02 * reach);
  for (const ends of scene.junctions) line(out, depth, width, height, project(ends[0]), project(ends[1]), pack(20, 24, 30), 2, 0.03 * reach);
  const corner = k => [k & 1 ? scene.high[0] : scene.low[0], k & 2 ? scene.high[1] : scene.low[1], k & 4 ? scene.high[2] : scene.low[2]];
  for (let k = 0; k < 8; k++) for (const bit of [1, 2, 4]) if (!(k & bit)) line(out, depth, width, height, project(corner(k)), project(corner(k | bit)), pack(170, 176, 184), 0, 0);
  return { project, corner };
}

function fill(out, depth, width, height, ring, colour, alpha) { // a translucent convex polygon
  const ys = ring.map(p => p[1]), first = Math.max(0, Math.ceil(Math.min(...ys))), last = Math.min(height - 1, Math.floor(Math.max(...ys)));
  const [red, green, blue] = colour, front = Math.round(256 * alpha), behind = Math.round(256 * alpha * 0.35);
  for (let y = first; y <= last; y++) {
    const cuts = [];
    for (let k = 0; k < ring.length; k++) {
      const a = ring[k], b = ring[(k + 1) % ring.length];
      if ((a[1] <= y) === (b[1] <= y)) continue;
      const t = (y - a[1]) / (b[1] - a[1]);
      cuts.push([a[0] + t * (b[0] - a[0]), a[2] + t * (b[2] - a[2])]);
    }
    if (cuts.length < 2) continue;
    cuts.sort((a, b) => a[0] - b[0]);
    const [l, r] = [cuts[0], cuts[cuts.length - 1]], by = (r[1] - l[1]) / (r[0] - l[0] || 1);
    const begin = Math.max(0, Math.ceil(l[0])), end = Math.min(width - 1, Math.floor(r[0]));
    for (let x = begin, at = y * width + begin; x <= end; x++, at++) {
      const part = l[1] + (x - l[0]) * by < depth[at] ? front : behind, old = out[at], r0 = old & 255, g0 = (old >> 8) & 255, b0 = (old >> 16) & 255;
      out[at] = (255 << 24) | ((b0 + (((blue - b0) * part) >> 8)) << 16) | ((g0 + (((green - g0) * part) >> 8)) << 8) | (r0 + (((red - r0) * part) >> 8));
    }
  }
}
function line(out, depth, width, height, a, b, colour, thick, ahead) {
  const steps = Math.ceil(Math.max(Math.abs(b[0] - a[0]), Math.abs(b[1] - a[1]), 1));
  if (steps > 20000) return;
  for (let k = 0; k <= steps; k++) {
    const t = k / steps, x = Math.round(a[0] + t * (b[0] - a[0])), y = Math.round(a[1] + t * (b[1] - a[1])), far = a[2] + t * (b[2] - a[2]) - ahead;
    for (let v = 0; v <= thick; v++) for (let u = 0; u <= thick; u++) {
      const [sx, sy] = [x + u, y + v];
      if (sx >= 0 && sy >= 0 && sx < width && sy < height && far <= depth[sy * width + sx]) out[sy * width + sx] = colour;
    }
  }
}

let scene = null, about = 0.6, tip = 0.45, zoom = 1, depth = null, asked = "", due = 0;
const root = () => document.getElementById("scene");
async function read() {
  if (!root().classList.contains("on") || !state.catalogue || asked === state.catalogue.stamp) { plan(); return; }
  asked = state.catalogue.stamp;
  const facts = await json(`scene/${state.store}`), points = await array(`scene/${state.store}?points=1`);
  scene = { ...facts, count: facts.points, points: points.values };
  plan();
}
export function plan() { if (!due) due = requestAnimationFrame(() => { due = 0; draw(); }); }
function draw() {
  const canvas = root().querySelector(".picture"), { w, h, ratio } = sized(canvas), context = canvas.getContext("2d");
  if (!scene || !root().classList.contains("on")) return;
  const image = context.createImageData(w, h);
  if (!depth || depth.length !== w * h) depth = new Float32Array(w * h);
  const begun = performance.now(), { project, corner } = render(image, depth, scene, about, tip, zoom, Math.max(2, Math.round(2 * ratio)));
  context.putImageData(image, 0, 0);
  canvas.dataset.ms = (performance.now() - begun).toFixed(1);
  context.font = `${11 * ratio}px system-ui, "DejaVu Sans", sans-serif`; context.fillStyle = "#1c2430"; context.textAlign = "center";
  const [mx, my] = project(scene.low.map((v, k) => (v + scene.high[k]) / 2));
  for (const [k, name] of [[1, "x"], [2, "y"], [4, "z"]]) { // beside the edge that is farthest from the middle of the picture
    const length = scene.high["xyz".indexOf(name)] - scene.low["xyz".indexOf(name)];
    const middles = [0, 1, 2, 3, 4, 5, 6, 7].filter(c => !(c & k)).map(c => [project(corner(c)), project(corner(c | k))]).map(([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2]);
    const away = ([u, v]) => Math.hypot(u - mx, v - my) + (v > my ? 1e-3 : 0), [u, v] = middles.sort((a, b) => away(b) - away(a))[0], far = away([u, v]) || 1;
    const text = `${name} ${short(length, 3)} ${unit(axis("x").units)}`, half = context.measureText(text).width / 2;
    context.fillText(text, Math.min(w - half, Math.max(half, u + (u - mx) / far * (half + 5 * ratio))), v + (v - my) / far * 12 * ratio + 4 * ratio);
  }
  const n = scene.planes.length;
  canvas.dataset.said = !n && !scene.count ? "no boundaries: run weak_beam_volume" : `${n} ${n === 1 ? "plane" : "planes"}, ${scene.lines.length} lines, ${scene.drawn} points`;
  context.textAlign = "left";
  context.fillText(canvas.dataset.said, 8 * ratio, h - 8 * ratio);
  canvas.dataset.points = String(scene.drawn);
}
export function startScene() {
  const canvas = root().querySelector(".picture");
  let from = null;
  canvas.onpointerdown = e => { from = [e.clientX, e.clientY, about, tip]; canvas.setPointerCapture(e.pointerId); };
  canvas.onpointermove = e => {
    if (!from) return;
    about = from[2] + (e.clientX - from[0]) * 0.01;
    tip = Math.max(-1.57, Math.min(1.57, from[3] + (e.clientY - from[1]) * 0.01));
    plan();
  };
  canvas.onpointerup = () => (from = null);
  canvas.addEventListener("wheel", e => { e.preventDefault(); zoom = Math.min(20, Math.max(0.3, zoom * 1.15 ** -Math.sign(e.deltaY))); plan(); }, { passive: false });
  on("catalogue tab", read);
  new ResizeObserver(plan).observe(canvas.parentElement);
}
export function show(given) { scene = given; plan(); } // for the benchmark
