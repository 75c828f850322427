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
const brief = (x) => (x >= 1e6 ? x.toPrecision(3).replace(/e\+?(\d+)/, (_, d) => `·${power(d)}`) : grouped(x));
const figures = (x) => (x < 1e15 ? grouped(x) : brief(x));

function draw(chart, model, law, price, length) {
  const left = 58, right = 630, top = 12, bottom = 358, decades = [0.5, 8], heights = [0, 13];
  const x = (v) => left + ((Math.log10(v) - decades[0]) / (decades[1] - decades[0])) * (right - left);
  const y = (v) => bottom - ((Math.log10(Math.max(v, 1)) - heights[0]) / (heights[1] - heights[0])) * (bottom - top);
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
  text(chart, 14, (top + bottom) / 2, "scalars", { "text-anchor": "middle", transform: `rotate(-90 14 ${(top + bottom) / 2})` });
  const lengths = Array.from({ length: 151 }, (_, i) => 4 * (10 ** decades[1] / 4) ** (i / 150));
  const curve = (f) => lengths.map((L) => [x(L), y(f(L))]);
  line(chart, curve((L) => needed(L, law, price, model)), { class: "l2m-needed" });
  line(chart, curve((L) => needed(L, law, ceiling, model)), { class: "l2m-needed", "stroke-dasharray": "6 5" });
  line(chart, curve((L) => stateAt(model, Math.floor(L / 2))), { class: "l2m-state" });
  line(chart, [[x(length), top], [x(length), bottom]], { class: "l2m-here" });
}

function start(root) {
  const models = JSON.parse(document.getElementById("l2m-architectures").textContent);
  const field = (name) => document.getElementById(`l2m-${name}`);
  const number = (name) => Number(field(name).value);
  for (const name of [...Object.keys(models), OWN]) field("model").add(new Option(name, name));

  function update() {
    const own = field("model").value === OWN;
    root.querySelectorAll(".l2m-own").forEach((element) => { element.hidden = !own; });
    const model = own
      ? { parts: [[number("each"), "linear", null], [number("fixed"), "fixed", null]], vocabulary: 50000, positions: null }
      : models[field("model").value];
    const length = Math.round(2 ** number("length"));
    const law = { beta: number("beta"), amplitude: 2 ** number("amplitude") }, price = Math.E ** number("price");
    const shown = { length: grouped(length), beta: law.beta.toFixed(2), amplitude: law.amplitude.toFixed(2), price: price.toPrecision(2) };
    for (const [name, value] of Object.entries(shown)) root.querySelector(`output[for=l2m-${name}]`).textContent = value;

    const state = stateAt(model, Math.floor(length / 2)), need = needed(length, law, price, model);
    const grows = model.parts.some(([size, kind]) => kind === "linear" && size > 0);
    const from = (length) => (length !== null ? figures(length) : grows ? "never" : "beyond 2⁵³");
    const rows = {
      "information in the law": `${grouped(law.amplitude * length ** law.beta)} nats`,
      "state at L/2": `${figures(state)} scalars, ${brief((2 * state) / 2 ** 20)} MiB in 16 bits`,
      "state needed": `${figures(need)} scalars`,
      "least state, 16 bits a scalar": `${figures(needed(length, law, ceiling, model))} scalars`,
      "too small from": from(fallsShort(model, law, price)),
      "provably from": from(fallsShort(model, law, ceiling)),
      "one model at every length (Theorem 5.4)": grows && law.beta <= 1 ? "satisfied" : "not satisfied",
      "positions": model.positions ? `${grouped(model.positions)}${length > model.positions ? ", fewer than L" : ""}` : "any number",
    };
    const cell = (tag, content) => Object.assign(document.createElement(tag), { textContent: content });
    root.querySelector("#l2m-numbers tbody").replaceChildren(...Object.entries(rows).map(([name, value]) => {
      const row = document.createElement("tr");
      row.append(cell("th", name), cell("td", value));
      return row;
    }));
    field("verdict").textContent = state < need
      ? `At ${grouped(length)} tokens the state is too small: it has ${(100 * state / need).toPrecision(2)} % of what the law asks for.`
      : `At ${grouped(length)} tokens the state is large enough: ${brief(need > 0 ? state / need : Infinity)} times what the law asks for.`;
    draw(field("chart"), model, law, price, length);
  }

  root.addEventListener("input", update);
  root.hidden = false;
  update();
}

document.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("l2m-calculator");
  if (root) start(root);
});
