// Elements: finding, making and filling them. Gives: byId, make, shown, quoted, fillSelect,
// fillBars, rove, stepThrough.
// Text goes in as text, never as HTML: tokens are a stranger's.

const byId = (id) => document.getElementById(id);

// A new element; what begins with "aria-" or is "role" becomes an attribute, the rest a property.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role" || name.startsWith("aria-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

// A token's text where it cannot reorder what stands around it.
// The whole of one that is cut can be read by pointing at it.
const shown = (text) => {
  const token = make("bdi", { className: "token", textContent: text || "∅" });
  if (text.length > 24) token.title = text;
  return token;
};

const quoted = (text) => `“${text}”`;

function fillSelect(select, labels, chosen = 0) {
  select.replaceChildren(
    ...labels.map((label, place) => new Option(label, place, false, place === chosen)),
  );
}

// Rows of text, bar and number; `rows` hold {text, share, number, strong}.
function fillBars(list, rows, whenEmpty) {
  if (!rows.length) {
    list.replaceChildren(make("li", { className: "aside", textContent: whenEmpty }));
    return;
  }
  list.replaceChildren(
    ...rows.map(({ text, share, number, note, strong }) => {
      const bar = make("i");
      bar.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
      const label = make("span", { className: "label" }, shown(text));
      if (note) label.append(make("small", { textContent: ` ${note}` }));
      return make(
        "li",
        { className: strong ? "strong" : "" },
        label,
        make("span", { className: "bar" }, bar),
        make("span", { className: "number", textContent: number }),
      );
    }),
  );
}

// One stop of the tab key for all items of a list; arrow keys go on from there.
function rove(host, items) {
  host.addEventListener("keydown", (event) => {
    const all = items();
    const here = all.indexOf(document.activeElement);
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -here };
    const next = event.key === "End" ? all.length - 1 : here + (by[event.key] ?? NaN);
    if (here < 0 || !all[next]) return;
    all[here].tabIndex = -1;
    all[next].tabIndex = 0;
    all[next].focus();
    event.preventDefault();
  });
}

// Buttons that go through a select's options one by one.
function stepThrough(select, before, after) {
  const go = (by) => {
    const next = select.selectedIndex + by;
    if (next < 0 || next >= select.options.length) return;
    select.selectedIndex = next;
    select.dispatchEvent(new Event("change"));
  };
  before.addEventListener("click", () => go(-1));
  after.addEventListener("click", () => go(1));
  return () => {
    before.disabled = select.selectedIndex <= 0;
    after.disabled = select.selectedIndex >= select.options.length - 1;
  };
}
