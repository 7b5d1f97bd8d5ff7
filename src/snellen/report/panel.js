// The panel of one token: its numbers, what would have come next, and the beam tree.

const inspect = page && page.inspect && unpackInspect(page.inspect);

function unpackInspect(about) {
  const found = { ...about };
  for (const name of ["top", "top_probs", "mix", "mix_probs", "beam", "parents", "log_probs", "real"]) found[name] = unpack(about[name]);
  found.order = [...strip.chosen.keys()];
  return found;
}
const word = (place) => asLabel(inspect.vocabulary[place]);

function open(row) {
  const before = strip.spans.get(strip.open);
  if (before) before.classList.remove("open");
  strip.open = row;
  spanOf(row).classList.add("open");
  byId("panel").hidden = false;
  byId("token").textContent = asLabel(strip.piece(row));
  const [first, document_, index] = segment(row);
  const { columns } = strip;
  const where = [`Token ${(index + row - first + 1).toLocaleString("en")} of ${documentName(document_)}`];
  if (columns.class) where.push(page.classes[columns.class.at(row)]);
  if (columns.memorised && columns.memorised.at(row)) where.push("memorised: inside a long verbatim continuation");
  byId("where").textContent = where.join(" \u00b7 ");
  context(row);
  facts(row);
  const place = strip.chosen.get(row);
  byId("lists").replaceChildren();
  if (place !== undefined) lists(row, place);
  const without = Boolean(inspect) && place === undefined;
  byId("kept").hidden = !without;
  byId("kept").textContent = without
    ? `Nothing more was kept for this token: ${strip.chosen.size.toLocaleString("en")} of ${strip.n.toLocaleString("en")} are underlined, and hold a ${inspect.beam ? "tree" : "list"}.`
    : "";
  byId("treebox").hidden = without || !inspect || !inspect.beam;
  if (!byId("treebox").hidden) drawTree(row, place);
}

function context(row) {
  const [first] = segment(row);
  const parts = [];
  const end = page.segments.find(([start]) => start > row)?.[0] ?? strip.n;
  for (let k = Math.max(first, row - 18); k < Math.min(end, row + 7); k += 1) {
    const part = make("bdi", "", /^ +$/.test(strip.piece(k)) ? inText(strip.piece(k)) : visible(strip.piece(k)).replace(/\n/g, "\u21b5"));
    if (k === row) {
      const mark = make("mark");
      mark.append(part);
      parts.push(mark);
    } else parts.push(part);
  }
  byId("context").replaceChildren(row - 18 > first ? "\u2026" : "", ...parts, "\u2026");
}

function facts(row) {
  const { columns, modes } = strip;
  const known = modes.filter((mode) => mode.diverging).map((mode) => {
    const value = mode.values.at(row);
    return [mode.label, value === null ? "\u2014 (not judged)" : `${signed(value)} nats`];
  });
  const log = (value) => {
    if (value === null) return "\u2014 (not judged)";
    return value < -32.76 ? "below \u221232.76" : `${signed(value, 2)} (${percent(Math.exp(value))})`;
  };
  known.push([own("log p"), log(columns.log_prob.at(row))]);
  if (columns.lookahead) known.push(["lookahead log p", log(columns.lookahead.at(row))]);
  if (has(columns.rank, row)) known.push([own("rank"), (columns.rank.at(row) + 1).toLocaleString("en")]);
  if (has(columns.entropy, row)) known.push([own("entropy"), `${columns.entropy.at(row).toFixed(2)} nats`]);
  byId("facts").replaceChildren(...known.map(([name, value]) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", value));
    return pair;
  }));
}

function lists(row, place) {
  const real = inspect.real.at(place * inspect.real_each);
  const { columns } = strip;
  const rank = has(columns.rank, row) ? `real, rank ${(columns.rank.at(row) + 1).toLocaleString("en")}` : "real token";
  const made = [];
  if (inspect.top) made.push(list("top", page.lookahead ? "Naive" : "The model", place, real, rank, columns.log_prob.at(row)));
  if (inspect.mix) made.push(list("mix", "With lookahead", place, real, "real token", columns.lookahead ? columns.lookahead.at(row) : null));
  byId("lists").replaceChildren(...made, make("p", "small", "\u25c2 the token that stands in the text"));
}

function list(name, title, place, real, beyond, log) {
  const each = inspect[`${name}_each`];
  const entries = [];
  for (let k = place * each; k < (place + 1) * each; k += 1) {
    if (inspect[name].at(k) >= 0) entries.push([inspect[name].at(k), inspect[`${name}_probs`].at(k)]);
  }
  // A full bar is certainty, so that both lists can be compared, and a flat one looks flat.
  const rows = entries.map(([token, p]) => bar(word(token), p, token === real ? "real" : ""));
  if (!entries.some(([token]) => token === real)) {
    const p = log === null ? null : Math.exp(log);
    rows.push(bar(word(real), p, "real beyond", beyond));
  }
  const box = make("div", name);
  const items = make("ol");
  items.append(...rows);
  box.append(make("h4", "", `${title}: ${entries.length} most probable`), items);
  return box;
}

function bar(text, p, kind, title) {
  const item = make("li", kind);
  const length = make("i");
  length.style.width = `${100 * Math.min(1, p || 0)}%`;
  const name = make("bdi", "", text);
  if (kind.startsWith("real")) item.setAttribute("aria-label", `${text}, ${percent(p)}, the real token`);
  item.title = title ? `${text} (${title})` : text;
  item.append(name, length, make("span", "", percent(p)));
  return item;
}
