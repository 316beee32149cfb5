// State: what is chosen on the page; whoever draws it is told when it changes. Gives: start, state.

const start = JSON.parse(byId("start").textContent); // what the page has

const state = {
  example: null, // its block
  experts: null, // its block about experts, null where it has none
  lens: null, // its block about the lens, null where it has none
  attention: null, // its block about attention, null where it has none
  map: start.opens.map, // which map of the example
  column: start.opens.column, // which head of the map
  weights: null, // of that head, once it is unpacked
  token: null, // the chosen position, null where none is
  hover: null, // the position under the pointer
  direction: "to", // or "from"
  scale: "root", // or "linear"
  theme: 0, // counts changes

  listeners: [],

  on(keys, listener) {
    this.listeners.push([keys.split(" "), listener]);
  },

  set(changes) {
    const changed = Object.keys(changes).filter((key) => this[key] !== changes[key]);
    Object.assign(this, changes);
    for (const [keys, listener] of this.listeners) {
      if (keys.some((key) => changed.includes(key))) listener();
    }
  },
};
