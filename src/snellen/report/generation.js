"use strict";
// The token that is looked at stands out in the text; arrow keys move; the theme can be chosen.
(() => {
  // Not :target, which is not set yet when a page is opened at one of its tokens.
  const shown = () => document.getElementById(location.hash.slice(1)) || document.querySelector(".choice");
  const open = () => {
    const section = shown();
    if (!section) return;
    document.querySelectorAll(".t.open").forEach((token) => { token.classList.remove("open"); token.removeAttribute("aria-current"); });
    const token = document.querySelector(`.t[href="#${section.id}"]`);
    token.classList.add("open");
    token.setAttribute("aria-current", "true");
    token.scrollIntoView({ block: "nearest" });
  };
  addEventListener("hashchange", open);
  addEventListener("keydown", (event) => {
    const rel = { ArrowRight: "next", ArrowLeft: "prev" }[event.key];
    if (!rel || event.altKey || event.ctrlKey || event.metaKey) return;
    const section = shown();
    const link = section && section.querySelector(`[rel="${rel}"]`);
    if (!link) return;
    event.preventDefault();
    location.hash = link.hash;
  });
  const names = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = names[(names.indexOf(document.documentElement.dataset.theme || "system") + 1) % 3];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    button.textContent = `Theme: ${next}`;
  });
  open();
})();
