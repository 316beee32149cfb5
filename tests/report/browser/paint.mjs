// When a report shows something: node paint.mjs CHROMIUM REPORT TIMES, prints one JSON a visit.
// A new browser each time, so that nothing is warm.
import { launch, open } from "./browse.mjs";

const [executable, report, times] = process.argv.slice(2);

async function when(page, name) {
  for (;;) {
    const at = await page.evaluate(
      (wanted) => performance.getEntriesByName(wanted)[0]?.startTime,
      name,
    );
    if (at !== undefined) return at;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// Another head, from its choice to its picture.
async function openAnother() {
  performance.clearMarks("head drawn");
  const begin = performance.now();
  const select = document.getElementById("head");
  select.selectedIndex = select.options.length - 1;
  select.dispatchEvent(new Event("change"));
  while (!performance.getEntriesByName("head drawn").length) {
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
  return performance.now() - begin;
}

for (let visit = 0; visit < Number(times); visit++) {
  const browser = await launch(executable);
  const { page, complaints } = await open(browser, report, {
    viewport: { width: 1280, height: 900 },
  });
  const firstPaint = await when(page, "first-contentful-paint");
  const headDrawn = await when(page, "head drawn");
  await page.waitForLoadState("load");
  const loaded = await page.evaluate(() => performance.now());
  const another = await page.evaluate(openAnother);
  await browser.close();
  if (complaints.length) throw new Error(complaints.join("\n"));
  console.log(
    JSON.stringify({
      first_paint_ms: firstPaint,
      head_drawn_ms: headDrawn,
      loaded_ms: loaded,
      another_head_ms: another,
    }),
  );
}
