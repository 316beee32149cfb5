// A headless Chromium that asks nobody anything. Gives: launch, open.
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

// Playwright gives each browser an empty profile of its own.
export const launch = (executablePath) =>
  chromium.launch({ executablePath, headless: true, args: FLAGS });

// Opens a file in a context of its own, with no network at all; gives the page, and what it
// complained of or asked for. It need not be loaded to its end.
export async function open(browser, path, options = {}) {
  const context = await browser.newContext({ offline: true, ...options });
  const page = await context.newPage();
  const complaints = [];
  const requests = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => requests.push(request.url()));
  await page.goto(pathToFileURL(path).href, { waitUntil: "commit" });
  return { page, complaints, requests };
}
