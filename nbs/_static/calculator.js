// The calculator of the condition: A·L^beta <= C·dim(z) + log M, with the laws of growth of l2m.state.
const LAWS = {
  fixed: (n) => Math.min(n, 1),
  linear: (n) => n,
  window: (n, limit) => Math.min(n, limit),
  chunk: (n, limit) => n % limit,
};
const OWN = "one of your own";
const ceiling = 16 * Math.log(2);

const stateAt = (model, length) =>
  model.parts.reduce((sum, [size, law, limit]) => sum + size * LAWS[law](length - 1, limit), 0);
const needed = (length, { beta, amplitude }, price, model) =>
  Math.max(0, (amplitude * length ** beta - Math.log(model.vocabulary || 1)) / price);
const most = (model, kinds) => model.parts.reduce((sum, [size, law, limit]) => sum + (kinds.includes(law) ? size * (limit ?? 1) : 0), 0);
const kindOf = (model) => most(model, ["linear"]) ? (most(model, ["fixed"]) ? "hybrid" : "growing")
  : most(model, ["window", "chunk"]) > most(model, ["fixed"]) ? "window" : "fixed";

// Smallest L >= 4 from which on the state at L/2 is too small, with its chunks full; null: at no length up to 2^53, the
// largest exact integer here. Between the lengths where a law turns the surplus is convex, so its sign at them is enough.
function fallsShort(model, law, price) {
  const full = { ...model, parts: model.parts.map(([size, kind, limit]) => (kind === "chunk" ? [size, "window", limit - 1] : [size, kind, limit])) };
  const carries = (length) => stateAt(full, Math.floor(length / 2)) >= needed(length, law, price, model);
  const turns = full.parts.filter(([, kind]) => kind === "window").map(([, , limit]) => 2 * limit + 2).filter((length) => length >= 4);
  const lengths = [...turns, ...Array.from({ length: 52 }, (_, i) => 2 ** (i + 2))].sort((a, b) => a - b);
  const last = lengths.findLastIndex(carries);
  if (last < 0) return 4;
  if (last === lengths.length - 1) return null;
  let half = lengths[last] / 2, short = lengths[last + 1] / 2;
  while (short - half > 1) {
    const middle = Math.floor((half + short) / 2);
    if (carries(2 * middle)) half = middle; else short = middle;
  }
  return 2 * half + 1 + Number(carries(2 * half + 1));
}

const grouped = (x) => Math.round(x).toLocaleString("en-US");
const power = (d) => `10${superscript(d)}`;
const brief = (x) => (x >= 1e15 ? `${(x / 10 ** Math.floor(Math.log10(x))).toPrecision(3)}·${power(Math.floor(Math.log10(x)))}`
  : x >= 1e3 ? ((d) => `${(x / 1000 ** d).toPrecision(3)} ${["", "k", "M", "G", "T"][d]}`)(Math.floor(Math.log10(x) / 3)) : x < 10 ? x.toPrecision(2) : grouped(x));
const figures = (x) => (x < 1e6 ? grouped(x) : `${brief(x)} (${x < 1e15 ? grouped(x) : power(Math.floor(Math.log10(x)))})`);
const bare = (name) => name.split("/").at(-1).replace(/-(hf|v0\.1|pile)$/, "").replace("rwkv-4-169m-pile", "rwkv-169m");

function draw(chart, models, chosen, law, price, length) {
  const width = Math.max(330, Math.min(640, chart.clientWidth || 640)), height = 400;
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const left = 50, right = width - 20, top = 12, bottom = height - 42, decades = [0.5, 12], heights = [0, 13], model = models[chosen];
  const x = (v) => left + ((Math.log10(v) - decades[0]) / (decades[1] - decades[0])) * (right - left);
  const y = (v) => bottom - ((Math.log10(v) - heights[0]) / (heights[1] - heights[0])) * (bottom - top);
  chart.replaceChildren();
  for (let d = 1; d <= decades[1]; d++) {
    line(chart, [[x(10 ** d), top], [x(10 ** d), bottom]], { class: "l2m-grid" });
    if (d % 2 === 0) text(chart, x(10 ** d), bottom + 18, power(d), { "text-anchor": "middle" });
  }
  for (let d = heights[0]; d <= heights[1]; d += 2) {
    line(chart, [[left, y(10 ** d)], [right, y(10 ** d)]], { class: "l2m-grid" });
    text(chart, left - 6, y(10 ** d) + 4, power(d), { "text-anchor": "end" });
  }
  text(chart, (left + right) / 2, bottom + 36, "block length L (tokens)", { "text-anchor": "middle" });
  text(chart, 12, (top + bottom) / 2, "scalars of state", { "text-anchor": "middle", transform: `rotate(-90 12 ${(top + bottom) / 2})` });
  const lengths = Array.from({ length: 241 }, (_, i) => 10 ** (decades[0] + ((decades[1] - decades[0]) * i) / 240)), top13 = 10 ** heights[1];
  const inside = (f) => lengths.map((L) => [L, f(L)]).filter(([, v]) => v >= 1 && v <= top13).map(([L, v]) => [x(L), y(v)]);
  const asked = (p) => inside((L) => needed(L, law, p, { ...model, vocabulary: 1 }));   // one line for all: log M is a few scalars
  for (const [p, shade] of [[price, 0.12], [ceiling, 0.2]]) {
    const edge = asked(p);
    if (edge.length) line(chart, [...edge, [edge.at(-1)[0], bottom], [edge[0][0], bottom]], { class: "l2m-short", "fill-opacity": shade, "stroke-width": 0 });
  }
  for (const [name, other] of Object.entries(models)) if (other.shown && name !== chosen) {
    const path = inside((L) => stateAt(other, Math.max(2, L / 2)));
    line(chart, path, { class: `l2m-other l2m-${kindOf(other)}`, "stroke-width": 1.2 });
    label(chart, path, bare(name), `l2m-other l2m-${kindOf(other)}`, kindOf(other) === "window" ? 0.6 : 0.98);
  }
  line(chart, asked(price), { class: "l2m-needed" });
  line(chart, asked(ceiling), { class: "l2m-needed", "stroke-dasharray": "6 5" });
  label(chart, asked(price), `asked at ${price.toPrecision(2)}`, "l2m-words", 0.8);
  if (price < 0.7 * ceiling) label(chart, asked(ceiling), "least, 16 bits", "l2m-words", 0.8);
  const own = inside((L) => stateAt(model, Math.max(2, L / 2)));
  line(chart, own, { class: `l2m-state l2m-${kindOf(model)}` });
  label(chart, own, bare(chosen), `l2m-chosen l2m-${kindOf(model)}`, kindOf(model) === "window" ? 0.6 : 0.98);
  line(chart, [[x(length), top], [x(length), bottom]], { class: "l2m-here", "stroke-dasharray": "2 3" });
  for (const p of [price, ceiling]) {
    const from = fallsShort(model, law, p);
    if (from === null || from > 10 ** decades[1] || from < 5) continue;
    dot(chart, [x(from), y(Math.max(1, stateAt(model, from / 2)))], 5, { class: "l2m-crossing" });
    text(chart, Math.min(x(from) + 8, right - 44), y(Math.max(1, stateAt(model, from / 2))) + 17, brief(from), { class: "l2m-words" });
  }
}

// The name of a line, above it: where it ends, or at a share of its way.
function label(chart, path, words, style, at = 0.98) {
  if (!path.length) return;
  const [x, y] = path[Math.floor(at * (path.length - 1))];
  text(chart, x - 6, y - 6, words, { class: style, "text-anchor": "end" });
}

function start(root) {
  const { models, presets } = JSON.parse(document.getElementById("l2m-architectures").textContent);
  const field = (name) => document.getElementById(`l2m-${name}`);
  const number = (name) => Number(field(name).value);
  for (const name of [...Object.keys(models), OWN]) field("model").add(new Option(name, name));
  field("model").value = field("model").dataset.start;
  for (const name of [...Object.keys(presets), "as the sliders say"]) field("law").add(new Option(name, name));

  function update(event) {
    if (event?.target === field("law") && presets[field("law").value]) {
      [field("beta").value, field("amplitude").value] = presets[field("law").value];
    } else if (event?.target === field("beta") || event?.target === field("amplitude")) field("law").value = "as the sliders say";
    if (event?.target.dataset.price) field("price").value = event.target.dataset.price;
    const chosen = field("model").value, own = chosen === OWN;
    root.querySelectorAll(".l2m-own").forEach((element) => { element.hidden = !own; });
    const model = own
      ? { parts: [[number("each"), "linear", null], [number("fixed"), "fixed", null]], vocabulary: 50000, positions: null }
      : models[chosen];
    const length = Math.round(2 ** number("length"));
    const law = { beta: number("beta"), amplitude: 2 ** number("amplitude") }, price = Math.E ** number("price");
    const shown = { length: brief(length), beta: law.beta.toFixed(2), amplitude: law.amplitude.toFixed(2), price: price.toPrecision(2) };
    for (const [name, value] of Object.entries(shown)) root.querySelector(`output[for=l2m-${name}]`).textContent = value;

    const state = stateAt(model, Math.floor(length / 2)), need = needed(length, law, price, model);
    const grows = model.parts.some(([size, kind]) => kind === "linear" && size > 0);
    const from = (length) => (length !== null ? figures(length) : grows ? "never" : "beyond 2⁵³");
    const rows = {
      "information in the law": `${brief(law.amplitude * length ** law.beta)} nats`,
      "state at L/2": `${figures(state)} scalars, ${brief((2 * state) / 2 ** 20)} MiB in 16 bits`,
      "state needed": `${figures(need)} scalars`,
      "least state, 16 bits per scalar": `${figures(needed(length, law, ceiling, model))} scalars`,
      "too small from": from(fallsShort(model, law, price)),
      "provably from": from(fallsShort(model, law, ceiling)),
      "one model at every length": grows && law.beta <= 1 ? "satisfied" : "not satisfied",
      "trained for": model.positions ? `${grouped(model.positions)} tokens${length > model.positions ? "; L is longer" : ""}` : "any number of tokens",
    };
    const cell = (tag, content) => Object.assign(document.createElement(tag), { textContent: content });
    root.querySelector("#l2m-numbers tbody").replaceChildren(...Object.entries(rows).map(([name, value]) => {
      const row = document.createElement("tr");
      row.append(cell("th", name), cell("td", value));
      return row;
    }));
    field("verdict").textContent = need === 0
      ? `At ${brief(length)} tokens the current token alone carries what the law asks for: no state is needed yet.`
      : state < need
        ? `At ${brief(length)} tokens the state is too small: it has ${(100 * state / need).toPrecision(2)} % of what the law asks for.`
        : `At ${brief(length)} tokens the state is large enough: ${brief(state / need)} times what the law asks for.`;
    draw(field("chart"), { ...models, [chosen]: { ...model } }, chosen, law, price, length);
  }

  root.addEventListener("input", update);
  root.addEventListener("click", (event) => { if (event.target.dataset.price) update(event); });
  window.addEventListener("resize", () => update());
  root.hidden = false;
  update();
}

document.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("l2m-calculator");
  if (root) start(root);
});
