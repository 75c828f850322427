// A passage, cut anywhere: what the tokens before the cut told about each one after it, their sum, and the law of the mean.
function startPassage(root) {
  const { passages, step, law, points, n, published } = JSON.parse(document.getElementById("l2m-passage-data").textContent);
  const part = (name) => document.getElementById(`l2m-passage-${name}`);
  const nats = (x, digits = 1) => x.toFixed(digits).replace("-", "−");
  let which = 0, mean = false, spans = [], { tokens, gains } = passages[0];
  const total = (gains, cut, length) => (cut <= 0 || cut >= length ? 0 : gains[cut / step - 1].slice(0, length - cut).reduce((sum, gain) => sum + gain, 0) / 1000);
  const sample = (cut, length) => total(gains, cut, length);

  function read(index) {
    which = index;
    ({ tokens, gains } = passages[index]);
    spans = tokens.map((token) => Object.assign(document.createElement("span"), { textContent: token }));
    part("text").replaceChildren(...spans);
    part("source").textContent = `${passages[index].source}; passage ${index + 1} of ${passages.length}`;
  }

  function colour(cut, length) {
    const box = part("text"), place = spans[Math.min(cut, spans.length - 1)];
    box.scrollTop = place.offsetTop - box.offsetTop - box.clientHeight / 3;
    spans.forEach((span, i) => {
      const gain = i < cut || i >= length ? 0 : gains[cut / step - 1][i - cut] / 1000;
      span.className = i >= length ? "l2m-rest" : i < cut ? "l2m-x" : gain < 0 ? "l2m-hurt" : "l2m-helped";
      span.classList.toggle("l2m-cut", i === cut);
      span.style.setProperty("--l2m-gain", Math.min(Math.abs(gain) / 4, 1).toFixed(3));
      span.title = i >= cut && i < length ? `${nats(gain)} nats` : "";
    });
  }

  function say(cut, length) {
    const sum = sample(cut, length), decades = Math.round(Math.abs(sum) / Math.LN10);
    const times = decades < 3 ? Math.exp(Math.abs(sum)).toPrecision(2).replace(/e\+?(\d+)/, (_, d) => `·10${superscript(d)}`) : `10${superscript(decades)}`;
    part("sum").textContent = mean
      ? `The mean of ${n} passages lies close to a line: ${law.amplitude.toFixed(2)}·L^${law.exponent.toFixed(2)} nats. Twice the length, ${(2 ** law.exponent).toFixed(2)} times the information.`
      : `X tells ${nats(sum)} nats about Y: having read the ${cut} tokens of X, the model finds the ${length - cut} tokens of Y `
      + `${times} times as ${sum < 0 ? "improbable" : "probable"} as without them.`;
    const ranked = gains[cut / step - 1].slice(0, length - cut).map((gain, i) => [gain / 1000, tokens[cut + i].trim()]).filter(([, word]) => /\w/.test(word));
    ranked.sort(([a], [b]) => b - a);
    const list = (some) => some.map(([gain, word]) => `“${word}” ${nats(gain)}`).join(", ");
    part("words").textContent = `Helped most: ${list(ranked.slice(0, 4))}. Hurt most: ${list(ranked.slice(-2).reverse())}.`;
  }

  const frame = { left: 46, right: 402, top: 12, bottom: 250 };
  function axes(chart, title, x, xs, y, ys, xlabel) {
    const { left, right, top, bottom } = frame;
    chart.replaceChildren();
    for (const tick of xs) {
      line(chart, [[x(tick), top], [x(tick), bottom]], { class: "l2m-grid" });
      text(chart, x(tick), bottom + 18, tick, { "text-anchor": "middle" });
    }
    for (const tick of ys) {
      line(chart, [[left, y(tick)], [right, y(tick)]], { class: "l2m-grid" });
      text(chart, left - 6, y(tick) + 4, nats(tick, 0), { "text-anchor": "end" });
    }
    text(chart, (left + right) / 2, bottom + 38, xlabel, { "text-anchor": "middle" });
    text(chart, 12, (top + bottom) / 2, title, { "text-anchor": "middle", transform: `rotate(-90 12 ${(top + bottom) / 2})` });
  }

  function drawLaw(cut, length) {
    const chart = part("law"), lengths = [4, 1024], heights = [2, 500], inside = (v) => Math.min(Math.max(v, heights[0]), heights[1]);
    const x = (v) => frame.left + (Math.log(v / lengths[0]) / Math.log(lengths[1] / lengths[0])) * (frame.right - frame.left - 12) + 6;
    const y = (v) => frame.bottom - (Math.log(inside(v) / heights[0]) / Math.log(heights[1] / heights[0])) * (frame.bottom - frame.top);
    axes(chart, "information (nats)", x, [4, 16, 64, 256, 1024], y, [3, 10, 30, 100, 300], "length of the block L (tokens)");
    const power = ({ amplitude, exponent }) => lengths.map((L) => [x(L), y(amplitude * L ** exponent)]);
    line(chart, power(published), { class: "l2m-published", "stroke-dasharray": "2 4" });
    text(chart, x(140), y(330), "the paper: novels, 405B", { "text-anchor": "end", class: "l2m-note" });
    text(chart, x(140), y(330) + 16, `slope ${published.exponent.toFixed(2)}`, { "text-anchor": "end", class: "l2m-note" });
    line(chart, power(law), { class: mean ? "l2m-law l2m-strong" : "l2m-law" });
    text(chart, x(1024), y(3.5), `mean of ${n}: slope ${law.exponent.toFixed(2)}`, { "text-anchor": "end", class: "l2m-law-words" });
    const dots = (gains, style) => {
      for (let L = 2 * step; L <= gains.length * step + step; L += 2 * step) dot(chart, [x(L), y(total(gains, L / 2, L))], mean ? 1.6 : 2.4, { class: style });
    };
    if (mean) passages.forEach((passage) => dots(passage.gains, "l2m-sample l2m-faint")); else dots(gains, "l2m-sample");
    for (const [L, value, error] of points) {
      line(chart, [[x(L), y(value - 2 * error)], [x(L), y(value + 2 * error)]], { class: "l2m-law" });
      dot(chart, [x(L), y(value)], mean ? 5 : 3.5, { class: "l2m-mean" });
    }
    line(chart, [[x(length), frame.top], [x(length), frame.bottom]], { class: "l2m-here", "stroke-width": 1.5 });
    if (!mean) dot(chart, [x(length), y(sample(cut, length))], 6, { class: "l2m-now" });
  }

  function drawCuts(cut, length) {
    const chart = part("cuts"), cuts = Array.from({ length: length / step + 1 }, (_, i) => i * step), curve = cuts.map((c) => sample(c, length));
    const low = Math.min(-10, 10 * Math.floor(Math.min(...curve) / 10)), high = Math.max(30, 10 * Math.ceil(Math.max(...curve) / 10));
    const x = (v) => frame.left + (v / tokens.length) * (frame.right - frame.left - 8);
    const y = (v) => frame.bottom - ((v - low) / (high - low)) * (frame.bottom - frame.top);
    const every = high - low > 60 ? 20 : 10, ys = [];
    for (let tick = Math.ceil(low / every) * every; tick <= high; tick += every) ys.push(tick);
    axes(chart, "this passage (nats)", x, [0, 64, 128, 192, 256].filter((t) => t <= tokens.length), y, ys, "place of the cut ℓ (tokens)");
    line(chart, [[x(0), y(0)], [x(tokens.length), y(0)]], { class: "l2m-zero", "stroke-width": 1 });
    line(chart, cuts.map((c, i) => [x(c), y(curve[i])]), { class: "l2m-curve" });
    line(chart, [[x(cut), frame.top], [x(cut), frame.bottom]], { class: "l2m-here", "stroke-width": 1.5 });
    dot(chart, [x(cut), y(sample(cut, length))], 6, { class: "l2m-now" });
  }

  function update(event) {
    const length = Number(part("length").value), split = part("split");
    if (event?.target === split) part("middle").checked = false;
    if (event?.target === split || event?.target === part("length")) mean = false;
    split.max = length - step;                                             // the browser moves the slider inside
    if (part("middle").checked) split.value = length / 2;
    const cut = Number(split.value);
    part("length").setAttribute("aria-valuetext", `${length} tokens`);
    split.setAttribute("aria-valuetext", `after ${cut} of ${length} tokens`);
    part("mean").setAttribute("aria-pressed", mean);
    root.querySelector("output[for=l2m-passage-length]").textContent = length;
    root.querySelector("output[for=l2m-passage-split]").textContent = `${cut} | ${length - cut}`;
    colour(cut, length);
    say(cut, length);
    drawLaw(cut, length);
    drawCuts(cut, length);
  }

  root.addEventListener("input", update);
  part("next").addEventListener("click", () => { mean = false; read((which + 1) % passages.length); update(); });
  part("mean").addEventListener("click", () => { mean = !mean; update(); });
  root.hidden = false;
  read(0);
  update();
}

document.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("l2m-passage");
  if (root) startPassage(root);
});
