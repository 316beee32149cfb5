// Forward passes, each a bar of its seconds. Gives: drawPasses.

function drawPasses({ passes, phases, n_passes, n_orders, orders, seconds }) {
  const longest = Math.max(...passes.map((pass) => pass.seconds));
  const bars = passes.map((pass, place) => {
    const bar = make("i", { className: pass.phase });
    bar.style.height = `${Math.max(3, (pass.seconds / longest) * 100)}%`;
    bar.title = sayPass(pass, place);
    return bar;
  });
  const passesSaid = numbers.count(n_passes, "forward pass", "forward passes");
  const said = [`${passesSaid}, ${numbers.seconds(seconds)} in all`];
  for (const { phase, n, median_s } of phases) {
    said.push(`${n.toLocaleString("en")} × ${phase}, median ${numbers.seconds(median_s)}`);
  }
  if (passes.length < n_passes) said.push(`bars: the first ${passes.length.toLocaleString("en")}`);
  if (orders.length < n_orders) {
    said.push(`${numbers.count(n_orders, "order")}, the ${orders.length} most frequent shown`);
  }
  const text = said.join("; ");
  byId("passes").replaceChildren(
    make("div", { className: "passes", role: "img", "aria-label": text }, ...bars),
  );
  byId("passes-about").textContent = `${text}. A bar’s height is its seconds.`;
}

function sayPass({ order, phase, n_examples, n_tokens, seconds }, place) {
  return [
    `pass ${place + 1}, ${phase}`,
    numbers.count(n_examples, "example"),
    numbers.count(n_tokens, "token"),
    numbers.seconds(seconds),
    order < 0 ? "an order not shown" : `order ${order + 1}`,
  ].join(", ");
}
