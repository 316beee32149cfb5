// The attention explorer: one head of one example. Gives: drawAttention, chooseHead, headNear,
// headName, sayWeight, N_PAIRS.

const N_PAIRS = 6; // tokens listed beside the map

// A head's weights, Float32Array [query, key] over all tokens; NaN where there is none.
async function unpackHead(example, attention, place, column) {
  const map = attention.maps[place];
  const n = example.tokens.length;
  const bytes = await blocks.bytes(`${example.number}-head-${place}-${column}`);
  const queries = map.queries ?? [...example.tokens.keys()];
  const keysOf = (query) => (map.causal ? query + 1 : n);
  const { below, levels, steps } = attention;
  let second = queries.reduce((sum, query) => sum + keysOf(query), 0); // behind all first bytes
  let at = 0;
  const weights = new Float32Array(n * n).fill(NaN);
  for (const query of queries) {
    for (let key = 0; key < keysOf(query); key++, at++) {
      const high = bytes[at];
      if (high < levels) {
        weights[query * n + key] = (high / levels) * below;
        continue;
      }
      const low = bytes[second++];
      if (high === 255 && low === 255) continue; // not a number
      const above = 256 * (high - levels) + low;
      weights[query * n + key] = below + (above / steps) * (1 - below);
    }
  }
  return weights;
}

const sayWeight = (value) => numbers.weight(value, state.attention);

const shareOf = (weight) => (state.scale === "root" ? Math.sqrt(weight) : weight);

const headName = (map, column) => `${map.label}, head ${map.heads[column]}`;

function drawAttention() {
  const strip = byId("strip");
  const readout = byId("readout");
  const idle = readout.textContent;
  const map = heatMap(byId("head-map"), {
    name: "Attention of the chosen head",
    keys: "Arrow keys move over query and key, Enter keeps the query.",
    rowsTitle: "query: the token that looks",
    columnsTitle: "key: the token it looks at",
    onPoint: (row, column) => {
      state.set({ hover: row });
      readout.textContent = row === null ? idle : sayPair(row, column);
    },
    onPick: (row) => state.set({ token: row }),
  });

  const weight = (query, key) => state.weights[query * state.example.tokens.length + key];

  // The number first: what stands behind it may be cut off.
  function sayPair(query, key) {
    if (!state.weights) return idle;
    const { tokens } = state.example;
    const pair = `${quoted(tokens[query])} (${query}) → ${quoted(tokens[key])} (${key})`;
    return `${sayValue(query, key)} · ${pair}`;
  }

  function sayValue(query, key) {
    const { queries, causal } = state.attention.maps[state.map];
    if (queries && !queries.includes(query)) return "query not recorded";
    if (causal && key > query) return "not seen, it comes later";
    return sayWeight(weight(query, key));
  }

  // The other ends of a token's attention in one direction, heaviest first: [position, weight].
  function ends(token, direction) {
    const pairs = state.example.tokens.map((_, other) => [
      other,
      direction === "to" ? weight(token, other) : weight(other, token),
    ]);
    return pairs.filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
  }

  function current() {
    return state.hover ?? state.token ?? state.example.tokens.length - 1;
  }

  function fillStrip() {
    strip.replaceChildren(
      ...state.example.tokens.flatMap((text, position) => {
        const token = make("span", { role: "option", tabIndex: -1 }, shown(text));
        token.dataset.position = position;
        return text.endsWith("⏎") ? [token, make("br")] : [token];
      }),
    );
  }

  const options = () => strip.querySelectorAll("[role=option]");

  function paintStrip() {
    if (!state.weights) return;
    const token = current();
    const hue = state.direction === "to" ? "blue" : "orange";
    for (const [position, option] of options().entries()) {
      const value = state.direction === "to" ? weight(token, position) : weight(position, token);
      if (Number.isNaN(value)) colours.clear(option);
      else colours.paint(option, hue, shareOf(value));
      option.classList.toggle("current", position === token);
      option.setAttribute("aria-selected", position === state.token);
      option.tabIndex = position === token ? 0 : -1;
    }
    map.mark(...(state.direction === "to" ? [token, null] : [null, token]));
    showInStrip(options()[token]);
    const name = `${quoted(state.example.tokens[token])} (${token})`;
    for (const direction of ["to", "from"]) {
      const title = direction === "to" ? "attends to" : "is attended to by";
      byId(`${direction}-title`).replaceChildren(shown(name), ` ${title}`);
      fillBars(
        byId(direction),
        ends(token, direction)
          .slice(0, N_PAIRS)
          .map(([position, value]) => ({
            text: state.example.tokens[position],
            note: String(position),
            share: value,
            number: sayWeight(value),
          })),
        `nothing above ${Math.ceil(state.attention.error * 1e5) / 1e5}`,
      );
    }
  }

  // What is pointed at on the map is to be seen in the strip, which scrolls; the page stays.
  function showInStrip(option) {
    const top = option.offsetTop - strip.offsetTop;
    const isSeen =
      top >= strip.scrollTop && top + option.offsetHeight <= strip.scrollTop + strip.clientHeight;
    if (!isSeen) strip.scrollTop = top - strip.clientHeight / 2;
  }

  function paintMap() {
    if (!state.weights) return;
    const { tokens } = state.example;
    map.draw({
      rows: tokens.length,
      columns: tokens.length,
      share: (row, column) => shareOf(state.weights[row * tokens.length + column]),
      hue: "blue",
      rowLabels: tokens,
      columnLabels: tokens,
      square: true,
    });
    byId("map-title").textContent = headName(state.attention.maps[state.map], state.column);
    const isFirst = state.map === start.opens.map && state.column === start.opens.column;
    byId("opens").hidden = !isFirst || !start.opens.why;
    byId("opens").textContent = `Open at first, since it is the most telling: ${start.opens.why}.`;
    const ticks = state.scale === "root" ? [0, 0.01, 0.1, 0.25, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
    performance.mark("head drawn"); // for the benchmark
    colours.legend(
      byId("attention-legend"),
      "weight",
      "blue",
      ticks.map((t) => [shareOf(t), String(t)]),
    );
  }

  function openExample() {
    const { example, attention } = state;
    const there = attention?.maps.some((one) => one.heads.length) ?? false;
    byId("attention-body").hidden = !there;
    byId("attention-none").hidden = there;
    byId("attention-none").textContent =
      "The attention of this example is not in this report: see “Not in this report” above.";
    if (!there) return;
    fillSelect(
      byId("map"),
      attention.maps.map(({ label }) => label.replace(/^layer /, "")),
    );
    const notes = attention.maps.filter((one) => one.why).map((one) => `${one.label} ${one.why}.`);
    byId("precision").textContent =
      `Weights are rounded: ${attention.precision}. ${notes.join(" ")}`;
    fillStrip();
  }

  async function openHead() {
    const { example, attention, map: place, column } = state;
    if (!attention?.maps[place]?.heads.length) return;
    byId("map").selectedIndex = place;
    fillSelect(byId("head"), attention.maps[place].heads, column);
    const weights = await unpackHead(example, attention, place, column);
    const still = state.example === example && state.map === place && state.column === column;
    if (still) state.set({ weights });
  }

  byId("map").addEventListener("change", (event) =>
    chooseHead(event.target.selectedIndex, state.column),
  );
  byId("head").addEventListener("change", (event) =>
    chooseHead(state.map, event.target.selectedIndex),
  );
  byId("scale").addEventListener("change", (event) => state.set({ scale: event.target.value }));
  for (const radio of document.querySelectorAll("input[name=direction]")) {
    radio.addEventListener("change", () => state.set({ direction: radio.value }));
  }
  watchStrip(strip, options);

  state.on("example", openExample);
  state.on("example map column", () => openHead().catch(tellTrouble));
  state.on("weights scale theme", paintMap);
  state.on("weights token hover direction scale theme", paintStrip);
}

const chooseHead = (place, column) => state.set(headNear(state.attention, place, column));

// The head asked for, or the nearest there is: maps without heads say why they have none.
function headNear(attention, place, column) {
  const maps = attention?.maps ?? [];
  const map = maps[place]?.heads.length ? place : maps.findIndex(({ heads }) => heads.length);
  if (map < 0) return { map: 0, column: 0 };
  return { map, column: Math.max(0, Math.min(column, maps[map].heads.length - 1)) };
}

// Pointer, finger and keys on the strip of tokens.
function watchStrip(strip, options) {
  const at = (event) => {
    const option = event.target.closest("[role=option]");
    return option ? Number(option.dataset.position) : null;
  };
  strip.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch" && at(event) !== null) state.set({ hover: at(event) });
  });
  strip.addEventListener("pointerleave", () => state.set({ hover: null }));
  strip.addEventListener("click", (event) => {
    if (at(event) !== null) state.set({ token: at(event), hover: null });
  });
  strip.addEventListener("keydown", (event) => {
    const last = state.example.tokens.length - 1;
    const here = state.hover ?? state.token ?? last;
    const next = {
      ArrowLeft: Math.max(0, here - 1),
      ArrowRight: Math.min(last, here + 1),
      ArrowUp: Math.max(0, here - 1),
      ArrowDown: Math.min(last, here + 1),
      Home: 0,
      End: last,
    }[event.key];
    if (next !== undefined) {
      state.set({ token: next, hover: null });
      options()[next].focus();
    } else if (event.key === "Escape") state.set({ token: null, hover: null });
    else if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
  });
}
