// Neurons: the tokens on which each fires most, in context. Gives: drawNeurons.

function drawNeurons(sites) {
  const site = byId("neuron-site");
  const neuron = byId("neuron");
  const about = byId("neuron-about");
  const update = stepThrough(neuron, byId("neuron-before"), byId("neuron-after"));
  let found = null; // the block of the chosen site

  async function openSite() {
    const { block, name, n_all } = sites[site.selectedIndex];
    found = await blocks.json(block);
    fillSelect(
      neuron,
      found.neurons.map(
        ({ number, top }) => `${number} (up to ${numbers.plain(top[0]?.value ?? null)})`,
      ),
    );
    const shownOf = `${numbers.count(found.neurons.length, "neuron")} of ${n_all.toLocaleString("en")}`;
    about.textContent = `${shownOf} of ${name} here.`;
    draw();
  }

  function draw() {
    update();
    const { number, top } = found.neurons[neuron.selectedIndex];
    const most = Math.max(...top.map(({ value }) => Math.abs(value)), 1e-30);
    byId("contexts").replaceChildren(
      ...(top.length
        ? top.map((one) => line(one, most))
        : [
            make("li", {
              className: "aside",
              textContent: `Neuron ${number} has no finite activation.`,
            }),
          ]),
    );
    const legend = byId("neuron-legend");
    const part = (hue, sign) => {
      const host = make("div", { className: "legend" });
      colours.legend(host, "", hue, [
        [0, "0"],
        [1, `${sign}${numbers.plain(most)}`],
      ]);
      return host;
    };
    legend.replaceChildren("activation", part("orange", ""), part("blue", "−"));
  }

  function line({ example, position, value, begin, context }, most) {
    const words = context.map(([text, activation], place) => {
      const word = shown(text);
      if (activation !== null) {
        colours.paint(word, activation < 0 ? "blue" : "orange", Math.abs(activation) / most);
        word.title = `${numbers.plain(activation)}`;
      }
      if (begin + place === position) word.classList.add("peak");
      return word;
    });
    const there = example === state.example?.number;
    const where = make("button", {
      type: "button",
      className: "quiet",
      textContent: `example ${example}, token ${position}`,
    });
    where.addEventListener("click", () => goToToken(example, position));
    return make(
      "li",
      { className: there ? "here" : "" },
      make("span", { className: "number", textContent: numbers.plain(value) }),
      make("span", { className: "context" }, ...(begin ? ["… "] : []), ...words),
      where,
    );
  }

  fillSelect(
    site,
    sites.map(({ name }) => name),
  );
  site.addEventListener("change", () => openSite().catch(tellTrouble));
  neuron.addEventListener("change", draw);
  state.on("theme", () => found && draw());
  openSite().catch(tellTrouble);
}
