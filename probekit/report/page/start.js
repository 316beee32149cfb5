// The start: draw what is there, open the first example. Gives: goToToken, goToExample, tellTrouble.

function tellTrouble(error) {
  byId("trouble").textContent = `This page could not show everything: ${error.message}`;
  byId("trouble").hidden = false;
  console.error(error);
}

async function openExample(place) {
  const { number, attention, experts: routed, lens: seen } = start.examples[place];
  const { n_tokens, n_generated } = start.examples[place];
  const [example, about, experts, lens] = await Promise.all([
    blocks.json(`${number}-example`),
    attention ? blocks.json(`${number}-attention`) : null,
    routed ? blocks.json(`${number}-experts`) : null,
    seen ? blocks.json(`${number}-lens`) : null,
  ]);
  if (Number(byId("example").value) !== place) return; // another was chosen meanwhile
  const generated = n_generated ? `, ${n_generated} of them generated` : "";
  const values = example.columns.map(([name, value]) => ` · ${name}: ${value}`).join("");
  byId("example-about").textContent = numbers.count(n_tokens, "token") + generated + values;
  const head = headNear(about, state.map, state.column); // the same as in the example before
  state.set({ example, experts, lens, attention: about, ...head, weights: null, token: null, hover: null });
}

// Opens an example, and says whether it is one of those in this report.
function goToExample(number) {
  const place = start.examples.findIndex((one) => one.number === number);
  if (place < 0) return false;
  byId("example").selectedIndex = place;
  byId("example").dispatchEvent(new Event("change"));
  return true;
}

function goToToken(number, position) {
  const place = start.examples.findIndex((one) => one.number === number);
  if (place < 0) {
    byId("neuron-about").textContent = `Example ${number} is not in this report.`;
    return;
  }
  byId("example").selectedIndex = place;
  openExample(place)
    .then(() => state.set({ token: position }))
    .then(() => byId("tokens").scrollIntoView())
    .catch(tellTrouble);
}

function watchTheme() {
  const themes = ["auto", "light", "dark"];
  const redraw = () => state.set({ theme: state.theme + 1 });
  let at = 0;
  byId("theme").addEventListener("click", () => {
    at = (at + 1) % themes.length;
    if (at) document.documentElement.dataset.theme = themes[at];
    else delete document.documentElement.dataset.theme;
    byId("theme").textContent = `Theme: ${themes[at]}`;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // Paper is white, and nothing on it unfolds.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
    colours.printing = true;
    redraw();
  });
  addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
    colours.printing = false;
    redraw();
  });
}

function watchExamples() {
  const select = byId("example");
  const update = stepThrough(select, byId("example-before"), byId("example-after"));
  fillSelect(
    select,
    start.examples.map(({ number, excerpt }) => `${number}: ${excerpt}`),
  );
  select.addEventListener("change", () => {
    update();
    openExample(select.selectedIndex).catch(tellTrouble);
  });
  update();
  openExample(0).catch(tellTrouble);
}

watchTheme();
if (start.overview) drawOverview().catch(tellTrouble);
if (start.examples.length) {
  drawTokens();
  if (byId("attention-body")) {
    drawAttention();
    drawHeads();
  }
  if (byId("score-kind")) blocks.json("scores").then(drawScores).catch(tellTrouble);
  if (byId("step")) drawGeneration();
}
if (byId("lens-map")) drawLens().catch(tellTrouble);
if (byId("stream")) drawStreams().catch(tellTrouble);
if (start.examples.length) {
  if (byId("expert-layer")) blocks.json("experts").then(drawExperts).catch(tellTrouble);
  watchExamples();
}
if (byId("neuron-site")) drawNeurons(start.neurons);
if (byId("order")) drawExecution().catch(tellTrouble);
