"use strict";
(() => {
  const root = document.documentElement;

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

  // A printed page shows everything.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
