// The page: which store, frame, map and place are shown; sliders, keys, and what changed on disk.

import * as S from "./state.js";
import { ImagePane, wholeFrame, zoomBy, forget, link } from "./image.js";
import { startCurve, curves } from "./curve.js";
import { startSections, navigator_, sections } from "./sections.js";
import { startScene, show } from "./scene.js";
import * as L from "./labels.js";
import { disc, limits, classCss } from "./colour.js";

const { state, on, tell, axis, known } = S;
const find = id => document.getElementById(id);
const MOSAICITY = "(mosaicity)";
let direction = { name: "", by: 1 }, playing = 0, tracks = null, outlined = null, wantedOutline = "", tilted = {};

// ---- message line
function message(text, bad = false) {
  find("message").textContent = text;
  find("message").hidden = !text;
  find("message").className = bad ? "bad" : "";
}
window.addEventListener("unhandledrejection", event => message(event.reason?.message ?? String(event.reason), true));

// ---- sources of both images
const counts = () => {
  const one = known("raw/counts");
  return one && { ...one, sides: ["y", "x"], at: S.indexText(one.dims), kind: "map" };
};
function chosenMap() {
  const tilts = state.variable === MOSAICITY, one = known(tilts ? `rocking/com_${S.scanAxes()[0]}` : state.variable);
  if (!one) return null;
  const lattice = one.dims.includes("patch_y"), extra = one.dims.filter(d => !["y", "x", "z", "patch_y", "patch_x", ...S.scanAxes()].includes(d));
  const part = find("map").querySelector(".part"), sizes = extra.map(d => one.shape[one.dims.indexOf(d)]), total = sizes.reduce((a, b) => a * b, 1);
  if (part.dataset.of !== one.name) {
    part.replaceChildren(...(extra.length ? Array.from({ length: total }, (_, k) => new Option(extra.map((d, i) => `${d} ${Math.floor(k / sizes.slice(i + 1).reduce((a, b) => a * b, 1)) % sizes[i]}`).join(", "), k)) : []));
    part.hidden = !extra.length; part.dataset.of = one.name;
  }
  const k = +part.value || 0;
  extra.forEach((d, i) => (state.index[d] = Math.floor(k / sizes.slice(i + 1).reduce((a, b) => a * b, 1)) % sizes[i]));
  const classes = /int/.test(one.dtype) && one.group !== "raw" && !/count|number of/.test(one.long_name);
  return { ...one, sides: lattice ? ["patch_y", "patch_x"] : ["y", "x"], at: S.indexText(one.dims), kind: one.kind === "flags" || classes ? "classes" : one.kind, combined: tilts ? mosaicity : null };
}

const frame = new ImagePane("frame", counts, {
  counts: true, colours: "grey", failed,
  limits: () => {
    const m = navigator_, k = ((state.index.z ?? 0) * (m.shape?.[1] ?? 0) + S.frameIndex()) * 2;
    return m.limits && Number.isFinite(m.limits[k]) ? [m.limits[k], m.limits[k + 1]] : null;
  },
  next: () => {
    const name = direction.name, one = axis(name);
    if (!one) return null;
    const index = (state.index[name] ?? 0) + direction.by;
    if (index < 0 || index >= one.size) return null;
    return known("raw/counts").dims.filter(d => d !== "y" && d !== "x").map(d => `${d}:${d === name ? index : state.index[d] ?? 0}`).join(",");
  },
  drawing: L.drawing, drawn: L.drawn,
  below: (context, toScreen, v) => { outline(context, toScreen, v); L.drawBoxes(context, toScreen, v); drawTracks(context, toScreen, v); },
});
const map = new ImagePane("map", chosenMap, { failed, below: outline, above: wheel, none: "no maps: run the recipe maps", next: () => {
  const one = chosenMap(), index = (state.index.z ?? 0) + direction.by;
  if (!one || one.combined || direction.name !== "z" || index < 0 || index >= axis("z").size) return null;
  return one.dims.filter(d => !one.sides.includes(d)).map(d => `${d}:${d === "z" ? index : state.index[d] ?? 0}`).join(",");
} });
const take = map.take.bind(map);
map.take = (wish, made) => { // derived pictures: P(weak) before and after training, and the tilt of two centres
  const asked = L.compare.mode;
  if (asked && L.compare.values && wish.source.name === "beams/p_weak") {
    const fresh = L.slice(L.compare.values);
    if (asked === 2) made = { ...fresh };
    if (asked === 3) made = { ...fresh, values: fresh.values.map((v, k) => v - made.values[k]), limits: [-1, 1] };
    if (asked < 3) made = { ...made, limits: [0, 1] };
  }
  take(wish, made);
};
async function mosaicity(wish, made) {
  const [a, b] = S.scanAxes(), second = await S.array(wish.url.replace(`com_${a}`, `com_${b}`)), of = wish.key.replace(/&box=.*/, "");
  const first = made.values, rgb = new Uint32Array(first.length), middle = values => { const [low, high] = limits(values, 0.02, 0.98); return [(low + high) / 2, (high - low) / 2 || 1]; };
  if (tilted.of !== of) tilted = { of, ranges: [middle(first), middle(second.values)] };
  const ranges = tilted.ranges, [[m1, r1], [m2, r2]] = ranges;
  for (let k = 0; k < first.length; k++) {
    const [r, g, bl] = Number.isFinite(first[k] + second.values[k]) ? disc((first[k] - m1) / r1, (second.values[k] - m2) / r2) : [184, 184, 184];
    rgb[k] = (255 << 24) | (bl << 16) | (g << 8) | r;
  }
  return { ...made, rgb, second: second.values, ranges };
}
function wheel(context, v) { // the key of the mosaicity, with the range of both centres
  if (!map.got?.rgb) return;
  const r = Math.round(30 * v.ratio), image = new ImageData(2 * r, 2 * r), [a, b] = S.scanAxes();
  context.font = `${10.5 * v.ratio}px system-ui, "DejaVu Sans", sans-serif`; context.textAlign = "left";
  const said = (name, [middle, reach]) => `${name} ${S.short(middle, 3)} ± ${S.short(reach, 2)} ${S.unit(axis(name).units)}`;
  const words = [`up: ${said(b, map.got.ranges[1])}`, `right: ${said(a, map.got.ranges[0])}`], wide = Math.max(...words.map(one => context.measureText(one).width));
  const [x, y] = [v.w - wide - 10 * v.ratio, v.h - 2 * r - 22 * v.ratio];
  for (let i = 0; i < 2 * r; i++) for (let j = 0; j < 2 * r; j++) {
    const [p, q] = [(j - r + 0.5) / r, (r - i - 0.5) / r];
    if (p * p + q * q <= 1) image.data.set([...disc(p, q), 255], 4 * (i * 2 * r + j));
  }
  const small = new OffscreenCanvas(2 * r, 2 * r);
  small.getContext("2d").putImageData(image, 0, 0);
  context.fillStyle = "rgba(255,255,255,.82)";
  context.fillRect(x - 6 * v.ratio, y - 18 * v.ratio, wide + 16 * v.ratio, 2 * r + 36 * v.ratio);
  context.drawImage(small, x + (wide - 2 * r) / 2, y);
  context.fillStyle = "#1c2430";
  context.fillText(words[0], x, y - 6 * v.ratio);
  context.fillText(words[1], x, y + 2 * r + 13 * v.ratio);
}
function failed(error) {
  if (error.status === 410) gone(error.message);
  else message(error.message, true);
}

// ---- overlays
async function readOutline() {
  const one = known(state.outline);
  wantedOutline = "";
  if (!one) { outlined = null; tell("labels"); return; }
  if (one.kind === "lattice") {
    const url = `image/${state.store}/${one.name}?at=${S.indexText(one.dims)}`, key = state.catalogue.stamp + url;
    if (outlined?.key === key) return;
    wantedOutline = key;
    const lattice = await S.array(url);
    if (wantedOutline === key) { outlined = { key, lattice }; tell("labels"); }
    return;
  }
  const at = S.indexText(one.dims), url = `image/${state.store}/${one.name}?at=${at}&step=${Math.max(1, 2 ** Math.floor(Math.log2(axis("x").size / 700)))}`, key = state.catalogue.stamp + url;
  if (outlined?.key === key) return;
  wantedOutline = key;
  const made = await S.array(url);
  if (wantedOutline !== key) return; // another one was asked for meanwhile
  const step = +/step=(\d+)/.exec(url)[1], [rows, columns] = made.shape, sides = [];
  const set = (i, j) => i >= 0 && j >= 0 && i < rows && j < columns && made.values[i * columns + j] >= 0.5;
  for (let i = 0; i <= rows; i++) for (let j = 0; j <= columns; j++) {
    if (set(i, j) !== set(i - 1, j)) sides.push(i, j, i, j + 1);
    if (set(i, j) !== set(i, j - 1)) sides.push(i, j, i + 1, j);
  }
  outlined = { key, sides, step };
  tell("labels");
}
function outline(context, toScreen, v) {
  if (!outlined) return;
  const [y, x] = [axis("y"), axis("x")], k = outlined.step;
  if (outlined.lattice) { patches(context, toScreen, v); return; }
  const at = (i, j) => toScreen({ x: x.first + (Math.min(j * k, x.size) - 0.5) * x.step, y: y.first + (Math.min(i * k, y.size) - 0.5) * y.step }, v);
  context.strokeStyle = "#e69f00"; context.lineWidth = 1.3 * v.ratio; context.beginPath();
  for (let s = 0; s < outlined.sides.length; s += 4) {
    context.moveTo(...at(outlined.sides[s], outlined.sides[s + 1])); context.lineTo(...at(outlined.sides[s + 2], outlined.sides[s + 3]));
  }
  context.stroke();
}
function patches(context, toScreen, v) { // one frame a patch, orange weak to blue strong, with its number where there is room
  const { values, shape: [rows, columns] } = outlined.lattice, [y, x] = [axis("y"), axis("x")], size = state.catalogue.patch;
  context.font = `${11 * v.ratio}px system-ui, "DejaVu Sans", sans-serif`; context.textAlign = "center"; context.lineWidth = 2 * v.ratio;
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
    const p = values[i * columns + j];
    if (!Number.isFinite(p)) continue;
    const [r0, c0] = [Math.min(i * size, Math.max(0, y.size - size)), Math.min(j * size, Math.max(0, x.size - size))];
    const [a, b] = [[r0, c0], [Math.min(r0 + size, y.size), Math.min(c0 + size, x.size)]].map(([r, c]) => toScreen({ x: x.first + (c - 0.5) * x.step, y: y.first + (r - 0.5) * y.step }, v));
    const inset = 2 * v.ratio, ramp = (low, high) => Math.round(low + (high - low) * p);
    context.strokeStyle = context.fillStyle = `rgb(${ramp(86, 230)} ${ramp(180, 159)} ${ramp(233, 0)})`;
    context.strokeRect(a[0] + inset, a[1] + inset, b[0] - a[0] - 2 * inset, b[1] - a[1] - 2 * inset);
    if (b[0] - a[0] > 36 * v.ratio) {
      const at = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2 + 4 * v.ratio];
      context.strokeStyle = "rgba(20,24,30,.75)"; context.lineWidth = 3 * v.ratio; context.strokeText(p.toFixed(2), ...at);
      context.lineWidth = 2 * v.ratio; context.fillText(p.toFixed(2), ...at);
    }
  }
}
function drawTracks(context, toScreen, v) {
  if (!tracks?.frame.length) return;
  const now = S.frameIndex(), last = new Map();
  context.lineWidth = 1.5 * v.ratio;
  for (let k = 0; k < tracks.frame.length; k++) {
    const t = tracks.track[k];
    if (t === null || t < 0 || tracks.frame[k] > now) continue;
    const at = toScreen({ x: tracks.x[k], y: tracks.y[k] }, v), before = last.get(t);
    if (before && now - tracks.frame[k] < 30) { context.strokeStyle = classCss(t + 1); context.beginPath(); context.moveTo(...before); context.lineTo(...at); context.stroke(); }
    last.set(t, at);
    if (tracks.frame[k] === now) { context.strokeStyle = classCss(t + 1); context.beginPath(); context.arc(...at, 7 * v.ratio, 0, 7); context.stroke(); }
  }
}

// ---- sliders
function sliders() {
  const names = ["z", ...S.scanAxes()].filter(name => axis(name)?.size > 1);
  find("sliders").replaceChildren(...names.map(name => {
    const one = axis(name), row = document.createElement("label"), slide = document.createElement("input"), field = document.createElement("input"), said = document.createElement("span");
    said.textContent = name; said.title = one.long_name;
    Object.assign(slide, { type: "range", min: 0, max: one.size - 1, value: state.index[name] ?? 0, id: `slide-${name}` });
    Object.assign(field, { type: "text", id: `value-${name}`, title: `${one.long_name}: type a value` });
    slide.oninput = () => move(name, +slide.value);
    field.onchange = () => Number.isFinite(+field.value) && move(name, S.nearest(name, +field.value));
    const units = document.createElement("span");
    units.textContent = S.unit(one.units);
    row.append(said, slide, field, units);
    return row;
  }));
  showIndex();
}
function showIndex() {
  for (const name of ["z", ...S.scanAxes()]) {
    const slide = find(`slide-${name}`), field = find(`value-${name}`), value = axis(name) && S.valueAt(name, state.index[name] ?? 0);
    if (slide) slide.value = state.index[name] ?? 0;
    if (field && document.activeElement !== field) field.value = S.short(value, 6);
  }
  document.querySelector("#frame .position").textContent = ["z", ...S.scanAxes()].filter(name => axis(name)).map(name => `${name} ${S.short(S.valueAt(name, state.index[name] ?? 0), 6)} ${S.unit(axis(name).units)}`).join(", ");
}
export function move(name, index) {
  const one = axis(name);
  if (!one) return;
  const next = Math.min(one.size - 1, Math.max(0, index)), before = state.index[name] ?? 0;
  if (next === before) return;
  direction = { name, by: Math.sign(next - before) };
  state.index[name] = next;
  tell("index", name);
}
function play() {
  clearInterval(playing);
  if (playing) { playing = 0; find("play").classList.remove("on"); return; }
  find("play").classList.add("on");
  playing = setInterval(() => {
    const name = S.moving();
    if (name && frame.got?.key === frame.wanted?.key) move(name, ((state.index[name] ?? 0) + 1) % axis(name).size);
  }, 120);
}

// ---- variables
function variables() {
  const choice = find("map").querySelector(".variable"), groups = new Map();
  for (const one of state.catalogue.variables) if (one.name !== "raw/counts") groups.set(one.group, [...(groups.get(one.group) ?? []), one]);
  choice.replaceChildren(...[...groups].map(([group, ones]) => {
    const holder = document.createElement("optgroup");
    holder.label = group;
    holder.append(...ones.map(one => Object.assign(new Option(`${one.name.split("/")[1]}${one.complete ? "" : " (not complete)"}`, one.name), { title: `${one.long_name} (${one.units})` })));
    return holder;
  }));
  if (state.catalogue.mosaicity) choice.prepend(new Option("mosaicity", MOSAICITY));
  const first = ["beams/weak", `rocking/com_${S.moving()}`, "rocking/total"].find(name => known(name)) ?? state.catalogue.variables.find(one => one.name !== "raw/counts" && one.kind === "map")?.name ?? "";
  if (state.variable !== MOSAICITY && !known(state.variable)) state.variable = first;
  choice.value = state.variable;
  const masks = find("outline");
  const lattices = state.catalogue.variables.filter(one => one.kind === "lattice" && one.group !== "raw");
  masks.replaceChildren(new Option("none", ""), ...lattices.map(one => new Option(`${one.name.split("/")[1]} patches`, one.name)), ...state.catalogue.variables.filter(one => one.kind === "mask").map(one => new Option(one.name.split("/")[1], one.name)));
  masks.value = state.outline;
}
function facts() {
  const c = state.catalogue, table = document.createElement("table");
  const row = (a, b) => { const tr = table.insertRow(); tr.insertCell().textContent = a; tr.insertCell().textContent = b; };
  row("store", c.path); row("title", c.title); row("command", c.command);
  for (const [name, one] of Object.entries(c.axes)) row(name, `${one.size} from ${S.short(one.first)} to ${S.short(S.valueAt(name, one.size - 1))} ${S.unit(one.units)}`);
  for (const problem of c.problems) row("not complete", problem);
  const one = known(state.variable);
  document.querySelector("#map .position").textContent = one?.long_name ?? "";
  document.querySelector("#map .position").title = one?.long_name ?? "";
  if (one) row(one.name, `${one.long_name} (${S.unit(one.units) || "1"}), ${one.dims.join(", ")}, ${one.dtype}`);
  find("facts").replaceChildren(table);
}

// ---- the store on disk
async function open(first = false) {
  const before = state.catalogue;
  state.catalogue = await S.json(`catalogue/${state.store}`);
  const anew = before && before.identity !== state.catalogue.identity;
  if (anew) { message(`${state.catalogue.name} was overwritten: this page shows the new scan.`); Object.assign(state, { centre: null, zoom: 0, second: null }); }
  document.body.classList.toggle("nocounts", !known("raw/counts"));
  document.title = `${state.catalogue.name} – dfxm_dask`;
  find("title").textContent = state.catalogue.title;
  const scan = S.scanAxes();
  for (const name of ["z", ...scan]) if (axis(name) && !(state.index[name] < axis(name).size)) state.index[name] = Math.floor(axis(name).size / 2);
  if (first) {
    const given = S.readAddress();
    if (!state.variable && given.get("var") === MOSAICITY) state.variable = MOSAICITY;
  }
  if (first || anew) {
    if (!state.cursor || !S.inside(S.pixelOf(state.cursor))) state.cursor = { x: S.valueAt("x", Math.floor(axis("x").size / 2)), y: S.valueAt("y", Math.floor(axis("y").size / 2)) };
  }
  map.colours = map.find(".colours").value;
  variables(); sliders(); facts();
  tracks = scan.length && scan[0] === "time" ? await S.json(`tracks/${state.store}`) : null;
  tell("catalogue", "tracks");
  frame.update(); map.update();
  readOutline();
  if (state.catalogue.problems.length) message(`Not complete: ${state.catalogue.problems[0]}`);
  else if (before?.problems.length) message("");
}
function gone(text) { message(`${text}. What this page still shows may not exist any more.`, true); }
async function watch() {
  try {
    const asked = state.store, now = await S.json(`version/${asked}`);
    if (asked === state.store && state.catalogue && now.stamp !== state.catalogue.stamp) { await open(); }
    if (find("message").className === "bad") { message(""); for (const pane of [frame, map]) if (pane.failed) { pane.got = null; pane.update(); } }
  } catch (error) {
    if (error.status === 410) gone(error.message);
    else if (error.status === 400 || error.status === 500) message(error.message, true);
    else if (error.status === 403) message(`${error.message}: start dfxm-dask view again and use its new address.`, true);
    else message("The server does not answer. Is dfxm-dask view still running?", true);
  }
  setTimeout(watch, 2000);
}

// ---- copies
const python = () => {
  const c = state.catalogue, part = c.problems.length ? ", allow_partial=True" : "";
  const line = (word, name) => {
    const one = known(name), free = one.dims.filter(d => !["y", "x", "patch_y", "patch_x"].includes(d)), [group, own] = name.split("/");
    const near = free.filter(d => axis(d)).map(d => `${d}=${Number(S.valueAt(d, state.index[d] ?? 0).toPrecision(9))}`), other = free.filter(d => !axis(d)).map(d => `${d}=${state.index[d] ?? 0}`);
    return `${word} = scan["${group}"]["${own}"]${near.length ? `.sel(${near.join(", ")}, method="nearest")` : ""}${other.length ? `.isel(${other.join(", ")})` : ""}`;
  };
  const maps = state.variable === MOSAICITY ? S.scanAxes().map(name => `rocking/com_${name}`) : [state.variable];
  return [`import dfxm_dask`, `scan = dfxm_dask.open_scan(${JSON.stringify(c.path)}, chunks=None${part})`, ...(known("raw/counts") ? [line("frame", "raw/counts")] : []), ...maps.filter(known).map(name => line(maps.length > 1 ? name.split("/")[1] : "image", name))].join("\n") + "\n";
};

// ---- keys
function key(event) {
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "range" && event.target.type !== "checkbox") return;
  const name = S.moving(), others = S.scanAxes().filter(one => one !== name && axis(one).size > 1), k = state.index;
  const scan = event.shiftKey && others.length ? others[0] : name;
  const acts = {
    ArrowRight: () => move(scan, (k[scan] ?? 0) + 1), ArrowLeft: () => move(scan, (k[scan] ?? 0) - 1),
    ArrowUp: () => move("z", (k.z ?? 0) + 1), ArrowDown: () => move("z", (k.z ?? 0) - 1),
    " ": play, "+": () => zoomBy(frame, 1.5), "=": () => zoomBy(frame, 1.5), "-": () => zoomBy(frame, 1 / 1.5), 0: wholeFrame, 1: one,
    w: () => L.label("weak"), s: () => L.label("strong"), u: () => L.label("unlit"), a: () => L.label("ambiguous"), n: L.uncertain,
    l: () => { find("drawing").checked = !find("drawing").checked; if (find("drawing").checked) tab("labels"); }, "?": () => find("keys").showModal(),
  };
  if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); L.undo(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || !acts[event.key]) return;
  event.preventDefault();
  acts[event.key]();
}
function one() { // the finer side of a pixel on one screen pixel; around the cursor
  state.zoom = 1 / Math.min(Math.abs(axis("x").step), Math.abs(axis("y").step)) / (window.devicePixelRatio || 1);
  state.centre = state.cursor ? { ...state.cursor } : frame.view().middle;
  tell("view");
}
function tab(name) {
  for (const one of document.querySelectorAll(".tab")) one.classList.toggle("on", one.id === name);
  for (const one of document.querySelectorAll("[data-tab]")) one.classList.toggle("on", one.dataset.tab === name);
  find("ofmap").parentElement.hidden = name !== "zx";
  tell("tab", "section");
}

async function start() {
  const stores = await S.json("stores"), wanted = new URLSearchParams(location.hash.slice(1)).get("store");
  find("store").replaceChildren(...stores.map(one => new Option(one.name, one.number)));
  find("store").hidden = stores.length < 2;
  state.store = stores.find(one => one.name === wanted)?.number ?? 0;
  find("store").value = state.store;
  find("store").onchange = async event => {
    Object.assign(state, { store: +event.target.value, catalogue: null, index: {}, centre: null, zoom: 0, second: null, cursor: null });
    forget();
    await open(true);
  };
  find("map").querySelector(".variable").onchange = event => { state.variable = event.target.value; map.manual = null; tell("variable"); };
  find("map").querySelector(".part").onchange = () => tell("variable");
  find("outline").onchange = event => { state.outline = event.target.value; readOutline(); S.writeAddress(); };
  find("play").onclick = play; find("fit").onclick = wholeFrame; find("one").onclick = one;
  find("link").onclick = () => L.copy(location.href.split("#")[0] + "#" + S.address(), "a link to this view, without the token");
  find("python").onclick = () => L.copy(python(), "Python");
  find("help").onclick = () => find("keys").showModal();
  for (const button of document.querySelectorAll("[data-tab]")) button.onclick = () => tab(button.dataset.tab);
  document.addEventListener("keydown", key);
  window.addEventListener("hashchange", () => { // another address in this tab
    const given = new URLSearchParams(location.hash.slice(1));
    if (given.has("token") || (given.get("store") ?? stores[0].name) !== state.catalogue.name) { location.reload(); return; }
    Object.assign(state, { centre: null, zoom: 0, second: null });
    S.readAddress();
    variables(); showIndex();
    tell("index", "z", "cursor", "view", "variable");
    readOutline();
  });

  on("index", words => {
    showIndex();
    frame.update(true);
    const shown = chosenMap();
    if (words.includes("z") || shown?.dims.some(d => words.includes(d)) || (words.length === 1 && shown?.dims.some(d => S.scanAxes().includes(d)))) map.update(true);
    if (words.includes("z") || known(state.outline)?.kind === "lattice") readOutline();
  });
  on("view", () => { frame.update(true); map.update(true); });
  on("variable", () => { map.colours = map.find(".colours").value; map.got = null; map.update(); facts(); });
  on("compare", () => { state.variable = "beams/p_weak"; find("map").querySelector(".variable").value = state.variable; map.got = null; map.update(); });
  on("contrast", () => frame.repaint());
  on("index cursor view variable", S.writeAddress);
  startCurve(); startSections(); startScene();
  L.startLabels(() => frame.visible(frame.view()));
  tab("zx");
  await open(true);
  setTimeout(watch, 2000);
}
start().catch(error => message(error.status === 403 ? `${error.message}: open the address that dfxm-dask view printed.` : error.message, true));

window.dfxm = { state, move, tell, frame, map, show, tab, S, python, link, curves, sections, navigator_, forget }; // for the console and for tests
