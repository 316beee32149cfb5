// Tokens, with what the model would have said after each. Gives: drawTokens.

function drawTokens() {
  const select = byId("candidates");
  const list = byId("token-list");

  function perToken(example) {
    const found = example.candidates ?? [];
    return Math.max(0, ...found.map((candidates) => candidates?.length ?? 0));
  }

  function cell(example, position, n_shown) {
    const tabIndex = position ? -1 : 0;
    const chosen = make("button", { type: "button", className: "chip", tabIndex });
    chosen.append(shown(example.tokens[position]));
    chosen.addEventListener("click", () => state.set({ token: position, hover: null }));
    const item = make("li", {}, chosen);
    const about = [];
    if (example.speakers?.[position]) about.push(example.speakers[position]);
    if (example.steps?.[position]) about.push(`step ${example.steps[position]}`);
    const own = example.probability?.[position] ?? null;
    if (own !== null) about.push(numbers.probability(own));
    if (example.steps || example.probability || example.speakers) {
      item.append(make("small", { textContent: about.join(", ") || "\u00a0" }));
    }
    const next = example.tokens[position + 1];
    const candidates = example.candidates?.[position]?.slice(0, n_shown) ?? [];
    if (n_shown) {
      item.append(
        make(
          "ol",
          { "aria-label": "what might come next" },
          ...candidates.map(([text, probability]) => {
            const came = text === next;
            const line = make("li", { className: came ? "came" : "" }, shown(text));
            line.append(make("span", { textContent: numbers.probability(probability) }));
            colours.paint(line, "blue", probability);
            if (came) line.title = "this is what came next";
            return line;
          }),
        ),
      );
    }
    if (example.tokens[position].endsWith("⏎")) item.classList.add("breaks");
    return item;
  }

  function fill() {
    const { example } = state;
    if (!example) return;
    const n_shown = Number(select.value) || 0;
    list.replaceChildren(...example.tokens.map((_, position) => cell(example, position, n_shown)));
    mark();
  }

  function mark() {
    for (const [position, item] of [...list.children].entries()) {
      item.firstChild.classList.toggle("chosen", position === state.token);
      item.firstChild.setAttribute("aria-pressed", position === state.token);
    }
  }

  function open() {
    const { example } = state;
    const most = perToken(example);
    byId("text").textContent = example.text;
    byId("tokens-controls").hidden = most === 0;
    const choices = [...new Set([0, 1, 3, most].filter((n) => n <= most))];
    const usual = example.tokens.length > 100 ? 1 : Math.min(3, most);
    select.replaceChildren(
      ...choices.map(
        (n) => new Option(n ? `the likeliest ${n > 1 ? n : ""}` : "none", n, false, n === usual),
      ),
    );
    const legend = [];
    if (most) legend.push("Below a token: the likeliest next tokens; ✓ marks the one that came.");
    if (example.probability)
      legend.push("Small print: the token’s own probability, given all before it.");
    byId("tokens-legend").textContent = legend.join(" ");
    fill();
  }

  rove(list, () => [...list.querySelectorAll(".chip")]);
  select.addEventListener("change", fill);
  state.on("example", open);
  state.on("theme", fill);
  state.on("token", mark);
}
