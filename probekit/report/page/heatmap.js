// Heat maps: numbers [row, column] on a canvas, with a cursor for pointer, finger and keys.
// Gives: heatMap. The canvas holds cells and nothing else; labels stand around it as text.

const CELL = { most: 30, few: 240, widest: 46, worded: 104, gapped: 9, words: 40 }; // CSS pixels

// `about` holds: name, keys (what the keys do), rowsTitle, columnsTitle, and
//   onPoint(row, column, byKeys) with nulls when nothing is pointed at, onPick(row, column).
// Gives draw(data): {rows, columns, share(row, column) -> 0..1 or NaN, hue, rowLabels,
//   columnLabels, square, word(row, column) -> text to write into a cell that has room, numbered
//   (labels are numbers)}, and mark(row, column), which shows one of them, or neither.
function heatMap(host, about) {
  const canvas = make("canvas");
  const bands = ["row", "column", "cell"].map((kind) => make("div", { className: `band ${kind}` }));
  const words = make("div", { className: "words", "aria-hidden": "true" });
  const plot = make(
    "div",
    {
      className: "plot",
      tabIndex: 0,
      role: "application",
      "aria-roledescription": "heat map",
      "aria-label": `${about.name}. ${about.keys}`,
    },
    canvas,
    words,
    ...bands,
  );
  const rowLabels = make("div", { className: "labels rows", "aria-hidden": "true" });
  const columnLabels = make("div", { className: "labels columns", "aria-hidden": "true" });
  const columnTitle = make("div", { className: "axis columns" });
  host.classList.add("heatmap");
  host.replaceChildren(
    make("div", { className: "axis rows", textContent: `↓ ${about.rowsTitle}` }),
    rowLabels,
    plot,
    columnLabels,
    columnTitle,
  );

  let data = null;
  let cursor = null; // [row, column]
  let marked = [null, null]; // a row or a column that shows where the cursor is not

  // One cell is `wide` x `high`; rows, columns, labels and the cursor all follow from these two.
  function layOut() {
    const room = host.clientWidth;
    if (!data || room <= 0) return;
    columnTitle.textContent = `→ ${data.columnsTitle ?? about.columnsTitle}`;
    const line = lineOf(rowLabels);
    const few = Math.max(CELL.most, Math.min(56, CELL.few / data.rows));
    const most = data.square ? few : data.word ? CELL.worded : CELL.widest;
    const cell = (labels) => {
      const wide = Math.min(most, (room - labels) / data.columns);
      return [wide, data.square ? wide : Math.min(24, Math.max(line * 0.75, 320 / data.rows))];
    };
    let labels = widthOf(rowLabels, data.rowLabels, Math.min(LABEL.most, room * 0.3));
    if (cell(labels)[1] < line && !data.numbered) {
      labels = widthOf(rowLabels, [String(data.rows)]);
    }
    const [wide, high] = cell(labels);
    const size = [wide * data.columns, high * data.rows];
    host.style.gridTemplateColumns = `${labels}px ${size[0]}px minmax(0, 1fr)`;
    Object.assign(plot.style, { width: `${size[0]}px`, height: `${size[1]}px` });
    rowLabels.style.height = `${size[1]}px`;
    const { numbered } = data;
    placeLabels(rowLabels, data.rowLabels, high, "top", { numbered, room: line });
    placeColumns(wide, line);
    paint(...size);
    writeWords(wide, high, line);
    showCursor();
  }

  // Flat where each fits into its cell, else turned, else thinned out.
  function placeColumns(wide, line) {
    const widest = widthOf(columnLabels, data.columnLabels, LABEL.turned);
    const flat = widest <= wide;
    const room = flat || data.numbered ? widest : line;
    const all = placeLabels(columnLabels, data.columnLabels, wide, "left", {
      numbered: data.numbered,
      room,
    });
    const turned = all && !flat && !data.numbered;
    columnLabels.classList.toggle("turned", turned);
    columnLabels.style.height = `${(turned ? widest : line) + 4}px`;
  }

  function writeWords(wide, high, line) {
    const fit = data.word && wide >= CELL.words && high >= line;
    words.replaceChildren();
    if (!fit) return;
    for (let row = 0; row < data.rows; row++) {
      for (let column = 0; column < data.columns; column++) {
        const text = data.word(row, column);
        if (!text) continue;
        const word = shown(text);
        word.style.color = colours.ink(data.hue, data.share(row, column));
        word.style.left = `${column * wide}px`;
        word.style.top = `${row * high}px`;
        word.style.width = `${wide - 1}px`;
        word.style.lineHeight = `${high}px`;
        words.append(word);
      }
    }
  }

  function paint(width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    const image = new ImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const table = colours
      .table(data.hue)
      .map(([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r);
    const gap = Math.min(width / data.columns, height / data.rows) >= CELL.gapped;
    const across = spans(canvas.width, data.columns, gap);
    const down = spans(canvas.height, data.rows, gap);
    for (const [y, top, bottom] of down) {
      for (const [x, left, right] of across) {
        let largest = NaN; // of all cells under the pixel
        for (let row = top; row < bottom; row++) {
          for (let column = left; column < right; column++) {
            const share = data.share(row, column);
            if (share > largest || Number.isNaN(largest)) largest = share;
          }
        }
        if (!Number.isNaN(largest)) {
          pixels[y * canvas.width + x] = table[Math.round(Math.max(0, Math.min(1, largest)) * 255)];
        }
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function showCursor() {
    const [row, column] = cursor ?? marked;
    if (!data) return;
    const [high, wide] = [100 / data.rows, 100 / data.columns];
    const place = (band, shown, top, left, height, width) => {
      band.hidden = !shown;
      const box = { top, left, height, width };
      for (const side of Object.keys(box)) band.style[side] = `${box[side]}%`;
    };
    place(bands[0], row !== null, row * high, 0, high, 100);
    place(bands[1], column !== null, 0, column * wide, 100, wide);
    place(bands[2], cursor !== null, row * high, column * wide, high, wide);
  }

  function move(row, column, byKeys = false) {
    if (cursor && cursor[0] === row && cursor[1] === column) return;
    cursor = row === null ? null : [row, column];
    showCursor();
    about.onPoint(row, column, byKeys);
  }

  function cellAt(event) {
    const box = plot.getBoundingClientRect();
    const along = (at, length, count) =>
      Math.max(0, Math.min(count - 1, Math.floor((at / length) * count)));
    return [
      along(event.clientY - box.top, box.height, data.rows),
      along(event.clientX - box.left, box.width, data.columns),
    ];
  }

  plot.addEventListener("pointermove", (event) => {
    if (data && event.pointerType !== "touch") move(...cellAt(event));
  });
  plot.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch" && document.activeElement !== plot) move(null, null);
  });
  plot.addEventListener("click", (event) => {
    if (!data) return;
    move(...cellAt(event));
    about.onPick(...cellAt(event));
  });
  plot.addEventListener("keydown", (event) => {
    if (!data || event.ctrlKey || event.metaKey || event.altKey) return;
    const [row, column] = cursor ?? [data.rows - 1, 0];
    const last = [data.rows - 1, data.columns - 1];
    const next = {
      ArrowUp: [Math.max(0, row - 1), column],
      ArrowDown: [Math.min(last[0], row + 1), column],
      ArrowLeft: [row, Math.max(0, column - 1)],
      ArrowRight: [row, Math.min(last[1], column + 1)],
      Home: [row, 0],
      End: [row, last[1]],
      PageUp: [0, column],
      PageDown: [last[0], column],
    }[event.key];
    if (next) move(...next, true);
    else if (event.key === "Enter" || event.key === " ") about.onPick(row, column);
    else if (event.key === "Escape") move(null, null, true);
    else return;
    event.preventDefault();
  });
  plot.addEventListener("focus", () => {
    if (data && !cursor && plot.matches(":focus-visible")) move(data.rows - 1, 0, true);
  });
  new ResizeObserver(layOut).observe(host);

  return {
    draw(next) {
      data = next;
      if (cursor && (cursor[0] >= data.rows || cursor[1] >= data.columns)) cursor = null;
      layOut();
    },
    mark(row, column) {
      marked = [row, column];
      showCursor();
    },
  };
}

// For each pixel, the cells under it: [pixel, first, end]. With a gap, the last pixel of each cell
// is left out, so that they stand apart.
function spans(n_pixels, n_cells, gap) {
  const found = [];
  for (let pixel = 0; pixel < n_pixels; pixel++) {
    if (n_cells <= n_pixels) {
      const cell = Math.floor(((pixel + 0.5) * n_cells) / n_pixels);
      const isLast = Math.floor(((pixel + 1.5) * n_cells) / n_pixels) !== cell;
      if (!(gap && isLast)) found.push([pixel, cell, cell + 1]);
    } else {
      const first = Math.floor((pixel * n_cells) / n_pixels);
      found.push([pixel, first, Math.floor(((pixel + 1) * n_cells) / n_pixels)]);
    }
  }
  return found;
}
