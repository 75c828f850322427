// Polars prints strings in quotes, nothing as null, and every column to the right: show strings bare and on the left.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("div.cell_output table.dataframe:not(.sortable)")) {
    const headings = table.tHead?.rows[0]?.cells ?? [];
    for (const cell of [...table.tBodies].flatMap((body) => [...body.rows]).flatMap((row) => [...row.cells])) {
      const quoted = /^"(.*?)"?$/s.exec(cell.textContent);
      if (cell.textContent === "null") cell.textContent = "";
      if (!quoted) continue;
      cell.textContent = quoted[1];
      cell.classList.add("words");
      headings[cell.cellIndex]?.classList.add("words");
    }
  }
});

// A table drawn with characters keeps its lines.
document.addEventListener("DOMContentLoaded", () => {
  for (const output of document.querySelectorAll("div.cell_output .output")) output.classList.toggle("framed", /[│┆]/.test(output.textContent));
});
