"""Imports go one way, reading needs no torch, and the public surface is what it says."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import by_hand
import pytest

import probekit
from probekit.store.format.records import write_record

PACKAGE = Path(probekit.__file__).parent

# Each file imports only from files above it. A new file gets its place here.
LIGHT = (  # without torch
    *("errors", "interrupts", "wording", "places", "yamltext", "plainwords", "fields", "config"),
    *(
        "globs",
        "misses",
        "families",
        "inside",
        "schema",
        "dimensions",
        "disk",
        "records",
        "checksums",
        "compression",
        "flushing",
        "writer",
    ),
    *("lock", "gather", "mapped", "folder", "verify"),
    *("extras", "shown", "summary", "overview", "choosing", "handover"),
    *("blocks", "moments", "sitestats", "tracestats", "neurons", "headscores", "predictions"),
    *("site", "tables", "trace"),
    *("dataframes", "dataarrays", "newfile", "merging", "tensorfile", "shuffling"),
    *("alignment", "pairing", "cka", "comparison", "similarity", "lensresult"),
    *("pictures", "siteplots", "resultplots"),
    *("room", "index", "spool", "inputs", "shards", "terminal", "stopping"),
    *("report.visible", "report.blocks", "report.codes", "report.roles", "report.example"),
    *("report.neurons", "report.execution", "report.attention", "report.page", "report.writing"),
    "report",
)
HEAVY = (  # may import torch
    *("memory", "trust", "models", "tokenizing", "indexing", "attention", "skeleton", "sources"),
    *("recipe", "resolve", "planning", "hooks", "order", "packing", "tally", "transfer"),
    *("receiver", "walk", "generation", "provenance", "barehooks", "selfcheck"),
    *("capture", "recording", "readout", "agreement", "logitlens", "rowreader"),
    *("torchdata", "training"),
)
ORDER = (*LIGHT, *HEAVY, "cli")
TORCH = ("torch", "transformers", "huggingface_hub", "safetensors", "tokenizers")


def at_import(nodes: Sequence[ast.stmt]) -> Iterator[str]:
    """Give the modules that a file imports when it is imported itself, dotted."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from at_import(node.body)
            yield from at_import(node.orelse)
        elif isinstance(node, ast.Try):
            yield from at_import([*node.body, *node.orelse, *node.finalbody])
            yield from (name for handler in node.handlers for name in at_import(handler.body))
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from at_import(node.body)


def wrong_imports(sources: Mapping[str, str], order: Sequence[str] = ORDER) -> list[str]:
    """Find imports that go up the list, or sideways off it."""
    wrong = []
    for name, source in sources.items():
        for imported in at_import(ast.parse(source).body):
            parts = imported.split(".")
            if parts[0] != "probekit" or parts[1:2] in ([], ["__version__"]):
                continue
            inside = ".".join(parts[1:3])  # a file of a folder of its own: report.codes
            place = inside if inside in order else parts[1]
            if place not in order[: order.index(name)]:
                wrong.append(f"{name} imports {place}")
    return wrong


def heavy_imports(sources: Mapping[str, str]) -> list[str]:
    return [
        f"{name} imports {imported}"
        for name, source in sources.items()
        for imported in at_import(ast.parse(source).body)
        if imported.split(".")[0] in TORCH
    ]


def files() -> dict[str, str]:
    top = [p for p in PACKAGE.glob("*.py") if p.stem not in ("__init__", "__main__")]
    found = {path.stem: path for path in top}
    for path in (PACKAGE / "report").glob("*.py"):
        found["report" if path.stem == "__init__" else f"report.{path.stem}"] = path
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


# --- imports go one way


def test_every_file_has_its_place_in_the_list():
    assert sorted(files()) == sorted(ORDER)


def test_imports_go_down_the_list_only():
    assert wrong_imports(files()) == []


def test_files_that_read_and_write_traces_do_not_import_torch():
    assert heavy_imports({name: files()[name] for name in (*LIGHT, "cli")}) == []


def test_the_package_itself_imports_nothing_but_the_standard_library():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    roots = {name.split(".")[0] for name in at_import(ast.parse(source).body)}
    assert roots <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from probekit import c", ["b imports c"]),
        ("import probekit.c", ["b imports c"]),
        ("from probekit.c import x", ["b imports c"]),
        ("try:\n    from probekit.c import x\nexcept ImportError:\n    pass", ["b imports c"]),
        ("if True:\n    import probekit.c", ["b imports c"]),
        ("from probekit import a, c", ["b imports c"]),
        ("from probekit import unlisted", ["b imports unlisted"]),
        ("from probekit import b", ["b imports b"]),
        ("from probekit.a import x\nimport probekit\nfrom probekit import __version__", []),
        ("def f():\n    from probekit import c", []),
        ("if TYPE_CHECKING:\n    from probekit import c", []),
        ("import torch", []),
        ("from probekit.d import e", ["b imports d.e"]),
        ("from probekit.d.e import x", ["b imports d.e"]),
    ],
)
def test_the_check_can_fail(source, found):
    assert wrong_imports({"b": source}, order=("a", "b", "c", "d.e")) == found


@pytest.mark.parametrize(
    ("source", "n_found"),
    [
        ("import torch.nn", 1),
        ("from transformers import AutoConfig", 1),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", 1),
        ("class A:\n    import torch", 1),
        ("def f():\n    import torch", 0),
        ("if TYPE_CHECKING:\n    import torch", 0),
        ("from probekit import torchdata", 0),
    ],
)
def test_the_check_for_torch_can_fail(source, n_found):
    assert len(heavy_imports({"b": source})) == n_found


# --- reading needs no torch: in a process of its own, since ours has loaded everything

SAY_LOADED = f"\nimport sys; print(sorted(set({TORCH!r}) & set(sys.modules)))"


def loaded(code: str, *arguments: object) -> str:
    """Run code in a fresh process and say which heavy libraries it loaded."""
    command = [sys.executable, "-c", code + SAY_LOADED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_probekit_loads_no_torch():
    assert loaded("import probekit; dir(probekit); probekit.__version__") == "[]"


def test_every_light_file_loads_no_torch():
    assert loaded("".join(f"import probekit.{name}\n" for name in (*LIGHT, "cli"))) == "[]"


@pytest.mark.parametrize("name", TORCH)
def test_loading_torch_would_be_noticed(name):
    assert loaded(f"import sys; sys.modules[{name!r}] = sys\n") == f"[{name!r}]"


def test_reading_a_trace_loads_no_torch(tmp_path):
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    probes = [{"modules": "transformer.h.*.mlp.act"}, {"sites": "resid_post", "positions": "last"}]
    config = by_hand.config(model, tmp_path / "t", probes=probes, execution_order=True)
    config["model"]["dtype"] = "bfloat16"
    probekit.run(config)
    code = (
        "import sys, probekit\n"
        "trace = probekit.open(sys.argv[1])\n"
        "site = trace['transformer.h.0.mlp.act']\n"
        "site[3:5], site[[1, 2]], site.example(1), site.shape, site.axes\n"
        "trace.select('resid_post', layer=-1)[:], trace.examples[0].tokens\n"
        "trace.execution_order, trace.provenance, trace.match('**')\n"
        "trace.tokens[3], trace.context(4)\n"
        "trace.statistics(), trace.top_examples('transformer.h.0.mlp.act', 3)\n"
        "trace.to_pandas('tokens'), trace.to_xarray().load()\n"
        "trace.to_safetensors(sys.argv[1] + '.safetensors')\n"
        "trace.merge(sys.argv[1] + '.h5')\n"
        "from probekit import Site, Trace, StoreError\n"
        "from probekit.trace.summary import summarize_trace; summarize_trace(trace)\n"
        "trace.report(sys.argv[1] + '.html')\n"
    )
    assert loaded(code, tmp_path / "t") == "[]"


def test_the_light_commands_load_no_torch(tmp_path):
    code = (
        "import sys; from probekit import cli\n"
        "sys.argv = ['probekit', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
    )
    assert loaded(code, "schema").endswith("[]")
    assert loaded(code, "--help").endswith("[]")
    assert loaded(code, "info", tmp_path) == "[]"
    assert loaded(code, "report", tmp_path) == "[]"
    write_record(tmp_path / "run.json", {"identity": {"shards": []}})
    assert loaded(code, "verify", tmp_path).endswith("[]")


def test_importing_probekit_takes_under_a_fifth_of_a_second():
    code = "import time; t = time.perf_counter(); import probekit; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True) for _ in range(5)]
    assert min(float(run.stdout) for run in runs) < 0.2


# --- the public surface


def test_the_public_names_are_these():
    assert sorted(probekit.__all__) == [
        *("CaptureError", "ConfigError", "PlanError", "ProbekitError"),
        *("ProbekitWarning", "Site", "StoreError"),
        *("Trace", "compare", "lens", "open", "plan", "record", "run"),
    ]
    assert dir(probekit) == probekit.__all__


@pytest.mark.parametrize("name", probekit.__all__)
def test_every_public_name_is_what_its_home_says_and_is_documented(name):
    value = getattr(probekit, name)
    home, attribute = probekit._HOMES[name]
    assert value is getattr(importlib.import_module(home), attribute)
    assert inspect.getdoc(value)
    if name[0].islower():
        assert callable(value)


def test_options_of_public_functions_are_keywords_only():
    more = {"record": ["patterns"], "compare": ["b"]}
    for name in ("run", "plan", "record", "open", "compare", "lens"):
        first, *others = inspect.signature(getattr(probekit, name)).parameters.values()
        positional = [p.name for p in others if p.kind is not p.KEYWORD_ONLY]
        assert positional == more.get(name, [])
        assert first.kind is first.POSITIONAL_OR_KEYWORD


def test_all_errors_are_probekits():
    for name in ("CaptureError", "ConfigError", "PlanError", "StoreError"):
        assert issubclass(getattr(probekit, name), probekit.ProbekitError)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'probekit' has no attribute 'recrod'"):
        probekit.recrod  # noqa: B018
