"""One parse of a .gguf file, where transformers makes one each for config, tokenizer and weights.

Knows the reader of the package gguf: it looks at every token of the vocabulary in Python, which
takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from probekit.models.sources import Source

# The last file's reader, by path, size and time: a hundred megabytes and more.
_parsed: dict[tuple[str, int, int], Any] = {}


@contextmanager
def parsed_once(source: Source) -> Iterator[None]:
    """Have a .gguf file that was parsed a moment before not parsed again inside the block.

    Nothing happens where a model's source is no .gguf file.
    """
    if source.gguf_file is None:
        yield
        return
    gguf: Any = import_module("gguf")

    parse = gguf.GGUFReader

    def reader(path: Any, *args: Any, **kwargs: Any) -> Any:
        there = Path(path).stat()
        key = (os.fspath(path), there.st_size, there.st_mtime_ns)
        if args or kwargs:
            return parse(path, *args, **kwargs)
        if key not in _parsed:
            _parsed.clear()
            _parsed[key] = parse(path)
        return _parsed[key]

    gguf.GGUFReader = reader
    try:
        yield
    finally:
        gguf.GGUFReader = parse


def forget_parsed() -> None:
    """Let go of what was parsed."""
    _parsed.clear()
