// Lines and words of an SVG chart, for the widgets beside this file.
function line(chart, points, attributes) {
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join(""));
  for (const [name, value] of Object.entries({ fill: "none", "stroke-width": 2, ...attributes })) path.setAttribute(name, value);
  chart.append(path);
}

function text(chart, x, y, content, attributes = {}) {
  const label = document.createElementNS("http://www.w3.org/2000/svg", "text");
  label.textContent = content;
  for (const [name, value] of Object.entries({ x, y, ...attributes })) label.setAttribute(name, value);
  chart.append(label);
}

function dot(chart, [x, y], r, attributes) {
  const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [name, value] of Object.entries({ cx: x.toFixed(1), cy: y.toFixed(1), r, ...attributes })) circle.setAttribute(name, value);
  chart.append(circle);
}

const superscript = (d) => [...String(d)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit] ?? "⁻").join("");
