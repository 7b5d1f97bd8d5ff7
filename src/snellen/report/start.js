// Wires the page together.

const themes = { system: null, light: "light", dark: "dark" };
const themeButton = byId("theme");
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  const names = Object.keys(themes);
  const now = document.documentElement.dataset.theme || "system";
  const next = names[(names.indexOf(now) + 1) % names.length];
  if (themes[next]) document.documentElement.dataset.theme = next; else delete document.documentElement.dataset.theme;
  themeButton.textContent = `Theme: ${next}`;
});

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));

if (page) start();

function start() {
  const box = byId("strip");
  box.classList.toggle("every", strip.chosen.size === strip.n);
  chooseMode(0);
  layout(box);
  strip.chunks.slice(0, 2).forEach(fill);
  modeButtons();
  documentMenu(box);

  const rowOf = (event) => {
    const span = event.target.closest(".t");
    return span ? Number(span.dataset.row) : null;
  };
  box.addEventListener("click", (event) => {
    const row = rowOf(event);
    if (row === null) return;
    aim(row, true);
    open(row);
  });
  box.addEventListener("keydown", (event) => keys(event, rowOf(event)));
  box.addEventListener("mouseover", (event) => tip(rowOf(event), event.target));
  box.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) tip(rowOf(event), event.target); });
  for (const name of ["mouseleave", "focusout", "scroll"]) box.addEventListener(name, () => tip(null));
  for (const [id, by] of [["before", -1], ["after", 1]]) {
    byId(id).addEventListener("click", () => { const row = nextTree(strip.open, by); aim(row); show(row); open(row); });
    byId(id).hidden = strip.chosen.size < 2;
  }
  open(page.open); // an empty panel teaches nothing
}

function nextTree(row, by) {
  const rows = inspect.order;
  let place = rows.findIndex((other) => other >= row);
  if (place < 0) place = rows.length;
  if (by < 0) place -= 1;
  else if (rows[place] === row) place += 1;
  return rows[(place + rows.length) % rows.length];
}

function keys(event, row) {
  if (row === null) return;
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (by) aim(event.shiftKey && inspect ? nextTree(row, by) : Math.min(strip.n - 1, Math.max(0, row + by)), true);
  else if (event.key === "Enter" || event.key === " ") open(row);
  else return;
  event.preventDefault();
}

function chooseMode(place) {
  strip.mode = place;
  for (const [row, span] of strip.spans) paint(row, span);
  scale(strip.modes[place]);
}

function modeButtons() {
  const buttons = strip.modes.map((mode, place) => {
    const button = make("button", "", mode.label[0].toUpperCase() + mode.label.slice(1));
    button.type = "button";
    button.dataset.mode = mode.name;
    button.setAttribute("aria-pressed", String(place === 0));
    button.addEventListener("click", () => {
      chooseMode(place);
      buttons.forEach((other, k) => other.setAttribute("aria-pressed", String(k === place)));
    });
    return button;
  });
  byId("modes").append(...buttons);
}

function scale(mode) {
  const list = make("ol");
  const plain = (value) => String(Number(value.toPrecision(3))).replace(/^0\./, ".");
  const step = (kind, text) => {
    const item = make("li");
    item.append(make("i", kind));
    if (text) item.append(make("b", "", text));
    list.append(item);
  };
  if (mode.diverging) for (let k = 4; k >= 1; k -= 1) step(`l${k}`, `\u2212${plain(mode.edges[k - 1])}`);
  step("", (mode.diverging ? "+" : "") + plain(mode.edges[0]));
  for (let k = 1; k <= 4; k += 1) step(`${mode.diverging ? "g" : "l"}${k}`, k < 4 ? (mode.diverging ? "+" : "") + plain(mode.edges[k]) : "");
  const words = mode.diverging ? ["lookahead hurts", "lookahead helps"] : ["expected", "surprising"];
  const missing = make("span", "undefined");
  missing.append(make("i", "none"), "not judged");
  byId("scale").replaceChildren(make("span", "", words[0]), list, make("span", "", `${words[1]} (nats)`), ...(mode.undefined ? [missing] : []));
}

function documentMenu(box) {
  const documents = [...new Set(page.segments.map(([, document]) => document))];
  if (documents.length < 2) return;
  const menu = byId("goto");
  menu.hidden = false;
  menu.append(...documents.map((document) => {
    const option = make("option", "", documentName(document));
    option.value = document;
    return option;
  }));
  menu.addEventListener("change", () => {
    const name = byId(`document-${menu.value}`);
    // The name is sticky, so its own place is that of the chunk after it.
    const move = () => { box.scrollTop = name.nextElementSibling.offsetTop - name.offsetHeight - 8; };
    move();
    requestAnimationFrame(move);
  });
}

function tip(row, target) {
  const box = byId("tip");
  box.hidden = row === null;
  if (row === null) return;
  const name = make("b");
  name.append(make("bdi", "", asLabel(strip.piece(row))));
  box.replaceChildren(name, ...describe(row).map((words) => make("span", "", words)));
  const here = target.getClientRects()[0];
  const size = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(here.left, innerWidth - size.width - 8))}px`;
  box.style.top = `${here.bottom + 8 + size.height > innerHeight ? here.top - size.height - 8 : here.bottom + 8}px`;
}
