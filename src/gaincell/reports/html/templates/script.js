"use strict";
(() => {
  const root = document.documentElement;
  const tip = document.getElementById("tip");

  // Colours: as the system says, or as chosen here and remembered.
  const theme = document.querySelector(".theme");
  let kept = "auto";
  try { kept = localStorage.getItem("gaincell-theme") || "auto"; } catch { /* no storage: not remembered */ }
  const choose = (name) => {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
  };
  for (const input of theme.querySelectorAll("input")) {
    input.checked = input.value === kept;
    input.addEventListener("change", () => {
      choose(input.value);
      try { localStorage.setItem("gaincell-theme", input.value); } catch { /* as above */ }
    });
  }
  choose(kept);
  theme.hidden = false;

  // What a mark says: its hint, or the number of a heat map's cell from the table below it.
  const said = (mark) => {
    if (mark.dataset.tip) return mark.dataset.tip;
    const [r, c] = mark.dataset.cell.split(",").map(Number);
    const table = mark.closest("figure").querySelector("table");
    const row = table.rows[r + 1];
    const heads = table.rows[0].cells;
    return `${heads[0].textContent} ${row.cells[0].textContent}, ${heads[c + 1].textContent}: ` +
      `${row.cells[c + 1].textContent} · ${table.caption.textContent}`;
  };
  const show = (mark, x, y) => {
    tip.textContent = said(mark);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, x - box.width / 2), root.clientWidth - box.width - 8);
    const above = y - box.height - 14;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 8 ? y + 20 : above}px`;
  };
  let now = null;
  const leave = () => {
    tip.hidden = true;
    if (now) now.classList.remove("now");
    now = null;
  };
  const marks = "[data-tip],[data-cell]";
  const over = (event) => {
    const mark = event.target instanceof Element ? event.target.closest(marks) : null;
    if (mark) show(mark, event.clientX, event.clientY); else if (!now) tip.hidden = true;
  };
  document.addEventListener("pointermove", over);
  document.addEventListener("pointerdown", over);
  document.addEventListener("scroll", () => { if (!now) tip.hidden = true; }, { passive: true });

  // Keyboard: a focused drawing is stepped through; in heat maps up and down change the layer.
  const step = (all, at, key) => {
    const cells = all[0].dataset.cell !== undefined;
    if (key === "Home") return 0;
    if (key === "End") return all.length - 1;
    if (cells && (key === "ArrowUp" || key === "ArrowDown")) {
      const [r, c] = all[Math.max(at, 0)].dataset.cell.split(",").map(Number);
      const next = all.findIndex((m) => m.dataset.cell === `${r + (key === "ArrowDown" ? 1 : -1)},${c}`);
      return next < 0 ? at : next;
    }
    const by = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
    return Math.min(all.length - 1, Math.max(0, at + by));
  };
  for (const drawing of document.querySelectorAll("svg[tabindex]")) {
    drawing.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { leave(); return; }
      if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
      event.preventDefault();
      const all = [...drawing.querySelectorAll(marks)];
      const next = all[step(all, all.indexOf(now), event.key)];
      leave();
      now = next;
      now.classList.add("now");
      const box = now.getBoundingClientRect();
      show(now, box.left + box.width / 2, box.top);
    });
    drawing.addEventListener("blur", leave);
  }

  // Links of the navigation open what they lead to; a printed page shows everything.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
