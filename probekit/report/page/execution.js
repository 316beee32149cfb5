// The execution order: a tree of modules, each with its place in the order. Gives: drawExecution.

const ROWS_AT_FIRST = 48;

// Nodes of an order's events [module, entered, depth]: {module, begin, end, children, parent}.
function treeOf(events) {
  const root = { children: [], parent: null };
  let here = root;
  for (const [at, [module, entered]] of events.entries()) {
    if (entered) {
      const node = { module, begin: at, end: events.length, children: [], parent: here };
      here.children.push(node);
      here = node;
    } else {
      here.end = at + 1;
      here = here.parent;
    }
  }
  return root.children;
}

async function drawExecution() {
  const found = await blocks.json("execution");
  const tree = byId("timeline");
  const select = byId("order");
  let total = 1;
  let top = [];

  function open() {
    const { events } = found.orders[select.selectedIndex];
    total = events.length;
    top = treeOf(events);
    // Unfold level by level as long as the page stays short.
    let level = top;
    for (let rows = top.length; level.length; level = level.flatMap(({ children }) => children)) {
      rows += level.reduce((sum, { children }) => sum + children.length, 0);
      if (rows > ROWS_AT_FIRST) break;
      for (const node of level) node.open = true;
    }
    fill();
  }

  function visibleNodes(nodes = top, depth = 1) {
    return nodes.flatMap((node) => [
      [node, depth],
      ...(node.open ? visibleNodes(node.children, depth + 1) : []),
    ]);
  }

  function fill(focus = null) {
    const rows = visibleNodes().map(([node, depth]) => row(node, depth));
    tree.replaceChildren(...rows);
    const wanted = rows.find(({ node }) => node === focus) ?? rows[0];
    if (!wanted) return;
    wanted.tabIndex = 0;
    if (focus) wanted.focus();
  }

  function row(node, depth) {
    const path = found.modules[node.module];
    const above = node.parent?.module === undefined ? "" : `${found.modules[node.parent.module]}.`;
    const name = path.startsWith(above) ? path.slice(above.length) : path;
    const kinds = found.recorded[node.module];
    const bar = make("i", { className: kinds.length ? "recorded" : "" });
    bar.style.left = `${(node.begin / total) * 100}%`;
    bar.style.width = `${((node.end - node.begin) / total) * 100}%`;
    const label = make("span", { className: "name" });
    label.style.paddingInlineStart = `${(depth - 1) * 0.9}em`;
    label.append(
      make("span", { className: "twist", "aria-hidden": "true", textContent: node.children.length ? (node.open ? "▾" : "▸") : "" }),
      make("bdi", { textContent: name }),
    );
    if (kinds.length) {
      label.append(make("span", { className: "mark", textContent: " ●", title: `recorded: ${kinds.join(", ")}` }));
    }
    const inside = node.children.length ? `, ${numbers.count(node.children.length, "module")} inside` : "";
    const item = make(
      "div",
      {
        role: "treeitem",
        tabIndex: -1,
        "aria-level": depth,
        "aria-label": `${path}${inside}${kinds.length ? `, recorded: ${kinds.join(", ")}` : ""}`,
      },
      label,
      make("span", { className: "track" }, bar),
    );
    item.title = `${path}: events ${node.begin} to ${node.end - 1} of ${total}`;
    if (node.children.length) item.setAttribute("aria-expanded", Boolean(node.open));
    item.node = node;
    return item;
  }

  function toggle(node, open = !node.open) {
    if (!node.children.length) return;
    node.open = open;
    fill(node);
  }

  tree.addEventListener("click", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (item) toggle(item.node);
  });
  tree.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item) return;
    const { node } = item;
    const go = (to) => {
      if (!to) return;
      item.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    };
    const of = (wanted) => [...tree.children].find((one) => one.node === wanted);
    if (event.key === "ArrowDown") go(item.nextElementSibling);
    else if (event.key === "ArrowUp") go(item.previousElementSibling);
    else if (event.key === "Home") go(tree.firstElementChild);
    else if (event.key === "End") go(tree.lastElementChild);
    else if (event.key === "ArrowRight") node.open ? go(of(node.children[0])) : toggle(node, true);
    else if (event.key === "ArrowLeft") node.open ? toggle(node, false) : go(of(node.parent));
    else if (event.key === "Enter" || event.key === " ") toggle(node);
    else return;
    event.preventDefault();
  });

  function setAll(nodes, open) {
    for (const node of nodes) {
      node.open = open;
      setAll(node.children, open);
    }
  }
  byId("unfold").addEventListener("click", () => (setAll(top, true), fill()));
  byId("fold").addEventListener("click", () => (setAll(top, false), fill()));

  fillSelect(
    select,
    found.orders.map(({ phases, events }, place) => {
      const passes = Object.entries(phases).map(([phase, n]) => `${n.toLocaleString("en")} × ${phase}`);
      return `${place + 1}: ${passes.join(", ")} (${numbers.count(events.length / 2, "call")})`;
    }),
  );
  select.addEventListener("change", open);
  drawPasses(found);
  open();
}

// Every forward pass as a bar of its seconds.
function drawPasses({ passes, n_passes, n_orders, orders, seconds }) {
  const longest = Math.max(...passes.map(([, , , , s]) => s));
  const bars = passes.map(([order, phase, n_examples, n_tokens, s], place) => {
    const bar = make("i", { className: phase });
    bar.style.height = `${Math.max(3, (s / longest) * 100)}%`;
    const name = order < 0 ? "an order not shown" : `order ${order + 1}`;
    bar.title = `pass ${place + 1}, ${phase}: ${numbers.count(n_examples, "example")}, ${numbers.count(n_tokens, "token")}, ${numbers.seconds(s)}, ${name}`;
    return bar;
  });
  const said = [`${numbers.count(n_passes, "forward pass", "forward passes")}, ${numbers.seconds(seconds)} in all`];
  for (const phase of new Set(passes.map(([, kind]) => kind))) {
    const times = passes.filter(([, kind]) => kind === phase).map(([, , , , s]) => s).sort((a, b) => a - b);
    said.push(`${phase}: ${times.length.toLocaleString("en")}, median ${numbers.seconds(times[times.length >> 1])}`);
  }
  if (passes.length < n_passes) said.push(`bars: the first ${passes.length.toLocaleString("en")}`);
  if (orders.length < n_orders) said.push(`${numbers.count(n_orders, "order")}, the ${orders.length} most frequent are shown`);
  const text = said.join("; ");
  byId("passes").replaceChildren(make("div", { className: "passes", role: "img", "aria-label": text }, ...bars));
  byId("passes-about").textContent = `${text}. A bar’s height is its seconds.`;
}
