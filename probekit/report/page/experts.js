// Experts: which of them each token goes to, and how many tokens each got. Gives: drawExperts.

function drawExperts(loads) {
  const layer = byId("expert-layer");
  const chosen = byId("expert-number");
  const list = byId("expert-tokens");
  const readout = byId("expert-readout");
  const idle = readout.textContent;
  let pointed = null; // the position that the readout is about
  const SHOWN = 2; // numbers below a token; the rest are counted

  const routes = () => state.experts.layers[layer.selectedIndex];
  const expert = () => (chosen.selectedIndex > 0 ? chosen.selectedIndex - 1 : null);

  const map = heatMap(byId("load-map"), {
    name: "Loads of experts by layer",
    keys: "Arrow keys move over layers and experts; Enter shows an expert’s tokens above.",
    rowsTitle: "layer",
    columnsTitle: "expert",
    onPoint: (row, column) => {
      byId("load-readout").textContent = row === null ? idleLoad : sayLoad(row, column);
    },
    onPick: (row, column) => {
      if (column >= loads[row].counts.length) return;
      layer.selectedIndex = row;
      fillExperts(column);
      paint();
    },
  });
  const idleLoad = byId("load-readout").textContent;

  function sayLoad(row, column) {
    const { label, counts, n_tokens } = loads[row];
    if (column >= counts.length) return `${label} has no expert ${column}`;
    const all = counts.reduce((sum, count) => sum + count, 0);
    const even = all ? (counts[column] * counts.length) / all : 0;
    const share = numbers.probability(n_tokens ? counts[column] / n_tokens : 0);
    const said = numbers.count(counts[column], "token");
    return `${label}, expert ${column}: ${said} of ${n_tokens.toLocaleString("en")} (${share}), ${numbers.plain(even, 3)} × an even share`;
  }

  function drawLoads() {
    const n_experts = Math.max(...loads.map(({ counts }) => counts.length));
    const most = Math.max(...loads.map(({ counts, n_tokens }) => Math.max(...counts) / n_tokens), 0);
    map.draw({
      rows: loads.length,
      columns: n_experts,
      share: (row, column) => {
        const { counts, n_tokens } = loads[row];
        return column < counts.length && most ? counts[column] / n_tokens / most : NaN;
      },
      hue: "orange",
      rowLabels: loads.map(({ label }) => label.replace("layer ", "")),
      columnLabels: Array.from({ length: n_experts }, (_, number) => String(number)),
      square: false,
      numbered: true,
    });
    const ticks = [0, 0.5, 1].map((at) => [at, at ? numbers.probability(at * most) : "0 %"]);
    colours.legend(byId("load-legend"), "share of the tokens", "orange", ticks);
  }

  // The experts of a layer, each with its load, in a list to choose from.
  function fillExperts(number) {
    const { counts, evenness } = loads[layer.selectedIndex];
    const names = counts.map((count, n) => `${n}: ${numbers.count(count, "token")}`);
    fillSelect(chosen, ["all, by colour", ...names], number === null ? 0 : number + 1);
    const unused = counts.filter((count) => count === 0).length;
    const even = evenness === null ? "" : ` Evenness ${numbers.plain(evenness, 3)} (1: all alike).`;
    const idleOnes = unused ? ` ${numbers.count(unused, "expert")} got no token.` : "";
    byId("expert-about").textContent = `${numbers.count(counts.length, "expert")}.${even}${idleOnes}`;
  }

  function say(position) {
    const { ids, weights } = routes();
    const token = `${quoted(state.example.tokens[position])} (${position})`;
    if (!ids[position]) return `${token}: not recorded`;
    const parts = ids[position].map((number, place) => {
      const weight = weights ? ` (weight ${numbers.plain(weights[position][place], 3)})` : "";
      return `expert ${number}${weight}`;
    });
    return `${token}: ${parts.join(", ")}`;
  }

  function point(position) {
    pointed = position;
    readout.textContent = position === null ? idle : say(position);
  }

  function cell(position) {
    const chip = make("button", { type: "button", className: "chip", tabIndex: position ? -1 : 0 });
    chip.append(shown(state.example.tokens[position]));
    chip.addEventListener("click", () => state.set({ token: position, hover: null }));
    for (const event of ["pointerenter", "focus"]) {
      chip.addEventListener(event, () => point(position));
    }
    const item = make("li", {}, chip, make("small"));
    if (state.example.tokens[position].endsWith("⏎")) item.classList.add("breaks");
    return item;
  }

  function fill() {
    if (!state.experts) return;
    list.replaceChildren(...state.example.tokens.map((_, position) => cell(position)));
    paint();
  }

  function paint() {
    if (!state.experts) return;
    const { ids, weights } = routes();
    const one = expert();
    const weightOf = (position) => {
      const place = ids[position]?.indexOf(one) ?? -1;
      return place < 0 ? null : (weights?.[position][place] ?? 1);
    };
    const most = one === null ? 1 : Math.max(...ids.map((_, n) => Math.abs(weightOf(n) ?? 0)));
    for (const [position, item] of [...list.children].entries()) {
      const [chip, small] = item.children;
      const mine = ids[position] ?? [];
      const more = mine.length > SHOWN ? ` +${mine.length - SHOWN}` : "";
      small.textContent = mine.length ? mine.slice(0, SHOWN).join(" · ") + more : "–";
      const weight = one === null ? null : weightOf(position);
      if (one === null && mine.length) colours.mark(chip, mine[0]);
      else if (weight !== null && most) colours.paint(chip, "blue", Math.abs(weight) / most);
      else colours.clear(chip);
    }
    point(pointed);
    sayLegend(one, weights !== null, most);
    mark();
  }

  function sayLegend(one, weighed, most) {
    const first = weighed ? "the expert with the largest weight" : "the first expert of the token";
    const order = weighed ? ", the heaviest first" : "";
    byId("expert-legend").hidden = one === null || !weighed;
    if (one !== null && weighed) {
      const ticks = [0, 0.5, 1].map((at) => [at, numbers.plain(at * most, 3)]);
      colours.legend(byId("expert-legend"), `weight of expert ${one}`, "blue", ticks);
    }
    byId("expert-key").textContent =
      one === null
        ? `Colour: ${first}; colours can be alike, the numbers are not. Below a token: its experts${order}.`
        : `Coloured: the tokens that go to expert ${one}. Below a token: its experts${order}.`;
  }

  function mark() {
    for (const [position, item] of [...list.children].entries()) {
      item.firstChild.classList.toggle("chosen", position === state.token);
      item.firstChild.setAttribute("aria-pressed", position === state.token);
    }
  }

  function open() {
    byId("experts-none").hidden = Boolean(state.experts);
    byId("experts-body").hidden = !state.experts;
    pointed = null;
    fill();
  }

  rove(list, () => [...list.querySelectorAll(".chip")]);
  fillSelect(
    layer,
    loads.map(({ label }) => label),
  );
  fillExperts(null);
  layer.addEventListener("change", () => {
    fillExperts(null);
    paint();
  });
  chosen.addEventListener("change", paint);
  state.on("experts", open);
  state.on("theme", () => {
    drawLoads();
    paint();
  });
  state.on("token", mark);
  drawLoads();
  if (state.example) open(); // it came first
}
