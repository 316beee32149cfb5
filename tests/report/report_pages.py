"""Reports read back without probekit or a browser: the page's blocks and texts."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        elif tag == "style":
            self.styles.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.words.append(data)


class ReadPage:
    """A report, parsed."""

    def __init__(self, path: Path) -> None:
        reader = _Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        reader.close()
        self.tags, self.styles = reader.tags, reader.styles
        self.text = " ".join(" ".join(reader.words).split())
        self.code = [text for attributes, text in reader.scripts if not attributes.get("type")]
        self._data = {a["id"]: t for a, t in reader.scripts if a.get("id")}

    @property
    def start(self) -> dict[str, Any]:
        return json.loads(self._data["start"], parse_constant=_refuse)

    @property
    def blocks(self) -> list[str]:
        return [name.removeprefix("block-") for name in self._data if name.startswith("block-")]

    def bytes(self, name: str) -> bytes:
        return zlib.decompress(base64.b64decode(self._data[f"block-{name}"], validate=True))

    @property
    def packed_code(self) -> str:
        """The page's own code, which travels in a block."""
        return self.bytes("script").decode()

    def json(self, name: str) -> Any:
        return json.loads(self.bytes(name), parse_constant=_refuse)

    def head(self, example: int, place: int, column: int) -> np.ndarray[Any, Any]:
        """Unpack a head by the letter of its description: [query, key], NaN where nothing is."""
        about = self.json(f"{example}-attention")
        one = about["maps"][place]
        n = len(self.json(f"{example}-example")["tokens"])
        queries = range(n) if one["queries"] is None else one["queries"]
        n_all = sum(query + 1 if one["causal"] else n for query in queries)
        found = np.frombuffer(self.bytes(f"{example}-head-{place}-{column}"), np.uint8)
        first, seconds = found[:n_all].astype(np.int64), iter(found[n_all:].tolist())
        levels, below = about["levels"], about["below"]
        known = []
        for high in first:
            if high < levels:
                known.append(high / levels * below)
                continue
            low = next(seconds)
            above = (256 * (high - levels) + low) / about["steps"]
            known.append(np.nan if high == low == 255 else below + above * (1 - below))
        assert next(seconds, None) is None, "the block holds more than it says"
        values = iter(known)
        weights = np.full((n, n), np.nan)
        for query in queries:
            for key in range(query + 1 if one["causal"] else n):
                weights[query, key] = next(values)
        return weights


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
