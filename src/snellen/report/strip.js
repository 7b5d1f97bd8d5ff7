"use strict";
// The text as a strip of tokens. Everything that came from the text is set with textContent and nothing else.

const holder = document.getElementById("data");
const page = holder ? JSON.parse(holder.textContent) : null;
const byId = (id) => document.getElementById(id);

function make(tag, kind, text) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
}

// {kind, scale, data}: little-endian integers in base64; the smallest one stands for "undefined".
function unpack(column) {
  if (!column) return null;
  const bytes = Uint8Array.from(atob(column.data), (c) => c.charCodeAt(0));
  const Kind = { i1: Int8Array, i2: Int16Array, i4: Int32Array }[column.kind];
  const missing = { i1: -128, i2: -32768, i4: -2147483648 }[column.kind];
  const values = new Kind(bytes.buffer);
  return { length: values.length, at: (k) => (values[k] === missing ? null : values[k] / column.scale) };
}

const MARKS = { "\u061c": "ALM", "\u200b": "ZWSP", "\u200e": "LRM", "\u200f": "RLM", "\u2028": "LS", "\u2029": "PS",
  "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF", "\u202d": "LRO", "\u202e": "RLO", "\u2060": "WJ", "\u2066": "LRI",
  "\u2067": "RLI", "\u2068": "FSI", "\u2069": "PDI", "\ufeff": "BOM", "\u00ad": "SHY" };
const C0 = ("NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC "
  + "FS GS RS US").split(" ");
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]/g;

// A token as one can see it: white space, control and direction marks as signs that do nothing.
function visible(piece) {
  if (piece === "") return "\u27e8\u27e9";
  if (/^[\u200c\u200d]+$/.test(piece)) return piece.replace(/\u200c/g, "\u27e8ZWNJ\u27e9").replace(/\u200d/g, "\u27e8ZWJ\u27e9");
  const text = piece.replace(HIDDEN, (c) => {
    const code = c.charCodeAt(0);
    return `\u27e8${MARKS[c] || C0[code] || code.toString(16).toUpperCase()}\u27e9`;
  }).replace(/\t/g, "\u21e5\t");
  return /^\p{M}/u.test(text) ? "\u25cc" + text : text;
}
const inText = (piece) => (/^ +$/.test(piece) ? "\u2423".repeat(piece.length) : visible(piece).replace(/\n/g, "\u21b5\n"));
const asLabel = (piece) => visible(piece).replace(/\n/g, "\u21b5").replace(/\u21e5\t/g, "\u21e5").replace(/^ +| +$/g, (s) => "\u2423".repeat(s.length));

// Beside lookahead the model's own numbers are called naive; without it there is nothing to tell them from.
const own = (name) => (page.lookahead ? `naive ${name}` : name);
const signed = (value, digits = 3) =>
  value === null ? "\u2014" : (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(digits);
function percent(p) {
  if (p === null) return "\u2014";
  const value = 100 * p;
  if (value < 0.01) return "< 0.01 %"; // also what was rounded to zero on its way here
  return `${value.toFixed(value >= 99.95 ? 0 : value >= 1 ? 1 : 2)} %`;
}

const strip = page && prepare();

function prepare() {
  const columns = {};
  for (const name of ["piece", "log_prob", "entropy", "rank", "memorised", "lookahead", "class"]) columns[name] = unpack(page[name]);
  const modes = page.modes.map((mode) => ({ ...mode, values: unpack(mode.values) }));
  const n = columns.piece.length;
  const chosen = new Map(); // row -> its place among the trees
  if (page.inspect) {
    const rows = unpack(page.inspect.rows);
    for (let k = 0; k < rows.length; k += 1) chosen.set(rows.at(k), k);
  }
  return { n, columns, modes, mode: 0, chosen, spans: new Map(), chunks: [], focus: -1,
    piece: (row) => page.pieces[columns.piece.at(row)] };
}

// The unbroken run of tokens in which a row lies: [first row, document, index there].
function segment(row) {
  let low = 0;
  let high = page.segments.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (page.segments[middle][0] <= row) low = middle; else high = middle - 1;
  }
  return page.segments[low];
}
const documentName = (k) => asLabel(page.documents[k] || `document ${k + 1}`);

function level(row) {
  const mode = strip.modes[strip.mode];
  const value = mode.values.at(row);
  if (value === null) return "none";
  const step = mode.edges.filter((edge) => Math.abs(value) >= edge).length;
  return step ? (mode.diverging && value > 0 ? "g" : "l") + step : "";
}

function paint(row, span) {
  const open = span.classList.contains("open") ? " open" : "";
  span.className = `t ${level(row)}${strip.chosen.has(row) ? " tree" : ""}${open}`;
}

// A chunk is plain text until it comes near the window of the strip: find-in-page works, and 50,000 tokens open at once.
function layout(box) {
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) fill(entry.target);
  }, { root: box, rootMargin: "600px 0px" });
  let document_ = -1;
  page.segments.forEach(([first, document, index], place) => {
    const end = place + 1 < page.segments.length ? page.segments[place + 1][0] : strip.n;
    if (document !== document_) {
      const name = make("div", "name", documentName(document));
      name.dir = "auto";
      name.id = `document-${document}`;
      box.append(name);
      document_ = document;
    } else {
      box.append(make("div", "gap", "\u2026 not scored \u2026"));
    }
    if (index > 0 && (place === 0 || page.segments[place - 1][1] !== document)) {
      box.append(make("div", "gap", `\u2026 ${index.toLocaleString("en")} token${index > 1 ? "s" : ""} before this not scored \u2026`));
    }
    for (let from = first; from < end;) {
      let to = from;
      while (to < end && to - from < 420 && !(to - from >= 140 && strip.piece(to - 1).endsWith("\n"))) to += 1;
      const chunk = make("div", "chunk");
      Object.assign(chunk, { from, to });
      let text = "";
      for (let row = from; row < to; row += 1) text += inText(strip.piece(row));
      const right = (text.match(/[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/g) || []).length;
      if (right > (text.match(/\p{L}/gu) || []).length / 2) chunk.dir = "rtl";
      chunk.textContent = text;
      strip.chunks.push(chunk);
      box.append(chunk);
      watcher.observe(chunk);
      from = to;
    }
  });
}

function fill(chunk) {
  if (chunk.filled) return;
  chunk.filled = true;
  const parts = document.createDocumentFragment();
  for (let row = chunk.from; row < chunk.to; row += 1) {
    const span = make("span", "", inText(strip.piece(row)));
    span.dataset.row = row;
    strip.spans.set(row, span);
    paint(row, span);
    parts.append(span);
  }
  chunk.replaceChildren(parts);
  if (strip.focus < 0) aim([...strip.chosen.keys()].find((row) => row >= chunk.from && row < chunk.to) ?? chunk.from);
}

function spanOf(row) {
  if (!strip.spans.has(row)) fill(strip.chunks.find((chunk) => row < chunk.to));
  return strip.spans.get(row);
}

// One token at a time can be reached with Tab; arrow keys move on from there.
function aim(row, move = false) {
  const old = strip.spans.get(strip.focus);
  if (old) for (const name of ["tabindex", "role", "aria-label"]) old.removeAttribute(name);
  strip.focus = row;
  const span = spanOf(row);
  span.tabIndex = 0;
  span.setAttribute("role", "button");
  span.setAttribute("aria-label", `${asLabel(strip.piece(row))}: ${describe(row).join(", ")}`);
  if (move) {
    show(row);
    span.focus({ preventScroll: true });
  }
}

// Scrolls the strip and not the page; twice, since a chunk takes its true height only once it is near.
function show(row) {
  const box = byId("strip");
  const once = () => {
    const here = spanOf(row).getBoundingClientRect();
    const frame = box.getBoundingClientRect();
    if (here.top < frame.top + 60 || here.bottom > frame.bottom - 20) box.scrollTop += here.top - frame.top - frame.height / 3;
  };
  once();
  requestAnimationFrame(once);
}

const has = (column, row) => Boolean(column) && column.at(row) !== null;

function describe(row) {
  const { columns, modes } = strip;
  const words = modes.filter((mode) => mode.diverging).map((mode) => `${mode.label} ${signed(mode.values.at(row))} nats`);
  const p = columns.log_prob.at(row);
  words.push(p === null ? `${own("log p")} \u2014` : `${own("log p")} ${signed(p, 2)} (${percent(Math.exp(p))})`);
  if (has(columns.rank, row)) words.push(`rank ${columns.rank.at(row) + 1}`);
  if (has(columns.entropy, row)) words.push(`entropy ${columns.entropy.at(row).toFixed(2)} nats`);
  if (columns.class) words.push(page.classes[columns.class.at(row)]);
  return words;
}
