"""A real browser for tests: Debian's chromium, driven by playwright-core in a node process.

`make browser` installs the latter; tests/report/browser/drive.mjs is the other end of the line.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "browser"
CHROMIUM = next((p for n in ("chromium", "google-chrome") if (p := shutil.which(n))), None)


def what_is_missing() -> str | None:
    """Say what keeps the browser tests from running."""
    if CHROMIUM is None:
        return "chromium is missing (apt install chromium), then run `make browser`"
    if shutil.which("node") is None:
        return "node is missing (apt install nodejs npm), then run `make browser`"
    if not (HERE / "node_modules" / "playwright-core").exists():
        return "playwright-core is missing, run `make browser`"
    return None


class Browser:
    """One running Chromium."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, **given: Any) -> Any:
        self._process.stdin.write(json.dumps({"do": do, **given}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, f"{do} {given}: {answer['error']}"
        return answer["value"]

    @contextmanager
    def open(self, path: Path, **options: Any) -> Iterator[Page]:
        """Open a file in a page of its own; `options` are those of a playwright context."""
        page = Page(self, self.ask("open", path=str(path), options=options))
        try:
            yield page
        finally:
            page.ask("close")


@dataclass
class Page:
    """One open page. A `selector` is CSS; x and y are shares of the element's width and height."""

    browser: Browser
    number: int

    def ask(self, do: str, **given: Any) -> Any:
        return self.browser.ask(do, page=self.number, **given)

    def evaluate(self, code: str) -> Any:
        return self.ask("evaluate", code=code)

    def wait(self, code: str) -> None:
        self.ask("wait", code=code)

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")

    def texts(self, selector: str) -> list[str]:
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return self.evaluate(f"{found}.map((e) => e.textContent)")

    def attribute(self, selector: str, name: str) -> str | None:
        element = f"document.querySelector({json.dumps(selector)})"
        return self.evaluate(f"{element}.getAttribute({json.dumps(name)})")

    def style(self, selector: str, name: str) -> str:
        element = f"document.querySelector({json.dumps(selector)})"
        return self.evaluate(f"getComputedStyle({element})[{json.dumps(name)}]")

    def focused(self) -> str:
        """Give the id, or else the class, of what has the focus."""
        return self.evaluate("document.activeElement.id || document.activeElement.className")

    def hover(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        self.ask("hover", selector=selector, x=x, y=y)

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        self.ask("click", selector=selector, x=x, y=y)

    def tap(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        self.ask("tap", selector=selector, x=x, y=y)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.ask("press", key=key)

    def resize(self, width: int, height: int) -> None:
        self.ask("resize", width=width, height=height)

    def select(self, selector: str, index: int) -> None:
        self.ask("select", selector=selector, index=index)


@contextmanager
def running() -> Iterator[Browser]:
    """Run a browser for the time of a block."""
    command = ["node", str(HERE / "drive.mjs"), str(CHROMIUM)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8") as process:
        yield Browser(process)
        process.stdin.close()
