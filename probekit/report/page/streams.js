// Norms by layer and token, and by layer and example where each has one row. Gives: drawStreams.

async function drawStreams() {
  const columns = start.columns ? await blocks.json("columns") : { streams: [] };
  const select = byId("stream");
  const scale = byId("stream-scale");
  const readout = byId("stream-readout");
  const idle = readout.textContent;
  const map = heatMap(byId("stream-map"), {
    name: "Norms by layer and token",
    keys: "Arrow keys move over layers and tokens.",
    rowsTitle: "layer",
    columnsTitle: "token",
    onPoint: (row, column) => {
      readout.textContent = row === null ? idle : say(row, column);
    },
    onPick: (row, column) => {
      if (isByExample()) goToExample(column);
      else state.set({ token: column, hover: null });
    },
  });

  const streams = () => [...(state.example?.streams ?? []), ...columns.streams];
  const stream = () => streams()[select.selectedIndex];
  const isByExample = () => columns.streams.includes(stream());

  function say(row, column) {
    const { layers, values, unit } = stream();
    const token = isByExample()
      ? `example ${column}, ${quoted(nameExample(column))}`
      : `${quoted(state.example.tokens[column])} (${column})`;
    const value = values[row][column];
    const number = value === null ? "not recorded, or not a finite number" : numbers.plain(value);
    return `${unit} ${number} · layer ${layers[row]}, ${token}`;
  }

  function draw() {
    if (!stream()) return;
    const { values, layers, unit } = stream();
    const known = values.flat().filter((value) => value !== null);
    const positive = known.filter((value) => value > 0);
    // A logarithm needs numbers above 0; means may lie below.
    const log = scale.value === "log" && positive.length === known.length;
    const low = log ? Math.min(...positive) : Math.min(0, ...known);
    const high = Math.max(...known);
    const along = log
      ? (value) => (high > low ? Math.log(value / low) / Math.log(high / low) : 1)
      : (value) => (high > low ? (value - low) / (high - low) : 1);
    map.draw({
      rows: layers.length,
      columns: values[0].length,
      columnsTitle: isByExample() ? "example" : "token",
      share: (row, column) => (values[row][column] === null ? NaN : along(values[row][column])),
      hue: "blue",
      rowLabels: layers.map(String),
      columnLabels: isByExample()
        ? values[0].map((_, number) => nameExample(number))
        : state.example.tokens,
      square: false,
    });
    const middle = log ? Math.sqrt(low * high) : (low + high) / 2;
    const ticks = known.length ? [low, middle, high] : [];
    colours.legend(
      byId("stream-legend"),
      unit,
      "blue",
      ticks.map((value, place) => [place / 2, numbers.plain(value, 3)]),
    );
  }

  function open() {
    const kept = Math.max(0, select.selectedIndex);
    fillSelect(
      select,
      streams().map(({ name, at }) => (at ? `${name} (${at}), by example` : name)),
      kept,
    );
    draw();
  }

  select.addEventListener("change", draw);
  scale.addEventListener("change", draw);
  state.on("example", open);
  state.on("theme", draw);
  open();
}
