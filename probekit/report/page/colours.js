// Colours of numbers, and the theme. Gives: colours.
// One hue a ramp, told apart by lightness alone; the two hues, blue and orange, stay apart for
// every kind of colour blindness. Ramps begin near the page's ground: nothing looks like nothing.

const colours = {
  ramps: {
    light: {
      blue: ["#f4f7fb", "#cfe0f3", "#8fb9e3", "#3f82c4", "#155a9c", "#06305f"],
      orange: ["#fcf6f0", "#fbdcbb", "#f5ad68", "#dd7a1c", "#a64f06", "#5c2a02"],
    },
    dark: {
      blue: ["#1a222c", "#1d3f62", "#2668a3", "#4c97d8", "#92c5f1", "#e9f5ff"],
      orange: ["#272019", "#5a3611", "#965710", "#d0832a", "#f2b672", "#fff0de"],
    },
  },
  tables: new Map(),
  printing: false,

  isDark() {
    if (this.printing) return false;
    const asked = document.documentElement.dataset.theme;
    return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },

  // 256 colours of a ramp, each [red, green, blue].
  table(hue) {
    const theme = this.isDark() ? "dark" : "light";
    const key = `${theme} ${hue}`;
    if (!this.tables.has(key)) this.tables.set(key, spread(this.ramps[theme][hue]));
    return this.tables.get(key);
  },

  at(hue, share) {
    const place = Math.round(Math.max(0, Math.min(1, share)) * 255);
    return this.table(hue)[place];
  },

  // The colour of text that can be read on a colour: black and white stand out alike at 4.6 : 1.
  ink(hue, share) {
    const [r, g, b] = this.at(hue, share).map((channel) => (channel / 255) ** 2.2);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000000" : "#ffffff";
  },

  // Colours an element's ground, and its text so that it can be read.
  paint(element, hue, share) {
    element.style.backgroundColor = `rgb(${this.at(hue, share).join(" ")})`;
    element.style.color = this.ink(hue, share);
  },

  // Colours an element's ground by which of many it is: neighbours in number lie far apart.
  mark(element, number) {
    const hue = (number * 137.508) % 360;
    element.style.backgroundColor = this.isDark() ? `oklch(0.4 0.09 ${hue})` : `oklch(0.88 0.08 ${hue})`;
    element.style.color = this.isDark() ? "#ffffff" : "#000000";
  },

  clear(element) {
    element.style.backgroundColor = "";
    element.style.color = "";
  },

  // A legend: the ramp as a strip, and numbers at their places along it (0..1).
  legend(host, title, hue, ticks) {
    const stops = this.ramps[this.isDark() ? "dark" : "light"][hue];
    const strip = make("div", { className: "ramp" });
    strip.style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;
    const marks = make("div", { className: "ticks" });
    for (const [share, text] of ticks) {
      const mark = make("span", { textContent: text });
      mark.style.left = `${share * 100}%`;
      mark.className = share <= 0 ? "begin" : share >= 1 ? "end" : "";
      marks.append(mark);
    }
    host.replaceChildren(make("span", { textContent: title }), make("div", {}, strip, marks));
  },
};

function spread(stops) {
  const parts = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, place) => {
    const along = (place / 255) * (parts.length - 1);
    const below = Math.min(Math.floor(along), parts.length - 2);
    return parts[below].map((part, channel) =>
      Math.round(part + (parts[below + 1][channel] - part) * (along - below)),
    );
  });
}
