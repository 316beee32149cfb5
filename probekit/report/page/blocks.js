// Blocks: the data of the page, unpacked when it is asked for. Gives: blocks.
// The file goes on below this script: while the browser still reads it, a block may be yet to come.

const blocks = {
  waitMs: 20,
  kept: new Map(), // JSON by name; small

  async json(name) {
    if (!this.kept.has(name)) {
      const text = this.bytes(name).then((bytes) => new TextDecoder().decode(bytes));
      this.kept.set(name, text.then(JSON.parse));
    }
    return this.kept.get(name);
  },

  async bytes(name) {
    const packed = atob((await this.element(name)).textContent);
    const bytes = new Uint8Array(packed.length);
    for (let at = 0; at < bytes.length; at++) bytes[at] = packed.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  },

  // An element is whole once something stands behind it.
  async element(name) {
    for (;;) {
      const loading = document.readyState === "loading";
      const element = byId(`block-${name}`);
      if (element && (element.nextSibling || !loading)) return element;
      if (!loading) throw new Error(`the file was cut short: ${name} is missing`);
      await new Promise((resolve) => setTimeout(resolve, this.waitMs));
    }
  },
};
