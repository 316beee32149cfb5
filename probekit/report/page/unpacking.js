// The page's code travels packed: this unpacks and runs it. The page's policy names its digest, and
// runs no other.

function say(text) {
  const trouble = document.getElementById("trouble");
  trouble.textContent = `This page could not show everything: ${text}`;
  trouble.hidden = false;
}

async function unpack() {
  const packed = atob(document.getElementById("block-script").textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.body.append(script);
}

if (typeof DecompressionStream === "undefined") {
  say("it needs a browser of 2023 or later (DecompressionStream)");
} else {
  unpack().catch((error) => say(error.message));
}
