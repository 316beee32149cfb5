// All heads of an example as small pictures, by layer and head. Gives: drawHeads.

const SMALL = { least: 16, most: 56, turned: 30, gap: 3, left: 74, top: 18 }; // CSS pixels

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
      "aria-label": "All heads. Arrow keys choose a head.",
    },
    canvas,
    pointed,
    frame,
  );
  byId("heads").replaceChildren(grid);
  const readout = byId("heads-readout");
  const idle = readout.textContent;

  let pictures = []; // by map: {heads: [Uint8Array [y, x]], high, wide}
  let side = SMALL.least;
  let turned = false; // maps lie across and heads down, where that shows all of them at once

  async function open() {
    pictures = [];
    const { example, attention } = state;
    if (!attention) return;
    const bytes = await blocks.bytes(`${example.number}-thumbnails`);
    if (state.example !== example) return;
    const n = example.tokens.length;
    let at = 0;
    pictures = attention.maps.map(({ heads, queries }) => {
      const high = Math.min(queries?.length ?? n, 32);
      const wide = Math.min(n, 32);
      const parts = heads.map((_, place) =>
        bytes.subarray(at + place * high * wide, at + (place + 1) * high * wide),
      );
      at += heads.length * high * wide;
      return { heads: parts, high, wide };
    });
    paint();
  }

  function paint() {
    const n_heads = Math.max(0, ...pictures.map((one) => one.heads.length));
    const room = byId("heads-scroll").clientWidth - SMALL.left;
    if (!n_heads || room <= 0) return;
    const sideOf = (columns) => Math.min(SMALL.most, Math.floor(room / columns) - SMALL.gap);
    turned = pictures.length > n_heads && sideOf(pictures.length) >= SMALL.turned;
    const counts = turned ? [n_heads, pictures.length] : [pictures.length, n_heads];
    side = Math.max(SMALL.least, sideOf(counts[1]));
    const height = SMALL.top + counts[0] * (side + SMALL.gap);
    const width = SMALL.left + counts[1] * (side + SMALL.gap);
    Object.assign(grid.style, { width: `${width}px`, height: `${height}px` });
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
    context.scale(ratio, ratio);
    paintLabels(context, n_heads);
    showFrame(frame, state.map, state.column);
  }

  function paintLabels(context, n_heads) {
    const { maps } = state.attention;
    const same = maps.every(({ heads }) => String(heads) === String(maps[0].heads));
    const heads = same ? maps[0].heads.map(String) : Array(n_heads).fill("");
    const layers = maps.map(({ label }) => label);
    const style = getComputedStyle(grid);
    context.fillStyle = style.color;
    context.font = `11px ${style.fontFamily}`;
    context.textBaseline = "middle";
    const pitch = side + SMALL.gap;
    const every = Math.ceil(20 / pitch);
    context.textAlign = "center";
    for (const [column, label] of (turned ? layers : heads).entries()) {
      const x = SMALL.left + column * pitch + side / 2;
      if (column % every === 0) context.fillText(label.replace(/^layer /, ""), x, SMALL.top / 2);
    }
    context.textAlign = "right";
    for (const [row, label] of (turned ? heads : layers).entries()) {
      const y = SMALL.top + row * pitch + side / 2;
      context.fillText(turned ? `head ${label}` : label, SMALL.left - 8, y, SMALL.left - 10);
    }
  }

  const corner = (place, column) => [
    SMALL.left + (turned ? place : column) * (side + SMALL.gap),
    SMALL.top + (turned ? column : place) * (side + SMALL.gap),
  ];

  function showFrame(band, place, column) {
    band.hidden = place === null || !pictures[place]?.heads[column];
    if (band.hidden) return;
    const [left, top] = corner(place, column).map((at) => `${at}px`);
    Object.assign(band.style, { left, top, width: `${side}px`, height: `${side}px` });
  }

  function headAt(event) {
    const box = grid.getBoundingClientRect();
    const along = (at, start) => Math.floor((at - start) / (side + SMALL.gap));
    const y = along(event.clientY - box.top, SMALL.top);
    const x = along(event.clientX - box.left, SMALL.left);
    const [place, column] = turned ? [x, y] : [y, x];
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
    const [place, column] = [state.map + by[turned ? 0 : 1], state.column + by[turned ? 1 : 0]];
    if (pictures[place]?.heads.length && column >= 0) chooseHead(place, column);
    say(state.map, state.column);
    event.preventDefault();
  });

  state.on("example", () => open().catch(tellTrouble));
  state.on("theme", paint);
  state.on("map column", () => showFrame(frame, state.map, state.column));
  new ResizeObserver(paint).observe(byId("heads-scroll"));
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
