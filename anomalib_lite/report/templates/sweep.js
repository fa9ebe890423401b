(() => {
  "use strict";
  const table = document.getElementById("jobs");
  const jobs = new Map();

  const mark = (number, on) => {
    for (const element of jobs.get(number) || []) element.classList.toggle("hot", on);
  };
  for (const element of document.querySelectorAll("[data-job]")) {
    const number = element.dataset.job;
    if (!jobs.has(number)) jobs.set(number, []);
    jobs.get(number).push(element);
    for (const name of ["mouseenter", "focus"]) element.addEventListener(name, () => mark(number, true));
    for (const name of ["mouseleave", "blur"]) element.addEventListener(name, () => mark(number, false));
  }

  const shown = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const order = (kind, sign) => (a, b) => {
    if (a.text === "" || b.text === "") return (a.text === "") - (b.text === "");  // what is unknown stays last
    const both = kind === "number" || (isFinite(a.text) && isFinite(b.text));
    return sign * (both ? a.text - b.text : a.text.localeCompare(b.text, undefined, { numeric: true }));
  };
  const sort = (head) => {
    const body = table.tBodies[0];
    const before = head.getAttribute("aria-sort");
    const first = head.dataset.first || "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const now = before === first ? second : first;
    for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", now);
    const rows = [...body.rows].map((row) => ({ row, text: shown(row.cells[head.dataset.column]) }));
    rows.sort(order(head.dataset.kind, now === "ascending" ? 1 : -1));
    body.append(...rows.map(({ row }) => row));
  };
  for (const head of table ? table.querySelectorAll("th[data-column]") : []) {
    head.tabIndex = 0;
    head.classList.add("sortable");
    head.addEventListener("click", () => sort(head));
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(head);
    });
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    const source = document.getElementById(button.dataset.copy);
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);  // no clipboard for this page: one key is left to press
        button.textContent = "Selected: press Ctrl+C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2500);
    });
  }
})();
