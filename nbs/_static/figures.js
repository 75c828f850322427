// A tap on a figure opens it at its full size.
document.addEventListener("DOMContentLoaded", () => {
  if (document.querySelector(".title-page")) return; // on paper there is nothing to open
  for (const image of document.querySelectorAll("article .cell_output img")) {
    const link = Object.assign(document.createElement("a"), { href: image.src, className: "l2m-figure" });
    image.replaceWith(link);
    link.append(image);
  }
});
