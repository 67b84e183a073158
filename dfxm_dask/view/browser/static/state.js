// The state of the page, its parts in the address, and requests with the token.

export const state = {
  store: 0, catalogue: null, index: {}, cursor: null, second: null, centre: null, zoom: 0,
  variable: "", outline: "", part: 0,
};
const listeners = new Map();

// Parts of the page listen to words: "index", "cursor", "view", "variable", "catalogue", "labels", "contrast".
export function on(words, heard) {
  for (const word of words.split(" ")) listeners.set(word, [...(listeners.get(word) ?? []), heard]);
}
export function tell(...words) {
  const heard = new Set();
  for (const word of words) for (const one of listeners.get(word) ?? []) heard.add(one);
  for (const one of heard) one(words);
}

export const REST = 150; // ms without motion after which what follows a slider is fetched in full
export function rested(act) { // act once the sliders rest, so that the frame comes first
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(act, REST); };
}

// ---- the token: from the fragment, kept for this tab, never in the address bar, a log or a Referer
const KEY = "dfxm-token:" + location.pathname;
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("token")) {
    sessionStorage.setItem(KEY, given.get("token"));
    given.delete("token");
    history.replaceState(null, "", location.pathname + location.search + (String(given) ? "#" + given : ""));
  }
  return sessionStorage.getItem(KEY) ?? "";
}
export const token = takeToken();

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}
export async function request(path, options = {}) {
  const answer = await fetch("api/" + path, { ...options, headers: { "X-Dfxm-Token": token, ...(options.headers ?? {}) } });
  if (!answer.ok) {
    let text = `${answer.status} ${answer.statusText}`;
    try { text = (await answer.json()).error ?? text; } catch { /* not JSON */ }
    throw new Refused(answer.status, text);
  }
  return answer;
}
export const json = async (path, options) => (await request(path, options)).json();
export const post = (path, body, method = "POST") =>
  json(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

const TYPES = {
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int8: Int8Array, int16: Int16Array, int32: Int32Array,
  float32: Float32Array, float64: Float64Array,
};
export async function array(path, options) {
  const answer = await request(path, options);
  const body = await answer.arrayBuffer();
  const shape = answer.headers.get("X-Shape").split(",").map(Number);
  const lacking = answer.headers.get("X-Missing") ?? "";
  const server = +(answer.headers.get("X-Ms") ?? 0);
  return { values: new TYPES[answer.headers.get("X-Dtype")](body), shape, missing: lacking ? lacking.split(";") : [], bytes: body.byteLength, server };
}

// ---- axes in physical values
export const axis = name => state.catalogue.axes[name];
export const scanAxes = () => state.catalogue.scan;
export const moving = () => scanAxes().find(name => axis(name).size > 1) ?? scanAxes()[0];
export function valueAt(name, index) {
  const one = axis(name);
  return one.values ? one.values[index] : one.first + one.step * index;
}
export function nearest(name, value) {
  const one = axis(name);
  if (!one.values) return Math.min(Math.max(Math.round((value - one.first) / one.step), 0), one.size - 1);
  let best = 0;
  for (let k = 1; k < one.size; k++) if (Math.abs(one.values[k] - value) < Math.abs(one.values[best] - value)) best = k;
  return best;
}
export const unit = words => ({ um: "µm", degree: "°", "1": "", count: "counts", pixel: "px" })[words] ?? words;
export function short(value, digits = 5) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 2) : String(Number(value.toPrecision(digits)));
}
export const known = name => state.catalogue.variables.find(one => one.name === name);
export const frameIndex = () => scanAxes().reduce((at, name) => at * axis(name).size + (state.index[name] ?? 0), 0);
export function indexText(dims, sides = ["y", "x", "patch_y", "patch_x"]) {
  return dims.filter(d => !sides.includes(d)).map(d => `${d}:${state.index[d] ?? 0}`).join(",");
}

// ---- the address: physical values, which survive another ingest
export function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of ["z", ...scanAxes()]) if (given.has(name) && axis(name) && Number.isFinite(+given.get(name))) state.index[name] = nearest(name, +given.get(name));
  const at = name => (given.has(name) && Number.isFinite(+given.get(name)) ? +given.get(name) : null);
  if (at("x") !== null && at("y") !== null) state.cursor = { x: at("x"), y: at("y") };
  if (at("x2") !== null && at("y2") !== null) state.second = { x: at("x2"), y: at("y2") };
  if (at("cx") !== null && at("cy") !== null && at("k") > 0) { state.centre = { x: at("cx"), y: at("cy") }; state.zoom = at("k"); }
  if (known(given.get("var"))) state.variable = given.get("var");
  if (known(given.get("outline"))) state.outline = given.get("outline");
  return given;
}
export function address() {
  const said = new URLSearchParams();
  if (state.store) said.set("store", state.catalogue.name);
  for (const name of ["z", ...scanAxes()]) if (axis(name)) said.set(name, Number(valueAt(name, state.index[name] ?? 0).toPrecision(9)));
  const set = (name, value) => said.set(name, Number(value.toPrecision(7)));
  if (state.cursor) { set("x", state.cursor.x); set("y", state.cursor.y); }
  if (state.second) { set("x2", state.second.x); set("y2", state.second.y); }
  if (state.zoom && state.centre) { set("cx", state.centre.x); set("cy", state.centre.y); set("k", state.zoom); }
  if (state.variable) said.set("var", state.variable);
  if (state.outline) said.set("outline", state.outline);
  return String(said).replaceAll("%2F", "/");
}
let waiting = 0;
export function writeAddress() {
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, "", "#" + address()), 200);
}

// Pixel under a position in um, and back; the position of a pixel is its middle.
export const pixelOf = at => ({ row: Math.round((at.y - axis("y").first) / axis("y").step), column: Math.round((at.x - axis("x").first) / axis("x").step) });
export const inside = p => p.row >= 0 && p.column >= 0 && p.row < axis("y").size && p.column < axis("x").size;
