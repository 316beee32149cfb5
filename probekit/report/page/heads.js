// All heads of an example as small pictures: a row a layer, a column a head. Gives: drawHeads.

const SMALL = { least: 16, most: 56, gap: 3, tile: 32 }; // CSS pixels; tiles of a picture's side

function drawHeads() {
  const canvas = make("canvas");
  const frame = make("div", { className: "band cell" });
  const pointed = make("div", { className: "band pointed", hidden: true });
  const grid = make(
    "div",
    {
      className: "heads",
      tabIndex: 0,
      role: "application",
      "aria-roledescription": "grid of heads",
      "aria-label": "All heads, a row a layer. Arrow keys choose a head.",
    },
    canvas,
    pointed,
    frame,
  );
  const rowTitle = make("div", { className: "axis rows" });
  const rowLabels = make("div", { className: "labels rows", "aria-hidden": "true" });
  const columnTitle = make("div", { className: "axis columns" });
  const columnLabels = make("div", { className: "labels columns", "aria-hidden": "true" });
  byId("heads").replaceChildren(columnTitle, rowTitle, columnLabels, rowLabels, grid);
  const readout = byId("heads-readout");
  const idle = readout.textContent;

  let pictures = []; // by map: {heads: [Uint8Array [y, x]], high, wide}
  let side = SMALL.least;

  async function open() {
    pictures = [];
    const { example, attention } = state;
    if (!attention) return;
    const found = await (attention.thumbnails ? readPictures : drawPictures)(example, attention);
    if (state.example !== example) return;
    pictures = found;
    paint();
  }

  function paint() {
    const n_heads = Math.max(0, ...pictures.map((one) => one.heads.length));
    const { maps } = state.attention ?? { maps: [] };
    const room = byId("heads-scroll").clientWidth;
    if (!n_heads || room <= 0) return;
    const [word, names] = namesOf(
      maps.map(({ label }) => label),
      "layer",
    );
    rowTitle.textContent = `↓ ${word || "map"}`;
    const labels = Math.max(widthOf(rowLabels, names, room * 0.4), widthOf(rowTitle, [rowTitle.textContent]));
    side = Math.floor((room - labels) / n_heads) - SMALL.gap;
    side = Math.max(SMALL.least, Math.min(SMALL.most, side));
    const pitch = side + SMALL.gap;
    const [width, height] = [n_heads * pitch, pictures.length * pitch];
    byId("heads").style.gridTemplateColumns = `${labels}px ${width}px`;
    Object.assign(grid.style, { width: `${width}px`, height: `${height}px` });
    rowLabels.style.height = `${height}px`;
    placeLabels(rowLabels, names, pitch, "top", { numbered: true, room: lineOf(rowLabels) });
    const same = maps.every(({ heads }) => String(heads) === String(maps[0].heads));
    columnTitle.textContent = same ? "→ head" : "→ head (which ones differ by layer)";
    const numbersOfHeads = same ? maps[0].heads.map(String) : [];
    const widest = widthOf(columnLabels, numbersOfHeads);
    placeLabels(columnLabels, numbersOfHeads, pitch, "left", { numbered: true, room: widest });
    draw(width, height);
    showFrame(frame, state.map, state.column);
  }

  function draw(width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    for (const [place, one] of pictures.entries()) {
      for (const [column, head] of one.heads.entries()) {
        const picture = shrunk(head, one, Math.round(side * ratio));
        const [x, y] = corner(place, column);
        context.putImageData(picture, Math.round(x * ratio), Math.round(y * ratio));
      }
    }
  }

  const corner = (place, column) => [column * (side + SMALL.gap), place * (side + SMALL.gap)];

  function showFrame(band, place, column) {
    band.hidden = place === null || !pictures[place]?.heads[column];
    if (band.hidden) return;
    const [left, top] = corner(place, column).map((at) => `${at}px`);
    Object.assign(band.style, { left, top, width: `${side}px`, height: `${side}px` });
  }

  function headAt(event) {
    const box = grid.getBoundingClientRect();
    const along = (at, begin) => Math.floor((at - begin) / (side + SMALL.gap));
    const [place, column] = [along(event.clientY, box.top), along(event.clientX, box.left)];
    return pictures[place]?.heads[column] ? [place, column] : [null, null];
  }

  function say(place, column) {
    readout.textContent = place === null ? idle : headName(state.attention.maps[place], column);
  }

  grid.addEventListener("pointermove", (event) => {
    const [place, column] = headAt(event);
    showFrame(pointed, place, column);
    say(place, column);
  });
  grid.addEventListener("pointerleave", () => {
    pointed.hidden = true;
    say(null);
  });
  grid.addEventListener("click", (event) => {
    const [place, column] = headAt(event);
    if (place !== null) chooseHead(place, column);
  });
  grid.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[
      event.key
    ];
    if (!by) return;
    const [place, column] = [state.map + by[1], state.column + by[0]];
    if (pictures[place]?.heads.length && column >= 0) chooseHead(place, column);
    say(state.map, state.column);
    event.preventDefault();
  });

  state.on("example", () => open().catch(tellTrouble));
  state.on("theme", paint);
  state.on("map column", () => showFrame(frame, state.map, state.column));
  new ResizeObserver(paint).observe(byId("heads-scroll"));
}

// The pictures that come with the page, where the heads are too many to be drawn here.
async function readPictures(example, attention) {
  const bytes = await blocks.bytes(`${example.number}-thumbnails`);
  let at = 0;
  return attention.maps.map(({ heads, queries }) => {
    const [high, wide] = sidesOf(queries, example.tokens.length);
    const parts = heads.map(() => bytes.subarray(at, (at += high * wide)));
    return { heads: parts, high, wide };
  });
}

function drawPictures(example, attention) {
  const n = example.tokens.length;
  return Promise.all(
    attention.maps.map(async ({ heads, queries }, place) => {
      const [high, wide] = sidesOf(queries, n);
      const parts = heads.map(async (_, column) => {
        const weights = await unpackHead(example, attention, place, column);
        return pictureOf(weights, queries ?? [...Array(n).keys()], n, high, wide);
      });
      return { heads: await Promise.all(parts), high, wide };
    }),
  );
}

const sidesOf = (queries, n) => [Math.min(queries?.length ?? n, SMALL.tile), Math.min(n, SMALL.tile)];

// The largest weight of each tile, 255 times its square root.
function pictureOf(weights, queries, n, high, wide) {
  const picture = new Uint8Array(high * wide);
  for (const [row, query] of queries.entries()) {
    const y = Math.floor(((row + 1) * high - 1) / queries.length);
    for (let key = 0; key < n; key++) {
      const value = weights[query * n + key];
      if (Number.isNaN(value)) continue;
      const at = y * wide + Math.floor(((key + 1) * wide - 1) / n);
      picture[at] = Math.max(picture[at], Math.round(255 * Math.sqrt(value)));
    }
  }
  return picture;
}

// One head as pixels [side, side]; its bytes are 255 times the square roots of weights.
function shrunk(head, { high, wide }, side) {
  const image = new ImageData(side, side);
  const pixels = new Uint32Array(image.data.buffer);
  const table = colours.table("blue");
  for (let y = 0; y < side; y++) {
    const row = Math.floor((y * high) / side) * wide;
    for (let x = 0; x < side; x++) {
      const [red, green, blue] = table[head[row + Math.floor((x * wide) / side)]];
      pixels[y * side + x] = (255 << 24) | (blue << 16) | (green << 8) | red;
    }
  }
  return image;
}
