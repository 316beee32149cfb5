"""The page around the data: what is known of the run, the styles and the code.

Knows the template and the files beside it; nothing of blocks.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from probekit.errors import StoreError
from probekit.report import neurons, overview, scores
from probekit.report.blocks import Block
from probekit.report.lensing import is_recorded
from probekit.report.parts import MISSING, TITLES, Roles
from probekit.store import INDEX_FILE, number_of, read_run
from probekit.trace import Trace, collapse, summarize_trace, visible, visible_token
from probekit.wording import by_count, counted, human_bytes

# Joined in this order into one script; each file says what it gives to those after it. It travels
# packed, as the data do: it would be a quarter of a small page.
SCRIPTS = (
    *("elements.js", "blocks.js", "numbers.js", "colours.js", "state.js", "labels.js"),
    *("heatmap.js", "overview.js", "tokens.js", "attention.js", "heads.js", "scores.js"),
    *("lens.js", "streams.js", "experts.js", "generation.js"),
    *("neurons.js", "execution.js", "passes.js", "start.js"),
)
UNPACKING = ("unpacking.js",)
STYLES = ("base.css", "page.css", "overview.css", "maps.css", "sections.css", "media.css")
_BLOCKS_HERE = "<!-- blocks -->"  # the template's mark; escaped text holds no "<"
_CONFIG_CHARACTERS = 50_000
_DIGEST = re.compile(r"\b([0-9a-f]{10})[0-9a-f]{22,}\b")
_LIBRARIES = ("probekit", "torch", "transformers", "numpy", "h5py", "python")


def render(
    trace: Trace, roles: Roles, start: dict[str, Any], left_out: tuple[str, ...]
) -> tuple[str, str]:
    """Give the page's text before and after its blocks.

    Args:
        trace: whose provenance is told.
        roles: which sections have data.
        start: plain JSON values, the first thing the page's code reads.
        left_out: what is not in the report, and why.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("probekit.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters.update(visible=visible, visible_token=visible_token)
    style, script = "\n".join(_read(STYLES)), _script(_read(SCRIPTS))
    unpacking = _script(_read(UNPACKING))
    text = environment.get_template("report.html.jinja").render(
        style=style,
        unpacking=unpacking,
        packed=Block.of_text("script", script).element().decode(),
        style_digest=_digest(style),
        script_digests=(_digest(unpacking), _digest(script)),
        start=start,
        left_out=left_out,
        missing=_missing(trace, roles, start),
        titles=TITLES,
        rule=neurons.RULE,
        opening_rule=scores.RULE,
        norms_rule=overview.NORMS,
        **_about(trace),
    )
    before, _, after = text.partition(_BLOCKS_HERE)
    return before, after


def _read(names: tuple[str, ...]) -> list[str]:
    folder = files("probekit.report") / "page"
    return [(folder / name).read_text(encoding="utf-8") for name in names]


def _script(parts: list[str]) -> str:
    body = "\n".join(parts)
    assert "</script" not in body and "<!--" not in body, "it would end its element"
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'


def _digest(text: str) -> str:
    """Name a script or a style for the page's Content-Security-Policy, which runs no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _missing(trace: Trace, roles: Roles, start: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Give what was not recorded, by section, and the config that records it."""
    there = {
        "attention": bool(roles.attention),
        "candidates": roles.top_k is not None or roles.logits is not None,
        "streams": bool(roles.streams or roles.columns),
        "lens": is_recorded(trace),
        "generation": not start["examples"] or any(e["n_generated"] for e in start["examples"]),
        "neurons": bool(roles.neurons),
        "execution": trace.execution is not None,
    }
    return {name: MISSING[name] for name, found in there.items() if not found}


def _about(trace: Trace) -> dict[str, Any]:
    made, found = trace.provenance, summarize_trace(trace)
    name = str(made.get("model_name", "unknown model"))
    config = str(made.get("config", ""))
    return {
        "title": Path(name).name if Path(name).is_absolute() else name,
        "counts": (
            counted(found["n_examples"], "example"),
            counted(found["n_tokens"], "token"),
            counted(found["n_sites"], "site"),
            human_bytes(found["n_bytes"]),
        ),
        "facts": _facts(trace),
        "sites": _sites(found["sites"]),
        "notes": [*_notes(trace), *_counted(trace)],
        "config": config[:_CONFIG_CHARACTERS],
        "config_rest": max(0, len(config) - _CONFIG_CHARACTERS),
    }


def _facts(trace: Trace) -> list[tuple[str, str, str]]:
    """Give what is known of the run: a label, a value, and the value with its digests cut short."""
    made = trace.provenance

    def known(*keys: str) -> str:
        return ", ".join(str(made[key]) for key in keys if made.get(key) not in (None, ""))

    sizes = [
        shape.format(_count(made[key]))
        for key, shape in (
            ("n_layers", "{} layers"),
            ("n_heads", "{} heads"),
            ("d_model", "d_model {}"),
            ("d_mlp", "d_mlp {}"),
            ("d_vocab", "vocabulary {}"),
        )
        if key in made
    ]
    versions = [f"{n} {made[f'{n}_version']}" for n in _LIBRARIES if f"{n}_version" in made]
    facts = [
        ("Trace", str(trace.path)),
        ("Model", known("model_name", "model_revision", "model_commit")),
        ("Class", known("model_class")),
        ("Parameters", _count(made.get("n_parameters", ""))),
        ("Sizes", ", ".join(sizes)),
        ("Weights", known("model_weights")),
        ("Computed in", known("dtype")),
        ("Attention kernel", known("attention")),
        ("Device", known("device")),
        ("Seed", known("seed")),
        ("Tokenizer", known("tokenizer")),
        ("Forward passes end at", known("stopped_after")),
        ("Made by", ", ".join(versions)),
        ("Config digest", known("config_digest")),
    ]
    return [(label, value, _DIGEST.sub(r"\1…", value)) for label, value in facts if value]


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)  # a stranger's may be anything


def _sites(sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name = {site["name"]: site for site in sites}
    return [
        {
            "name": shape,
            "n": len(names),
            "axes": ", ".join(
                f"{axis} = {size:,}"
                for axis, size in zip(
                    by_name[names[0]]["axes"], by_name[names[0]]["shape"], strict=True
                )
            ),
            "dtype": by_name[names[0]]["dtype"],
            "size": human_bytes(sum(by_name[name]["bytes"] for name in names)),
        }
        for shape, names in collapse(by_name).items()
    ]


_NOT_AS_THEY_SHOULD_BE = {
    "n_nonfinite": ("is not finite", "are not finite"),
    "n_overflow": ("overflowed", "overflowed"),
}


def _counted(trace: Trace) -> list[str]:
    """Give what the run counted of values that are not what they should be, site by site."""
    notes = []
    for shape, names in collapse(trace.site_names).items():
        for key, what in _NOT_AS_THEY_SHOULD_BE.items():
            counts = (number_of(trace[name].attributes, key, name) or 0 for name in names)
            if n := sum(counts):
                notes.append(f"{shape}: {counted(n, 'value')} {by_count(n, *what)}")
    return notes


def _notes(trace: Trace) -> list[str]:
    """Give what the run said of itself; only a run's folder still has it."""
    if "notes" in trace.provenance:
        notes = trace.provenance["notes"]
        return [str(note) for note in notes] if isinstance(notes, list) else []
    if trace.path.name != INDEX_FILE:
        return []
    try:  # in a run of format 1.0 they stand in run.json
        run = read_run(trace.path.parent)
    except StoreError as error:  # the trace itself was read: show it, and say what is wrong
        return [f"the notes of the run cannot be read: {error}"]
    notes = (run or {}).get("provenance", {}).get("notes", ())
    return [str(note) for note in notes] if isinstance(notes, list) else []
