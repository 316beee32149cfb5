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
      make("span", {
        className: "twist",
        "aria-hidden": "true",
        textContent: node.children.length ? (node.open ? "▾" : "▸") : "",
      }),
      make("bdi", { textContent: name }),
    );
    if (kinds.length) {
      label.append(
        make("span", {
          className: "mark",
          textContent: " ●",
          title: `recorded: ${kinds.join(", ")}`,
        }),
      );
    }
    const inside = node.children.length
      ? `, ${numbers.count(node.children.length, "module")} inside`
      : "";
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
      const passes = Object.entries(phases).map(
        ([phase, n]) => `${n.toLocaleString("en")} × ${phase}`,
      );
      return `${place + 1}: ${passes.join(", ")} (${numbers.count(events.length / 2, "call")})`;
    }),
  );
  select.addEventListener("change", open);
  drawPasses(found);
  open();
}
