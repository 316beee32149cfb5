// The logit lens: what each layer would say, token by token, or example by example where each has
// one row. Gives: drawLens.

async function drawLens() {
  const byExample = start.lens.by_example;
  const columns = byExample ? await blocks.json("lens") : null;
  const select = byId("lens-shown");
  const readout = byId("lens-readout");
  const idle = readout.textContent;
  const measures = {
    probability: {
      title: "probability of what the layer says",
      of: (found, row, at) => found.probability[row][at][0],
      share: (value) => value,
      ticks: [0, 0.25, 0.5, 0.75, 1].map((at) => [at, `${at * 100} %`]),
    },
    logprob: {
      title: "probability of the token that came",
      of: (found, row, at) => (found.rank[row][at] ? Math.exp(found.logprob[row][at]) : null),
      share: (value) => value,
      ticks: [0, 0.25, 0.5, 0.75, 1].map((at) => [at, `${at * 100} %`]),
    },
    entropy: { title: "entropy, nats", of: (found, row, at) => found.entropy[row][at] },
    kl: { title: "KL to the last layer, nats", of: (found, row, at) => found.kl[row][at] },
  };
  const map = heatMap(byId("lens-map"), {
    name: "What each layer says",
    keys: "Arrow keys move over layers and tokens.",
    rowsTitle: "layer",
    columnsTitle: byExample ? "example" : "after the token",
    onPoint: (row, column) => {
      readout.textContent = row === null ? idle : say(row, column);
      if (column !== null) list(column);
    },
    onPick: (row, column) => {
      if (byExample) goToExample(columns.examples[column]);
      else state.set({ token: found().positions[column], hover: null });
    },
  });

  const found = () => columns ?? state.lens;
  const wordAt = (row, column, place = 0) => found().words[found().said[row][column][place]];

  function nameOf(column) {
    if (byExample) {
      const number = found().examples[column];
      return `example ${number}, ${quoted(nameExample(number))}`;
    }
    const position = found().positions[column];
    return `after ${quoted(state.example.tokens[position])} (${position})`;
  }

  function say(row, column) {
    const { said, probability, rank, layers } = found();
    const likeliest = said[row][column].map(
      (_, place) =>
        `${quoted(wordAt(row, column, place))} ${numbers.probability(probability[row][column][place])}`,
    );
    const came = rank[row][column];
    const next = came ? ` · the one that came: rank ${came.toLocaleString("en")}` : "";
    return `${likeliest.join(", ")}${next} · layer ${layers[row]}, ${nameOf(column)}`;
  }

  function list(column) {
    const { layers, probability } = found();
    if (!(column < probability[0].length)) return;
    byId("lens-title").textContent = `${nameOf(column)[0].toUpperCase()}${nameOf(column).slice(1)}`;
    fillBars(
      byId("lens-layers"),
      layers.map((layer, row) => ({
        text: wordAt(row, column),
        note: `layer ${layer}`,
        share: probability[row][column][0] ?? 0,
        number: numbers.probability(probability[row][column][0]),
      })),
      "no layer was recorded",
    );
  }

  function draw() {
    byId("lens-none").hidden = Boolean(found());
    byId("lens-body").hidden = !found();
    if (!found()) return;
    const { layers, said } = found();
    const measure = Object.values(measures)[select.selectedIndex];
    const values = layers.map((_, row) => said[row].map((_, at) => measure.of(found(), row, at)));
    const known = values.flat().filter((value) => value !== null && Number.isFinite(value));
    const most = Math.max(...known, 1e-9);
    const share = measure.share ?? ((value) => value / most);
    map.draw({
      rows: layers.length,
      columns: said[0].length,
      share: (row, column) => (values[row][column] === null ? NaN : share(values[row][column])),
      hue: "blue",
      rowLabels: layers.map(String),
      columnLabels: byExample
        ? found().examples.map((number) => nameExample(number))
        : found().positions.map((position) => state.example.tokens[position]),
      square: false,
      numbered: false,
      word: (row, column) => wordAt(row, column),
    });
    const ticks = measure.ticks ?? [0, 0.5, 1].map((at) => [at, numbers.plain(at * most, 3)]);
    colours.legend(byId("lens-legend"), measure.title, "blue", ticks);
    list(said[0].length - 1);
  }

  function choose() {
    if (byExample || !found()) return;
    const column = found().positions.indexOf(state.hover ?? state.token);
    map.mark(null, column < 0 ? null : column);
    if (column >= 0) list(column);
  }

  fillSelect(
    select,
    Object.values(measures).map(({ title }) => title),
  );
  select.addEventListener("change", draw);
  state.on(byExample ? "theme" : "lens theme", draw);
  if (!byExample) state.on("lens token", choose);
  if (found() || !start.examples.length) draw();
}
