// The generation, one token after another. Gives: drawGeneration.

function drawGeneration() {
  const slider = byId("step");
  const which = byId("step-row"); // attention of the row that chose the token, or of its own

  const first = () => state.example.steps.findIndex((step) => step > 0);
  const position = () => first() + Number(slider.value) - 1;

  // What a token attended to, heaviest first: [position, weight].
  function attended(token) {
    const query = which.value === "chosen" ? token - 1 : token;
    const n = state.example.tokens.length;
    if (!state.weights || query < 0) return [];
    const row = state.weights.subarray(query * n, (query + 1) * n);
    return [...row.entries()].filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
  }

  const chance = (token) => {
    const { example } = state;
    if (example.probability) return example.probability[token];
    const found = example.candidates?.[token - 1]?.find(([text]) => text === example.tokens[token]);
    return found ? found[1] : null;
  };

  function fillTable() {
    const { example } = state;
    const rows = example.tokens.slice(first()).map((text, place) => {
      const token = first() + place;
      const best = attended(token)[0];
      // Keys have the slider.
      const go = make(
        "button",
        { type: "button", className: "quiet", tabIndex: -1 },
        `${place + 1}`,
      );
      go.setAttribute("aria-label", `Go to step ${place + 1}`);
      go.addEventListener("click", () => goTo(place + 1));
      const looked = best
        ? [shown(example.tokens[best[0]]), ` ${best[0]} · ${sayWeight(best[1])}`]
        : ["–"];
      return make(
        "tr",
        {},
        make("td", { className: "number" }, go),
        make("td", {}, shown(text)),
        make("td", { className: "number", textContent: numbers.probability(chance(token)) }),
        make("td", {
          className: "number",
          textContent: numbers.plain(example.entropy?.[token - 1] ?? null, 3),
        }),
        make("td", {}, ...looked),
      );
    });
    byId("steps").tBodies[0].replaceChildren(...rows);
    const notes = ["Probability and entropy are of the moment the token was chosen."];
    if (state.weights) {
      const head = headName(state.attention.maps[state.map], state.column);
      notes.push(`Attention is that of ${head}, chosen above.`);
    }
    if (!example.probability) {
      notes.push("Probabilities come from the candidates; record token_logprob to have them all.");
    }
    byId("steps-legend").textContent = notes.join(" ");
  }

  function showStep() {
    const { example } = state;
    const token = position();
    const last = example.tokens.length - 1;
    byId("step-about").textContent = `${slider.value} of ${slider.max}`;
    byId("generated").replaceChildren(
      ...example.tokens.slice(0, token + 1).map((text, place) => {
        const kind = place < first() ? "given" : place === token ? "now" : "said";
        return make("bdi", { className: kind, textContent: text.replaceAll("⏎", "\n") || "∅" });
      }),
      ...(token < last ? [make("span", { className: "caret", "aria-hidden": "true" })] : []),
    );
    fillBars(
      byId("step-candidates"),
      (example.candidates?.[token - 1] ?? []).map(([text, probability]) => ({
        text,
        share: probability,
        number: numbers.probability(probability),
        strong: text === example.tokens[token],
      })),
      "not recorded: add - sites: logits, record: [top_k]",
    );
    const has = Boolean(state.weights);
    byId("step-row-label").hidden = !has;
    byId("step-attention-title").textContent = has
      ? `It attended to (${headName(state.attention.maps[state.map], state.column)})`
      : "It attended to";
    fillBars(
      byId("step-attention"),
      attended(token)
        .slice(0, N_PAIRS)
        .map(([other, value]) => ({
          text: example.tokens[other],
          note: String(other),
          share: value,
          number: sayWeight(value),
        })),
      has ? "not recorded for this token" : "not recorded: add - sites: pattern",
    );
    for (const [place, row] of [...byId("steps").tBodies[0].rows].entries()) {
      row.classList.toggle("now", place + 1 === Number(slider.value));
    }
    byId("step-before").disabled = Number(slider.value) <= 1;
    byId("step-after").disabled = Number(slider.value) >= Number(slider.max);
  }

  function goTo(step) {
    slider.value = step;
    showStep();
  }

  function open() {
    const { steps } = state.example;
    byId("generation-body").hidden = !steps;
    byId("generation-none").hidden = Boolean(steps);
    if (!steps) return;
    slider.max = Math.max(...steps);
    slider.value = 1;
    redraw();
  }

  function redraw() {
    if (!state.example?.steps) return;
    fillTable();
    showStep();
  }

  slider.addEventListener("input", showStep);
  byId("step-before").addEventListener("click", () => goTo(Number(slider.value) - 1));
  byId("step-after").addEventListener("click", () => goTo(Number(slider.value) + 1));
  which.addEventListener("change", redraw);
  state.on("example", open);
  state.on("weights", redraw);
}
