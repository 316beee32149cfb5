// Labels of rows and columns, laid out by the same numbers as what they stand beside.
// Gives: lineOf, widthOf, placeLabels, namesOf.
// Sizes are measured, not guessed: fonts may be others than ours, and readers make text larger.

const LABEL = { most: 104, gap: 8, turned: 98, apart: 28 }; // CSS pixels

const measuring = make("canvas").getContext("2d");

// The height of a line of labels in an element.
const lineOf = (host) => parseFloat(getComputedStyle(host).fontSize) * 1.2;

// Room for the widest of some labels in an element, as far as labels may go.
function widthOf(host, labels, most = LABEL.most) {
  const { fontSize } = getComputedStyle(host);
  measuring.font = `${fontSize} ${getComputedStyle(document.body).getPropertyValue("--mono")}`;
  const widest = labels.reduce((room, label) => Math.max(room, measuring.measureText(label).width), 0);
  return Math.min(most, Math.ceil(widest) + LABEL.gap);
}

// Puts labels at cells of `pitch` pixels along a side ("top" or "left"): each in its cell where
// there is room for a line of text, else at round distances. `numbered` labels thin out as they
// are; others give way to the number of their place.
function placeLabels(host, labels, pitch, side, { numbered = false, room = Infinity } = {}) {
  const all = pitch >= room;
  const step = all ? 1 : stepOf(pitch, labels.length);
  host.replaceChildren(
    ...labels.flatMap((label, place) => {
      if (place % step) return [];
      const text = make("span", {}, all || numbered ? shown(label) : String(place));
      text.style[side] = `${(place + 0.5) * pitch}px`;
      return [text];
    }),
  );
  return all;
}

function stepOf(pitch, n) {
  const round = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
  return round.find((step) => step * pitch >= LABEL.apart) ?? Math.max(1, n);
}

// Labels that all begin with the same word are short without it: [that word, the rest of each].
function namesOf(labels, word) {
  const same = labels.every((label) => label.startsWith(`${word} `));
  return [same ? word : "", same ? labels.map((label) => label.slice(word.length + 1)) : labels];
}
