// The beam tree of one position: a column a depth, the kept best path straight along the top.

const LINE = 34;
const GAP = 28;
const TOP_ROOM = 26;

// Survivors as nodes with their parents; `alive` leads to a final survivor, `best` to the first of them.
function treeNodes(place) {
  const { width, horizon, beam, parents, log_probs } = inspect;
  const at = (depth, slot) => (place * horizon + depth) * width + slot;
  const depths = [];
  for (let depth = 0; depth < horizon; depth += 1) {
    const nodes = [];
    for (let slot = 0; slot < width; slot += 1) {
      const k = at(depth, slot);
      if (beam.at(k) < 0) continue;
      const parent = depth ? depths[depth - 1].find((node) => node.slot === parents.at(k)) : null;
      const own = log_probs.at(k);
      const real = beam.at(k) === inspect.real.at(place * inspect.real_each + depth) && (!depth || Boolean(parent && parent.real));
      nodes.push({ depth, slot, token: beam.at(k), parent, own, sum: own + (parent ? parent.sum : 0), real });
    }
    depths.push(nodes);
  }
  for (const last of depths[horizon - 1]) {
    for (let node = last; node; node = node.parent) {
      node.alive = true;
      node.best = node.best || last === depths[horizon - 1][0];
    }
  }
  // Children stand in the order of their parents, so no two edges cross; the best path comes first.
  depths.forEach((nodes, depth) => {
    nodes.sort((a, b) => (depth ? a.parent.place - b.parent.place : 0) || Boolean(b.best) - Boolean(a.best) || a.slot - b.slot);
    nodes.forEach((node, k) => { node.place = k; });
  });
  return depths;
}

// Shortens a text element to `room` pixels, as the reader's own font sets it.
function clip(element, room) {
  const letters = [...element.textContent];
  while (letters.length > 1 && element.getComputedTextLength() > room) {
    letters.pop();
    element.textContent = `${letters.join("")}\u2026`;
  }
}

const brief = (p) => (p < 0.0001 ? "<.01 %" : `${Number((100 * p).toPrecision(2))} %`);

function drawTree(row, place) {
  const svg = byId("tree");
  svg.replaceChildren();
  const depths = treeNodes(place);
  const found = depths.flat();
  byId("treewords").textContent = ["Bold: the best completion kept.",
    found.some((node) => !node.alive) ? "Thin: branches that died." : "",
    found.some((node) => node.real) ? "Dashed outline: what the text really says." : "None of it is what the text really says.",
    "Beside each token its probability after its branch; at the end that of the whole completion."].filter(Boolean).join(" ");
  const rootBox = 88;
  const room = byId("treebox").clientWidth - rootBox - GAP - 36;
  const column = Math.max(136, Math.min(210, room / depths.length));
  const box = column - GAP;
  const left = (depth) => (depth < 0 ? 1 : rootBox + GAP + depth * column);
  const middle = (node) => TOP_ROOM + node.place * LINE + LINE / 2;
  const draw = (parent, tag, attributes, text) => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const width = left(depths.length) + 34;
  const height = TOP_ROOM + Math.max(...depths.map((nodes) => nodes.length)) * LINE + 4;
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) svg.setAttribute(name, value);
  const kind = (node) => ["node", node.best ? "best" : node.alive ? "alive" : "dead", node.real ? "real" : ""].join(" ");

  const edges = draw(svg, "g", {});
  const root = { depth: -1, place: 0 };
  for (const node of depths.flat().sort((a, b) => Boolean(a.best) - Boolean(b.best))) {
    const from = node.parent || root;
    const [x, y, X, Y] = [left(from.depth) + (from === root ? rootBox : box), middle(from), left(node.depth), middle(node)];
    const half = (x + X) / 2;
    draw(edges, "path", { class: `edge ${node.best ? "best" : node.alive ? "" : "dead"}`, d: `M${x} ${y}C${half} ${y} ${half} ${Y} ${X} ${Y}` });
  }
  const label = (group, x, y, most, text) => clip(draw(group, "text", { x, y: y + 5, direction: "ltr", "unicode-bidi": "isolate" }, text), most);
  const start = draw(svg, "g", { class: "root" });
  draw(start, "rect", { x: 1, y: middle(root) - 13, width: rootBox, height: 26, rx: 5 });
  const [first] = segment(row);
  label(start, 9, middle(root), rootBox - 16, row > first ? `\u2026${asLabel(strip.piece(row - 1)).replace(/^\u2423/, "")}` : "\u2026");
  depths.forEach((nodes, depth) => {
    draw(svg, "text", { class: "depth", x: left(depth) + 8, y: 14 }, `${depth + 1} ahead`);
    for (const node of nodes) {
      const [x, y] = [left(depth), middle(node)];
      const group = draw(svg, "g", { class: kind(node), "data-depth": depth, "data-slot": node.slot });
      draw(group, "title", {}, `${word(node.token)}: ${percent(Math.exp(node.own))} after its branch, ${percent(Math.exp(node.sum))} with it`);
      draw(group, "rect", { x, y: y - 13, width: box, height: 26, rx: 5 });
      label(group, x + 8, y, box - 56, word(node.token));
      draw(group, "text", { class: "p", x: x + box - 7, y: y + 4, "text-anchor": "end" }, brief(Math.exp(node.own)));
      if (depth === depths.length - 1) {
        draw(group, "text", { class: "p", x: x + box + 10, y: y + 4 }, brief(Math.exp(node.sum)));
      }
    }
  });
  draw(svg, "text", { class: "depth", x: left(depths.length - 1) + box + 10, y: 14 }, "all");
  const best = depths.map((nodes) => nodes.find((node) => node.best)).filter(Boolean);
  svg.setAttribute("aria-label", `Beam tree, ${depths.length} deep. Best completion: ${best.map((node) => word(node.token)).join(" ")}`);
}
