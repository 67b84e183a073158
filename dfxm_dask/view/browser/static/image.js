// An image on its scale in um: fetched binned for the screen, painted in the page, with marks above it.

import { REST, state, on, tell, axis, array, request, pixelOf, inside, short, unit } from "./state.js";
import { paint, paintClasses, limits, drawKey, classCss, NAMES, table } from "./colour.js";

const KEPT = 48; // images in memory
const cache = new Map();
export const link = { slow: false }; // whether the last images took long on the way: JPEG while moving then
function keep(key, made) {
  cache.set(key, made);
  while (cache.size > KEPT) cache.delete(cache.keys().next().value);
}

export function fitted(width, height) {
  const [x, y] = [axis("x"), axis("y")];
  return Math.min(width / (x.size * Math.abs(x.step)), height / (y.size * Math.abs(y.step)));
}
export function wholeFrame() {
  state.zoom = 0;
  state.centre = null;
  tell("view");
}

export function sized(canvas) {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  const [w, h] = [Math.max(1, Math.round(box.width * ratio)), Math.max(1, Math.round(box.height * ratio))];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  return { w, h, ratio };
}

export class ImagePane {
  // source() gives {name, path, sides, at, kind, units} or null; contrast() gives {low, high} or null for automatic.
  constructor(id, source, options = {}) {
    this.root = document.getElementById(id);
    this.find = one => this.root.querySelector(one);
    this.picture = this.find(".picture");
    this.marks = this.find(".marks");
    this.source = source;
    this.options = options;
    this.colours = options.colours ?? "viridis";
    this.manual = null;
    this.automatic = new Map();
    this.got = null; this.busy = null; this.wanted = null; this.painted = null; this.timer = 0; this.failed = "";
    for (const name of NAMES) this.find(".colours").add(new Option(name));
    this.find(".colours").value = this.colours;
    this.find(".colours").onchange = e => { this.colours = e.target.value; this.repaint(); };
    this.find(".auto").onclick = () => { this.manual = null; this.automatic.clear(); if (this.got) this.got.limits = null; this.repaint(); };
    for (const end of [".low", ".high"]) this.find(end).onchange = () => this.typed();
    if (this.find(".scale")) this.find(".scale").onchange = () => this.repaint();
    this.gestures();
    new ResizeObserver(() => this.update(true)).observe(this.picture.parentElement);
    on("cursor labels tracks", () => this.drawMarks());
  }
  get scale() { return this.find(".scale")?.value ?? "linear"; }
  typed() {
    const [low, high] = [+this.find(".low").value, +this.find(".high").value];
    if (Number.isFinite(low) && Number.isFinite(high) && high > low) { this.manual = [low, high]; this.repaint(); }
  }

  // ---- geometry: screen pixels per um (one number for both sides), middle of the screen in um
  view() {
    const { w, h, ratio } = sized(this.picture);
    const zoom = state.zoom ? state.zoom * ratio : fitted(w, h);
    const [x, y] = [axis("x"), axis("y")];
    const middle = state.centre ?? { x: x.first + x.step * (x.size - 1) / 2, y: y.first + y.step * (y.size - 1) / 2 };
    return { w, h, ratio, zoom, middle };
  }
  toScreen(at, v = this.view()) {
    return [v.w / 2 + (at.x - v.middle.x) * v.zoom, v.h / 2 + (at.y - v.middle.y) * v.zoom];
  }
  toPlace(event) {
    const v = this.view(), box = this.marks.getBoundingClientRect();
    const [sx, sy] = [(event.clientX - box.left) * v.ratio, (event.clientY - box.top) * v.ratio];
    return { x: v.middle.x + (sx - v.w / 2) / v.zoom, y: v.middle.y + (sy - v.h / 2) / v.zoom };
  }
  visible(v, step = 1) {
    const range = (name, size, middle) => {
      const a = axis(name), reach = size / 2 / v.zoom;
      const ends = [(middle - reach - a.first) / a.step, (middle + reach - a.first) / a.step].sort((p, q) => p - q);
      const low = Math.max(0, Math.floor((ends[0] - 1) / step) * step), high = Math.min(a.size, Math.ceil((ends[1] + 2) / step) * step);
      return high > low ? [low, high] : null;
    };
    const [rows, columns] = [range("y", v.h, v.middle.y), range("x", v.w, v.middle.x)];
    return rows && columns ? [...rows, ...columns] : null;
  }
  step(v, quick) {
    const per = [1 / (v.zoom * Math.abs(axis("y").step)), 1 / (v.zoom * Math.abs(axis("x").step))];
    const k = quick ? Math.round(Math.log2(Math.sqrt(per[0] * per[1]))) : Math.floor(Math.log2(Math.min(...per)));
    return Math.min(64, 2 ** Math.max(0, k));
  }
  ask(quick) {
    const source = this.source();
    if (!source) return null;
    const v = this.view();
    const wish = (url, more) => ({ url, key: `${state.store} ${state.catalogue.stamp} ${source.combined ? "both " : ""}${url}`, source, ...more });
    if (source.sides[0] !== "y") return wish(`image/${state.store}/${source.name}?at=${source.at}`, { box: null, step: 1 });
    const step = this.step(v, quick), box = this.visible(v, step);
    return box && wish(`image/${state.store}/${source.name}?at=${source.at}&box=${box}&step=${step}`, { box, step });
  }

  // ---- fetching: one request in flight, the latest wish wins
  update(quick = false) {
    if (!state.catalogue) return;
    clearTimeout(this.timer);
    this.wanted = this.ask(quick);
    if (quick) this.timer = setTimeout(() => this.update(false), REST);
    if (!this.wanted) { this.got = null; this.draw(); return; }
    this.draw(); // what is there, at its new place, at once
    this.pump(quick);
  }
  async pump(quick) {
    const there = () => this.got?.key === this.wanted.key && (!this.got.bitmap || quick);
    while (this.wanted && !there()) {
      const wish = this.wanted, key = wish.key;
      if (cache.has(key)) {
        const kept = cache.get(key);
        cache.delete(key); cache.set(key, kept);
        this.take(wish, kept);
        break;
      }
      if (this.busy) {
        if (this.busy.key !== key && !this.busy.quick && quick) this.busy.stop.abort();
        this.busy.again = quick;
        return;
      }
      this.busy = { quick, key, again: quick, stop: new AbortController() };
      try {
        this.take(wish, quick && link.slow && this.options.counts ? await this.picked(wish) : await this.fetched(wish, key));
      } catch (error) {
        if (error.name !== "AbortError") { this.failed = error.message; this.options.failed?.(error); this.got = { url: wish.url, key }; this.draw(); }
      }
      quick = this.busy.again; // what was asked for meanwhile decides whether the next picture may be a JPEG
      this.busy = null;
    }
    if (this.got?.values && this.got.step === this.step(this.view(), true)) this.ahead(); // once a move
  }
  async fetched(wish, key) {
    const begun = performance.now();
    let made = await array(wish.url, { signal: this.busy?.stop.signal });
    const took = performance.now() - begun - made.server; // time on the way, without that of the server
    if (made.bytes > 1e5 && !link.fixed) link.slow = took > (link.slow ? 60 : 150);
    if (wish.source.combined) made = await wish.source.combined(wish, made);
    keep(key, made);
    return made;
  }
  async picked(wish) {
    const [low, high] = this.ends();
    const answer = await request(`${wish.url}&form=jpeg&low=${low}&high=${high}&scale=${this.scale}`, { signal: this.busy.stop.signal });
    const shape = answer.headers.get("X-Shape").split(",").map(Number);
    const lacking = answer.headers.get("X-Missing") ?? "";
    return { bitmap: await createImageBitmap(await answer.blob()), shape, missing: lacking ? lacking.split(";") : [] };
  }
  ahead() { // the neighbours in the direction of motion
    const next = this.options.next?.();
    if (!next || this.busy || this.early || link.slow) return;
    const at = one => one.replace(/at=[^&]*/, "at=" + next), key = at(this.got.key);
    if (cache.has(key)) return;
    this.early = true;
    array(at(this.got.url)).then(made => keep(key, made)).catch(() => {}).finally(() => (this.early = false));
  }
  take(wish, made) {
    this.failed = "";
    this.got = { ...wish, ...made };
    this.painted = null;
    this.draw();
  }

  // ---- painting
  ends() {
    if (this.manual) return this.manual;
    const given = this.options.limits?.(this.got);
    if (given) return given;
    if (!this.got?.values) return this.lately ?? [0, 1];
    if (this.got.limits) return this.got.limits;
    const of = this.got.key.replace(/&box=.*/, ""); // once for an image: its colours stay while it is moved
    if (this.automatic.has(of)) return (this.lately = this.got.limits = this.automatic.get(of));
    let [low, high] = limits(this.got.values);
    if (this.got.source.kind === "mask") [low, high] = [0, 1];
    if (/probability/.test(this.got.source.long_name)) [low, high] = [0, 1];
    if (low < 0 && high > 0 && -low > 0.02 * high && this.colours === "blue–orange") { const most = Math.max(-low, high); [low, high] = [-most, most]; }
    this.automatic.set(of, [low, high]);
    if (this.automatic.size > 500) this.automatic.clear();
    return (this.lately = this.got.limits = [low, high]);
  }
  repaint() { this.painted = null; this.draw(); }
  canvasOf() {
    if (this.painted) return this.painted;
    const got = this.got, [rows, columns] = got.shape;
    const canvas = new OffscreenCanvas(columns, rows), context = canvas.getContext("2d");
    if (got.bitmap) {
      context.drawImage(got.bitmap, 0, 0);
      if (this.colours !== "grey") { // the grey of the JPEG is the place in the colour table
        const image = context.getImageData(0, 0, columns, rows), out = new Uint32Array(image.data.buffer), lut = table(this.colours);
        for (let k = 0; k < out.length; k++) out[k] = lut[out[k] & 255];
        context.putImageData(image, 0, 0);
      }
    }
    else {
      const image = context.createImageData(columns, rows), out = new Uint32Array(image.data.buffer);
      if (got.rgb) out.set(got.rgb);
      else if (got.source.kind === "flags" || got.source.kind === "classes") paintClasses(got.values, out, Object.values(got.source.flags ?? {}));
      else paint(got.values, ...this.ends(), this.scale, this.colours, out);
      context.putImageData(image, 0, 0);
    }
    return (this.painted = canvas);
  }
  edges(got, v) { // corners of the image on the screen
    const [y, x] = [axis("y"), axis("x")];
    let [y0, y1, x0, x1] = got.box ?? [0, y.size, 0, x.size];
    if (got.box) { y1 = y0 + got.shape[0] * got.step; x1 = x0 + got.shape[1] * got.step; }
    else { y1 = got.shape[0] * state.catalogue.patch; x1 = got.shape[1] * state.catalogue.patch; }
    const a = this.toScreen({ x: x.first + (x0 - 0.5) * x.step, y: y.first + (y0 - 0.5) * y.step }, v).map(Math.round);
    const b = this.toScreen({ x: x.first + (x1 - 0.5) * x.step, y: y.first + (y1 - 0.5) * y.step }, v).map(Math.round);
    return [...a, b[0] - a[0], b[1] - a[1]]; // whole screen pixels: at 1:1 every pixel of the store is one of the screen
  }
  draw() {
    const v = this.view(), context = this.picture.getContext("2d");
    context.clearRect(0, 0, v.w, v.h);
    if (this.got?.shape && this.got.source) {
      const place = this.edges(this.got, v);
      context.imageSmoothingEnabled = Math.abs(place[2]) < this.got.shape[1] || Math.abs(place[3]) < this.got.shape[0];
      context.save();
      const whole = this.frameOn(v);
      context.beginPath(); context.rect(...whole.map(Math.round)); context.clip();
      context.drawImage(this.canvasOf(), ...place);
      this.hatch(context, v);
      context.restore();
    }
    this.picture.dataset.shown = this.got?.url ?? "";
    this.drawMarks(v);
    this.foot();
  }
  frameOn(v) {
    const [y, x] = [axis("y"), axis("x")];
    const a = this.toScreen({ x: x.first - x.step / 2, y: y.first - y.step / 2 }, v);
    const b = this.toScreen({ x: x.first + (x.size - 0.5) * x.step, y: y.first + (y.size - 0.5) * y.step }, v);
    return [a[0], a[1], b[0] - a[0], b[1] - a[1]];
  }
  hatch(context, v) { // rows that are not on disk
    for (const range of this.got.missing) {
      const [r0, r1] = range.split("-").map(Number), y = axis("y"), x = axis("x");
      const [left, top] = this.toScreen({ x: x.first - x.step / 2, y: y.first + (r0 - 0.5) * y.step }, v);
      const [right, bottom] = this.toScreen({ x: x.first + (x.size - 0.5) * x.step, y: y.first + (r1 - 0.5) * y.step }, v);
      hatched(context, left, top, right - left, bottom - top);
    }
  }
  foot() {
    const shown = this.got?.source, [low, high] = this.ends();
    drawKey(this.find(".key"), this.colours, this.scale);
    this.find(".key").hidden = !shown || shown.kind === "flags" || shown.kind === "classes" || Boolean(this.got?.rgb);
    const flags = Object.entries(shown?.flags ?? {}), present = this.got?.values && flags.length ? (this.got.present ??= this.got.values.reduce((all, v) => all | v, 0)) : 0;
    this.find(".legend").replaceChildren(...flags.flatMap(([name, mask], k) => {
      if (!(present & mask)) return [];
      const one = Object.assign(document.createElement("span"), { textContent: name.replaceAll("_", " ") });
      one.style.setProperty("--own", classCss(k + 1));
      return [one];
    }));
    const classes = shown?.kind === "flags" || shown?.kind === "classes";
    for (const one of [".low", ".high", ".auto", ".colours"]) this.find(one).hidden = classes || Boolean(this.got?.rgb);
    this.find(".ends").textContent = !shown ? (this.source() ? "" : this.options.none ?? "") : this.got.rgb ? "hue: direction, saturation: size of the tilt" : this.find(".key").hidden ? "" : `${short(low, 4)} to ${short(high, 4)} ${unit(shown.units ?? "")}`;
    if (document.activeElement !== this.find(".low")) this.find(".low").value = short(low);
    if (document.activeElement !== this.find(".high")) this.find(".high").value = short(high);
    this.value(this.hover ?? state.cursor);
  }
  value(at) {
    const text = this.find(".value");
    if (this.failed) { text.textContent = this.failed; return; }
    if (!at || !this.got?.values) { text.textContent = ""; return; }
    const p = pixelOf(at), got = this.got;
    const [y0, , x0] = got.box ?? [0, 0, 0, 0], size = got.box ? got.step : state.catalogue.patch;
    const [i, j] = [Math.floor((p.row - y0) / size), Math.floor((p.column - x0) / size)];
    if (!inside(p) || i < 0 || j < 0 || i >= got.shape[0] || j >= got.shape[1]) { text.textContent = ""; return; }
    if (got.missing.some(range => { const [r0, r1] = range.split("-").map(Number); return p.row >= r0 && p.row < r1; })) { text.textContent = `[${p.row}, ${p.column}]: not on disk yet`; return; }
    const value = got.values[i * got.shape[1] + j], flags = Object.entries(got.source.flags ?? {});
    const words = flags.length ? flags.filter(([, mask]) => value & mask).map(([name]) => name).join(", ") || "none" : `${Number.isInteger(value) ? value : short(value, 6)} ${unit(got.source.units ?? "")}`;
    const also = got.second ? `, ${short(got.second[i * got.shape[1] + j], 6)} ${unit(got.source.units ?? "")}` : "";
    text.textContent = `x ${short(at.x, 4)}, y ${short(at.y, 4)} ${unit(axis("x").units)} [${p.row}, ${p.column}]: ${words}${also}${got.step > 1 && !flags.length ? ` (${got.source.kind === "classes" ? "first" : "mean"} of ${got.step}²)` : ""}`;
    text.title = `row ${p.row}, column ${p.column}`;
  }

  // ---- marks: cursors, scale bar, boxes, tracks, outline
  drawMarks(v = this.view()) {
    const canvas = this.marks;
    sized(canvas);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, v.w, v.h);
    if (!state.catalogue) return;
    this.options.below?.(context, at => this.toScreen(at, v), v);
    const cross = (at, colour) => {
      const [sx, sy] = this.toScreen(at, v), r = 9 * v.ratio, gap = 3 * v.ratio;
      for (const [width, style] of [[3, "#fff"], [1.4, colour]]) {
        context.lineWidth = width * v.ratio; context.strokeStyle = style; context.beginPath();
        for (const [a, b] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { context.moveTo(sx + a * gap, sy + b * gap); context.lineTo(sx + a * r, sy + b * r); }
        context.stroke();
      }
    };
    this.options.above?.(context, v);
    if (state.second) cross(state.second, "#1769aa");
    if (state.cursor) cross(state.cursor, "#d4550f");
    scaleBar(context, v);
  }

  gestures() {
    let begun = null;
    this.marks.addEventListener("pointerdown", e => {
      if (e.button) return;
      this.marks.setPointerCapture(e.pointerId);
      begun = { at: this.toPlace(e), x: e.clientX, y: e.clientY, moved: false, middle: this.view().middle, drawing: this.options.drawing?.() };
    });
    this.marks.addEventListener("pointermove", e => {
      this.hover = this.toPlace(e);
      if (!begun) { this.value(this.hover); return; }
      if (Math.hypot(e.clientX - begun.x, e.clientY - begun.y) > 3) begun.moved = true;
      if (!begun.moved) return;
      if (begun.drawing) { this.options.drawn?.(begun.at, this.hover, false); return; }
      const v = this.view();
      if (!state.zoom) state.zoom = v.zoom / v.ratio;
      state.centre = { x: begun.middle.x - (e.clientX - begun.x) * v.ratio / v.zoom, y: begun.middle.y - (e.clientY - begun.y) * v.ratio / v.zoom };
      tell("view");
    });
    this.marks.addEventListener("pointerup", e => {
      const was = begun;
      begun = null;
      if (!was) return;
      if (was.moved && was.drawing) { this.options.drawn?.(was.at, this.toPlace(e), true); return; }
      if (was.moved) { tell("view"); return; }
      const at = this.toPlace(e), p = pixelOf(at);
      if (!inside(p)) return;
      if (e.shiftKey) state.second = at; else state.cursor = at;
      tell("cursor");
    });
    this.marks.addEventListener("pointerleave", () => { this.hover = null; this.value(state.cursor); });
    this.marks.addEventListener("wheel", e => { e.preventDefault(); zoomBy(this, 1.2 ** (-Math.sign(e.deltaY) * Math.min(3, Math.abs(e.deltaY) / 80)), this.toPlace(e)); }, { passive: false });
  }
}

export function zoomBy(pane, factor, about) {
  const v = pane.view(), before = v.zoom / v.ratio, least = fitted(v.w, v.h) / v.ratio;
  const most = 40 / Math.min(Math.abs(axis("x").step), Math.abs(axis("y").step));
  const zoom = Math.min(most, Math.max(least, before * factor));
  if (zoom <= least * 1.0001) { wholeFrame(); return; }
  const at = about ?? v.middle, part = before / zoom;
  state.centre = { x: at.x + (v.middle.x - at.x) * part, y: at.y + (v.middle.y - at.y) * part };
  state.zoom = zoom;
  tell("view");
}

function scaleBar(context, v) {
  const wish = 110 * v.ratio / v.zoom, power = 10 ** Math.floor(Math.log10(wish));
  const length = [5, 2, 1].map(k => k * power).find(one => one <= wish) ?? power;
  const [x, y, w] = [12 * v.ratio, v.h - 14 * v.ratio, length * v.zoom];
  context.fillStyle = "rgba(255,255,255,.82)";
  context.fillRect(x - 5 * v.ratio, y - 17 * v.ratio, w + 10 * v.ratio, 25 * v.ratio);
  context.fillStyle = "#1c2430";
  context.fillRect(x, y, w, 3 * v.ratio);
  context.font = `${11.5 * v.ratio}px system-ui, "DejaVu Sans", sans-serif`;
  context.textAlign = "center";
  context.fillText(`${short(length)} ${unit(axis("x").units)}`, x + w / 2, y - 4 * v.ratio);
}

export function hatched(context, left, top, width, height) {
  context.save();
  context.beginPath(); context.rect(left, top, width, height); context.clip();
  context.fillStyle = "#e6e9ec"; context.fillRect(left, top, width, height);
  context.strokeStyle = "#a9b1ba"; context.lineWidth = 1.5; context.beginPath();
  for (let k = left - height; k < left + width; k += 10) { context.moveTo(k, top + height); context.lineTo(k + height, top); }
  context.stroke();
  context.restore();
}
export const forget = () => cache.clear();
