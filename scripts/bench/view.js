// Helpers of the benchmark of the page: acts of a user, and the time until other pixels are in the middle of a canvas.

const soon = () => new Promise(done => { const c = new MessageChannel(); c.port1.onmessage = done; c.port2.postMessage(0); });
const rest = ms => new Promise(done => setTimeout(done, ms));
const pixels = (c, x, y) => c.getContext("2d").getImageData(x, y, 12, 12).data.join();
const middle = canvas => pixels(canvas, canvas.width / 2 - 6 | 0, canvas.height / 2 - 6 | 0);
const shows = (pane, at) => pane.got?.values && pane.got.url.includes(at);
const same = pane => pane.got?.key === pane.wanted.key;
const timed = async (canvas, act, also = () => true) => {
  const before = middle(canvas), begun = performance.now();
  act();
  while (performance.now() - begun < 10000) {
    if (also() && middle(canvas) !== before) return performance.now() - begun;
    await soon();
  }
  return NaN;
};
const slide = (name, k) => { const s = document.getElementById("slide-" + name); s.value = k; s.dispatchEvent(new Event("input", { bubbles: true })); };
const fresh = act => { dfxm.forget(); act(); }; // nothing in memory
const show = name => { dfxm.state.variable = name; dfxm.tell("variable"); };
const pan = dx => { const { middle, zoom } = dfxm.frame.view(); dfxm.state.centre = { x: middle.x + dx / zoom, y: middle.y }; dfxm.tell("view"); };
const click = async (column, row) => {
  const begun = performance.now(), before = dfxm.curves.data;
  dfxm.state.cursor = { x: dfxm.S.valueAt("x", column), y: dfxm.S.valueAt("y", row) };
  dfxm.tell("cursor");
  while (dfxm.curves.data === before && performance.now() - begun < 9000) await soon();
  return performance.now() - begun;
};
const orbit = async count => {
  const { render } = await import(new URL("static/scene.js", location.href));
  const n = 1e6, points = new Float32Array(4 * n), some = () => Math.random() * 100 / 64;
  for (let k = 0; k < n; k++) { // cell after cell of 64 along each side, as the server sorts them
    const c = Math.floor(k / n * 2 ** 18);
    points.set([(c & 63) * 100 / 64 + some(), (c >> 6 & 63) * 100 / 64 + some(), (c >> 12) * 100 / 64 + some(), k % 10], 4 * k);
  }
  const planes = Array.from({ length: 10 }, (_, k) => [[0, 0], [100, 0], [100, 100], [0, 100]].map(([x, z]) => [x, 10 * k, z]));
  const scene = { low: [0, 0, 0], high: [100, 100, 100], points, planes, lines: [], junctions: [] };
  const context = new OffscreenCanvas(1600, 900).getContext("2d"), depth = new Float32Array(1600 * 900), out = [];
  for (let k = 0; k < count; k++) {
    const begun = performance.now(), image = context.createImageData(1600, 900);
    render(image, depth, scene, 0.1 * k, 0.45);
    context.putImageData(image, 0, 0);
    out.push(performance.now() - begun);
  }
  return out.slice(5);
};
const deep = () => { // all canvases, also those of Bokeh
  const found = [], walk = root => { for (const e of root.querySelectorAll("*")) { if (e.tagName === "CANVAS") found.push(e); if (e.shadowRoot) walk(e.shadowRoot); } };
  walk(document);
  return found;
};
const bokeh = name => [...Bokeh.documents[0]._all_models.values()].find(m => m.title === name);
const left = c => c.getBoundingClientRect().left;
const first = () => deep().filter(c => c.width > 300).sort((a, b) => left(a) - left(b))[0];
