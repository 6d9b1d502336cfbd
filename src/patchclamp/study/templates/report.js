(() => {
  const root = document.documentElement, tip = document.getElementById("tip");
  const wanted = new URLSearchParams(location.search).get("theme");
  if (wanted === "dark" || wanted === "light") root.dataset.theme = wanted;
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const button = document.querySelector("button.theme");
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  label();

  const show = (event) => {
    const mark = event.target.closest ? event.target.closest("[data-tip]") : null;
    if (!mark) { tip.style.opacity = 0; return; }
    tip.textContent = mark.dataset.tip;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(event.clientX + 12, innerWidth - box.width - 8)) + "px";
    tip.style.top = (event.clientY > 60 ? event.clientY - box.height - 10 : event.clientY + 16) + "px";
    tip.style.opacity = 1;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.style.opacity = 0; }, { passive: true });

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const control = head.querySelector("button");
      if (!control) return;
      control.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
        const rows = [...body.rows].sort((a, b) => {
          const x = key(a), y = key(b), n = parseFloat(x) - parseFloat(y);
          const order = Number.isNaN(n) ? x.localeCompare(y, undefined, { numeric: true }) : n;
          return down ? -order : order;
        });
        body.append(...rows);
      });
    });
  }
})();
