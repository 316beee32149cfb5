// Head scores: which heads are induction, previous-token or duplicate-token heads. Gives: drawScores.

const N_BEST = 6; // heads listed beside the map

function drawScores({ labels, heads, kinds, n_examples }) {
  const select = byId("score-kind");
  const readout = byId("score-readout");
  const idle = readout.textContent;
  const [word, names] = namesOf(labels, "layer");
  const n_heads = Math.max(...heads.map((some) => some.length));
  const same = heads.every((some) => String(some) === String(heads[0]));
  const map = heatMap(byId("score-map"), {
    name: "Scores of all heads",
    keys: "Arrow keys move over layers and heads, Enter opens the head.",
    rowsTitle: word || "map",
    columnsTitle: same ? "head" : "head (which ones differ by layer)",
    onPoint: (row, column) => {
      readout.textContent = row === null ? idle : say(row, column);
    },
    onPick: (row, column) => {
      if (state.attention && heads[row][column] !== undefined) chooseHead(row, column);
    },
  });

  const kind = () => kinds[select.selectedIndex];
  const scoreOf = (row, column) => kind().scores[row][column] ?? null;
  const nameOf = (row, column) => `${labels[row]}, head ${heads[row][column]}`;
  const even = () => (kind().uniform === null ? "" : ` · ${kind().uniform.toFixed(3)} if even`);

  function say(row, column) {
    if (heads[row][column] === undefined) return `${labels[row]} has no such head`;
    const score = scoreOf(row, column);
    return `${score === null ? "nothing shows it" : score.toFixed(3)}${even()} · ${nameOf(row, column)}`;
  }

  function draw() {
    const all = heads.flatMap((some, row) => some.map((_, column) => [row, column]));
    const known = all.filter(([row, column]) => scoreOf(row, column) !== null);
    const most = Math.max(...known.map((at) => scoreOf(...at)), 1e-9);
    map.draw({
      rows: labels.length,
      columns: n_heads,
      share: (row, column) => (scoreOf(row, column) ?? NaN) / most,
      hue: "blue",
      rowLabels: names,
      columnLabels: Array.from({ length: n_heads }, (_, at) => String(same ? heads[0][at] : at)),
      square: false,
      numbered: Boolean(word),
    });
    const ticks = known.length ? [0, 0.5, 1].map((at) => [at, (at * most).toFixed(2)]) : [];
    colours.legend(byId("score-legend"), "score", "blue", ticks);
    const best = known.sort((a, b) => scoreOf(...b) - scoreOf(...a)).slice(0, N_BEST);
    fillBars(
      byId("score-best"),
      best.map((at) => ({
        text: nameOf(...at),
        share: scoreOf(...at),
        number: scoreOf(...at).toFixed(3),
      })),
      "nothing in these texts shows such heads",
    );
    const tokens = numbers.count(kind().n_queries, "token");
    const texts = numbers.count(n_examples, "example");
    byId("score-about").textContent = kind().n_queries
      ? `Means over ${tokens} of the ${texts} in full${even()}.`
      : `No token of the ${texts} in full can show such heads.`;
  }

  const mark = () => map.mark(state.map, null);

  byId("score-none").hidden = kinds.length > 0;
  byId("score-body").hidden = !kinds.length;
  if (!kinds.length) return;
  const telling = kinds.findIndex(({ name }) => start.opens.why.startsWith(`${name} `));
  const shows = kinds.findIndex(({ n_queries }) => n_queries > 0);
  const chosen = telling >= 0 ? telling : Math.max(0, shows);
  fillSelect(
    select,
    kinds.map(({ name }) => name),
    chosen,
  );
  select.addEventListener("change", draw);
  state.on("theme", draw);
  state.on("map column", mark);
  draw();
  mark();
}
