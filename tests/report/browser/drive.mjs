// A browser that does what it is told: node drive.mjs CHROMIUM. One JSON command a line comes in,
// one JSON answer a line goes out: {"value": ...} or {"error": ...}. See tests/report/browsing.py.
import { createInterface } from "node:readline";
import { launch, open } from "./browse.mjs";

const browser = await launch(process.argv[2]);
const pages = [];

// The point of an element that lies the given shares of its width and height from its corner.
async function pointIn(page, { selector, x = 0.5, y = 0.5 }) {
  const element = page.locator(selector).first();
  await element.evaluate((one) => one.scrollIntoView({ block: "center" }));
  const box = await element.boundingBox();
  return [box.x + x * box.width, box.y + y * box.height];
}

const commands = {
  async open({ path, options }) {
    pages.push(await open(browser, path, options));
    await pages.at(-1).page.waitForLoadState("load");
    return pages.length - 1;
  },
  async close({ page }) {
    await page.context().close();
  },
  async evaluate({ page, code }) {
    return page.evaluate(code);
  },
  // Not waitForFunction, which the page's policy forbids: it compiles text inside the page.
  async wait({ page, code }) {
    const end = Date.now() + 10_000;
    while (!(await page.evaluate(code))) {
      if (Date.now() > end) throw new Error("it did not happen within 10 s");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  },
  async hover({ page, ...place }) {
    await page.mouse.move(...(await pointIn(page, place)));
  },
  async click({ page, ...place }) {
    await page.mouse.click(...(await pointIn(page, place)));
  },
  async tap({ page, ...place }) {
    await page.touchscreen.tap(...(await pointIn(page, place)));
  },
  async press({ page, key }) {
    await page.keyboard.press(key);
  },
  async select({ page, selector, index }) {
    await page.selectOption(selector, { index });
  },
  async resize({ page, width, height }) {
    await page.setViewportSize({ width, height });
  },
  async print({ page, media }) {
    await page.emulateMedia({ media });
  },
  async pdf({ page, path }) {
    await page.pdf({ path, format: "A4" });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, page, ...given } = JSON.parse(line);
  let answer;
  try {
    const here = page === undefined ? {} : { page: pages[page].page };
    const about = {
      complaints: () => pages[page].complaints,
      requests: () => pages[page].requests,
    };
    const run = about[name] ?? commands[name];
    answer = { value: (await run({ ...given, ...here })) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
