"use strict";
// A click on the name of a column sorts by it, another one the other way round; what is n/a comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "descending" ? -1 : head.hasAttribute("aria-sort") ? 1 : column ? 1 : -1;
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling === 1 ? "descending" : "ascending");
      const body = table.tBodies[0];
      const value = (row) => (row.cells[column] ? row.cells[column].textContent.trim() : "");
      const compare = (one, other) => {
        const [a, b] = [value(one), value(other)];
        if (!column) return -falling * a.localeCompare(b);
        const [x, y] = [parseFloat(a), parseFloat(b)];
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return falling * (y - x);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
