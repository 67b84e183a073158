// Colour tables that people with any colour vision can read: even in lightness, or from blue to orange through white.

const STOPS = {
  grey: ["#000000", "#ffffff"],
  viridis: ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"],
  cividis: ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"],
  magma: ["#000004", "#140e36", "#3b0f70", "#641a80", "#8c2981", "#b73779", "#de4968", "#f7705c", "#fe9f6d", "#fecf92", "#fcfdbf"],
  "blue–orange": ["#123a6b", "#2f6fae", "#7fb2d8", "#d3e4f0", "#f7f7f5", "#f7dcc0", "#ec9f5c", "#c2600f", "#71340a"],
};
export const NAMES = Object.keys(STOPS);
export const NONE = [184, 184, 184], NONE_IN_GREY = [173, 190, 214]; // NaN: neutral grey, bluish where the table is grey

const kept = new Map();
export function table(name) {
  if (!kept.has(name)) {
    const stops = (STOPS[name] ?? STOPS.viridis).map(s => [1, 3, 5].map(k => parseInt(s.slice(k, k + 2), 16)));
    const out = new Uint32Array(257);
    for (let k = 0; k < 256; k++) {
      const at = (k / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2), part = at - low;
      const [r, g, b] = [0, 1, 2].map(c => Math.round(stops[low][c] * (1 - part) + stops[low + 1][c] * part));
      out[k] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
    const [r, g, b] = name === "grey" ? NONE_IN_GREY : NONE;
    out[256] = (255 << 24) | (b << 16) | (g << 8) | r;
    kept.set(name, out);
  }
  return kept.get(name);
}

// Pixels of values between two limits; counts (uint16) by a table of all their values.
export function paint(values, low, high, scale, colours, out) {
  const lut = table(colours), span = high - low || 1;
  const place = scale === "sqrt" ? v => Math.sqrt(v) : scale === "log" ? v => Math.log1p(v * 999) / Math.log(1000) : v => v;
  const level = v => (v !== v ? 256 : Math.round(255 * place(Math.min(Math.max((v - low) / span, 0), 1))));
  if (values instanceof Uint16Array && values.length > 60000) {
    const all = new Uint32Array(65536);
    const first = Math.max(0, Math.floor(low)), last = Math.min(65535, Math.ceil(high));
    all.fill(lut[level(low)], 0, first);
    for (let v = first; v <= last; v++) all[v] = lut[level(v)];
    all.fill(lut[level(high)], last + 1);
    for (let k = 0; k < values.length; k++) out[k] = all[values[k]];
    return;
  }
  if (scale === "linear") {
    const by = 255 / span;
    for (let k = 0; k < values.length; k++) {
      const v = (values[k] - low) * by;
      out[k] = lut[v !== v ? 256 : v <= 0 ? 0 : v >= 255 ? 255 : (v + 0.5) | 0];
    }
    return;
  }
  for (let k = 0; k < values.length; k++) out[k] = lut[level(values[k])];
}

// Classes, labels and flags: one colour each, zero light grey. Of several flags the first one counts.
export function paintClasses(values, out, masks = []) {
  const first = v => { for (let k = 0; k < masks.length; k++) if (v & masks[k]) return k + 1; return 0; };
  for (let k = 0; k < values.length; k++) {
    const v = masks.length ? first(values[k]) : values[k];
    out[k] = v === 0 ? (255 << 24) | 0xe9e6e4 : v < 0 ? table("viridis")[256] : classColour(v);
  }
}
const SAFE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7a5fb0", "#8c6d31", "#5b8c5a"];
export const classCss = v => SAFE[(Math.abs(v) - 1 + SAFE.length) % SAFE.length];
function classColour(v) {
  const s = classCss(v);
  return (255 << 24) | (parseInt(s.slice(5, 7), 16) << 16) | (parseInt(s.slice(3, 5), 16) << 8) | parseInt(s.slice(1, 3), 16);
}

// Orientation of two centres: hue by direction, saturation by distance from the middle, as in the figure mosaicity.
export function disc(u, v) {
  const r = Math.min(Math.hypot(u, v), 1), h = ((Math.atan2(v, u) / (2 * Math.PI)) + 1) % 1 * 6;
  const f = n => { const k = (n + h) % 6; return Math.round(255 * (1 - r * Math.max(0, Math.min(k, 4 - k, 1)))); };
  return [f(5), f(3), f(1)];
}

export function limits(values, low = 0.01, high = 0.99) {
  const some = [], step = Math.max(1, Math.floor(values.length / 20000));
  for (let k = 0; k < values.length; k += step) if (Number.isFinite(values[k])) some.push(values[k]);
  if (!some.length) return [0, 1];
  some.sort((a, b) => a - b);
  const at = q => some[Math.min(some.length - 1, Math.max(0, Math.round(q * (some.length - 1))))];
  const [a, b] = [at(low), at(high)];
  return b > a ? [a, b] : [a - (Math.abs(a) * 0.01 || 0.5), a + (Math.abs(a) * 0.01 || 0.5)];
}
export function drawKey(canvas, colours, scale = "linear") {
  const n = canvas.width, context = canvas.getContext("2d"), image = context.createImageData(n, canvas.height);
  const values = new Float32Array(n * canvas.height).map((_, k) => (k % n) / (n - 1));
  paint(values, 0, 1, scale, colours, new Uint32Array(image.data.buffer));
  context.putImageData(image, 0, 0);
}
