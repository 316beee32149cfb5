// The overview: every example of the trace in a line, to search and to sort. Gives: drawOverview,
// nameExample.

const LINES = 12; // listed at once; a button asks for more
const MORE = 100;

let listed = null; // the overview's block, once it is unpacked

// A short name of an example, for labels.
function nameExample(number, most = 13) {
  const text = listed?.texts[number]?.trim() ?? "";
  return text.length > most ? `…${text.slice(1 - most)}` : text || `example ${number}`;
}

async function drawOverview() {
  listed = await blocks.json("overview");
  const { texts, n_tokens, surprise, norm, norm_of, next, columns, n_all } = listed;
  const list = byId("overview-list");
  const search = byId("overview-search");
  const order = byId("overview-order");
  const more = byId("overview-more");
  const inFull = new Map(start.examples.map(({ number }, place) => [number, place]));
  let n_shown = LINES;

  const orders = [["in full first", null]];
  const both = (name, values, high, low) =>
    values && orders.push([`${name}, ${high} first`, values, -1], [`${name}, ${low} first`, values, 1]);
  both("surprise", surprise, "highest", "lowest");
  both("norm", norm, "largest", "smallest");
  both("tokens", n_tokens, "most", "fewest");

  // Those in full stand first where nothing else is asked for; what has no number stands last.
  function found() {
    const wanted = search.value.trim().toLowerCase();
    const has = (number) =>
      texts[number].toLowerCase().includes(wanted) ||
      columns.some(([, values]) => values[number].toLowerCase().includes(wanted)) ||
      String(number) === wanted;
    const numbersOfAll = [...inFull.keys(), ...texts.keys()].filter(
      (number, place) => number < texts.length && (place < inFull.size || !inFull.has(number)),
    );
    const matching = wanted ? numbersOfAll.filter(has) : numbersOfAll;
    const [, values, sign] = orders[order.selectedIndex];
    if (!values) return matching;
    const keyOf = (number) => values[number] ?? Infinity * sign * sign;
    return matching.sort((a, b) => {
      if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
      return sign * (keyOf(a) - keyOf(b)) || a - b;
    });
  }

  function line(number) {
    const open = make("button", { type: "button", className: "quiet", textContent: String(number) });
    const isThere = inFull.has(number);
    open.disabled = !isThere;
    open.setAttribute("aria-label", isThere ? `Open example ${number}` : `Example ${number}, not in full`);
    open.addEventListener("click", () => {
      goToExample(number);
      byId("tokens").scrollIntoView();
    });
    const text = make("bdi", { className: "excerpt", textContent: texts[number] || "∅" });
    const about = [fact("tokens", n_tokens[number].toLocaleString("en"))];
    if (surprise) about.push(fact("surprise", numbers.plain(surprise[number], 3)));
    if (norm) about.push(fact("norm", numbers.plain(norm[number], 4)));
    if (next?.[number] != null) about.push(fact("says next", shown(next[number])));
    for (const [name, values] of columns) about.push(fact(name, values[number]));
    const item = make("li", { className: isThere ? "full" : "" }, open, text);
    item.append(make("span", { className: "about" }, ...about));
    return item;
  }

  const fact = (name, value) =>
    make("span", {}, make("small", { textContent: name }), " ", make("bdi", {}, value));

  function fill() {
    const all = found();
    list.replaceChildren(...all.slice(0, n_shown).map(line));
    const left = all.length - Math.min(n_shown, all.length);
    more.hidden = left === 0;
    more.textContent = `Show ${Math.min(MORE, left).toLocaleString("en")} more of ${left.toLocaleString("en")}`;
    const all_ = numbers.count(n_all, "example");
    const matching = search.value.trim() ? `${all.length.toLocaleString("en")} of ${all_} match` : all_;
    byId("overview-about").textContent = `${matching}; ${start.examples.length} in full.`;
    mark();
  }

  function mark() {
    for (const item of list.children) {
      const number = Number(item.firstChild.textContent);
      item.classList.toggle("here", number === state.example?.number);
    }
  }

  fillSelect(
    order,
    orders.map(([name]) => name),
  );
  const keys = [];
  if (surprise) keys.push("Surprise: the mean of −ln of its tokens’ probabilities, in nats.");
  if (norm) keys.push(`Norm: the mean ${norm_of}, ${byId("overview-key").dataset.norms}.`);
  if (start.examples.length < n_all) {
    keys.push("A number that can be pressed opens its example; --example shows others in full.");
  }
  byId("overview-key").textContent = keys.join(" ");
  const again = () => {
    n_shown = LINES;
    fill();
  };
  search.addEventListener("input", again);
  order.addEventListener("change", again);
  more.addEventListener("click", () => {
    n_shown += MORE;
    fill();
  });
  state.on("example", mark);
  fill();
}
