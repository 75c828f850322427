// Tables of class "sortable": a click on a heading sorts by the cells' data-value, a second one turns the order round.
function sortBy(table, column, ascending) {
  const value = (row) => row.cells[column].dataset.value;
  const key = (row) => (value(row) === "inf" ? Infinity : Number(value(row)));
  const numeric = [...table.tBodies[0].rows].every((row) => !Number.isNaN(key(row)));
  const compare = numeric ? (a, b) => (key(a) === key(b) ? 0 : key(a) - key(b)) : (a, b) => value(a).localeCompare(value(b));
  const rows = [...table.tBodies[0].rows].sort((a, b) => (ascending ? 1 : -1) * compare(a, b));
  table.tBodies[0].append(...rows);
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, column, ascending);
    }));
  }
});
