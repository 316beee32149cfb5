// Norms by layer and token. Gives: drawStreams.

function drawStreams() {
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
    onPick: (row, column) => state.set({ token: column, hover: null }),
  });

  const stream = () => state.example.streams[select.selectedIndex];

  function say(row, column) {
    const { layers, values, unit } = stream();
    const token = `${quoted(state.example.tokens[column])} (${column})`;
    const value = values[row][column];
    const number = value === null ? "not recorded, or not a finite number" : numbers.plain(value);
    return `${unit} ${number} · layer ${layers[row]}, ${token}`;
  }

  function draw() {
    if (!state.example) return;
    const { values, layers, unit } = stream();
    const { tokens } = state.example;
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
      columns: tokens.length,
      share: (row, column) => (values[row][column] === null ? NaN : along(values[row][column])),
      hue: "blue",
      rowLabels: layers.map(String),
      columnLabels: tokens,
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
      state.example.streams.map(({ name }) => name),
      kept,
    );
    draw();
  }

  select.addEventListener("change", draw);
  scale.addEventListener("change", draw);
  state.on("example", open);
  state.on("theme", draw);
}
