"""Imports go one way, reading needs no torch, and the public surface is what it says."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import by_hand
import pytest
from labelled_traces import labelled_trace, planted

import probekit
from probekit.store.format.records import write_record

PACKAGE = Path(probekit.__file__).parent

# The rooms, the highest first: a file imports from rooms below its own, and inside its own room
# without a circle. A new room gets its place here, and a line in CONTRIBUTING.md.
ROOMS = (
    *("cli", "report", "plots", "handover", "handover.torch"),
    *("analysis.logitlens", "analysis.readouts", "analysis"),
    *("capture", "capture.selfcheck", "hooks", "planning", "inputs", "inputs.documents"),
    *("inputs.datasets", "inputs.chats"),
    *("models", "models.athand", "models.places", "models.places.tiny", "models.forward"),
    *("trace", "trace.columns", "trace.shown", "methods"),
    *("store", "store.writing", "store.reading", "store.format", "config", "config.patterns"),
)
FLOOR = (
    "extras",
    "interrupts",
    "arguments",
    "stages",
    "invocation",
    "wording",
    "errors",
    "version",
)  # files below all rooms
# What may import torch when it is imported itself.
HEAVY = (
    *(
        "handover.torch",
        "analysis.logitlens",
        "capture",
        "hooks",
        "planning",
        "models",
        "models.athand",
        "models.forward",
        "models.places",
        "models.places.tiny",
    ),
    *("inputs.tokenizing", "inputs.decoding"),
)
EXCEPT_HEAVY = ("handover.torch.shuffling", "planning.diskspace", "models.families")
EXCEPT_HEAVY += ("models.places.names", "models.places.tiny.building")
EXCEPT_HEAVY += ("models.places.familyrows",)
EXCEPT_HEAVY += ("analysis.logitlens.result", "capture.spool")
EXCEPT_HEAVY += ("analysis.logitlens.choosing", "analysis.logitlens.athand")
# What comes before torch is imported: what can be told at once.
EXCEPT_HEAVY += ("capture.beginning", "capture.read", "planning.asking", "planning.firstlook")
EXCEPT_HEAVY += ("models.files", "models.listing", "models.sources", "models.trust")
UPWARDS = "methods"  # the one room that may name what is above it, and imports it when it is called
TORCH = ("torch", "transformers", "huggingface_hub", "safetensors", "tokenizers")

Imported = tuple[str, str, bool]  # what a file takes: from where, which name, at import or later


def imports_of(source: str) -> Iterator[Imported]:
    """Give all that a file imports of probekit, under `TYPE_CHECKING` and in functions too."""
    tree = ast.parse(source)
    at_once = {id(node) for node in at_import(tree.body)}
    used: dict[str, set[str]] = {}  # what is taken of a name: families.sizes -> sizes
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found = [(str(node.module), alias.name) for alias in node.names]
            whole = [a.asname or a.name for a in node.names if node.module == "probekit"]
            found += [(f"probekit.{a}", name) for a in whole for name in sorted(used.get(a, ()))]
        else:
            continue
        for module, name in found:
            if module.split(".")[0] == "probekit":
                yield module, name, id(node) in at_once


def at_import(nodes: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Give the import statements that run when a file is imported itself."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from at_import(node.body)
            yield from at_import(node.orelse)
        elif isinstance(node, ast.Try):
            yield from at_import([*node.body, *node.orelse, *node.finalbody])
            yield from (name for handler in node.handlers for name in at_import(handler.body))
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from at_import(node.body)


class House:
    """The files of a package and the doors of its rooms.

    Args:
        files: `store.format.disk` -> its source.
        doors: `store` -> the source of its `__init__.pyi`.
    """

    def __init__(self, files: Mapping[str, str], doors: Mapping[str, str]) -> None:
        self.files = files
        self.doors = {
            room: {
                alias.name: node.module or ""
                for node in ast.parse(stub).body
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            for room, stub in doors.items()
        }

    def room_of(self, file: str) -> str:
        """Name the room that a file lies in; a file on the floor is its own."""
        return file.rpartition(".")[0] or file

    def home(self, module: str, name: str) -> str:
        """Find the file that a name comes from, through the doors of rooms."""
        place = module.removeprefix("probekit").lstrip(".")
        if place in self.files or (place in self.doors and not name):
            return place
        inner = f"{place}.{name}".lstrip(".")
        if inner in self.files or inner in self.doors:
            return inner
        if place and place not in self.doors:
            return f"{place} (there is no such file)"
        if name not in self.doors.get(place, {}):
            return f"{place}.{name} (it is not in the door)"
        behind = self.doors[place][name]
        return self.home(f"probekit.{place}.{behind}", name) if behind else inner

    def wrong_imports(self, order: Sequence[str]) -> list[str]:
        """Find imports that go up the list, past a door, or to what is not in one."""
        wrong = []
        for file, source in self.files.items():
            own = self.room_of(file)
            for module, name, at_once in imports_of(source):
                if module == "probekit" and not at_once and own == "cli":
                    continue  # the command line calls the public surface, as a user does
                home = self.home(module, name)
                if home.endswith(")"):
                    wrong.append(f"{file} imports {home}")
                    continue
                room = home if home in self.doors else self.room_of(home)
                if room not in order:
                    wrong.append(f"{file} imports {home}")
                    continue
                goes_up = order.index(room) < order.index(own)
                if goes_up and (own != UPWARDS or at_once):
                    wrong.append(f"{file} imports {home}, which lies above")
                past_a_door = module.removeprefix("probekit.") in self.files
                if past_a_door and room != own and room not in FLOOR:
                    wrong.append(f"{file} imports {module} past the door of {room}")
        return wrong

    def circles(self) -> list[list[str]]:
        """Find files that import each other, directly or over others."""
        taken = {
            file: {self.home(module, name) for module, name, _ in imports_of(source)}
            for file, source in self.files.items()
            if self.room_of(file) != UPWARDS
        }
        while loose := [f for f, homes in taken.items() if not homes & taken.keys() - {f}]:
            for file in loose:  # it takes from nobody that is left
                del taken[file]
        while loose := [f for f in taken if not any(f in h for g, h in taken.items() if g != f)]:
            for file in loose:  # nobody that is left takes from it
                del taken[file]
        return [sorted(taken)] if taken else []


def heavy_imports(sources: Mapping[str, str]) -> list[str]:
    """Find files that import torch when they are imported themselves."""
    return [
        f"{name} imports {imported}"
        for name, source in sources.items()
        for node in at_import(ast.parse(source).body)
        for imported in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
        if str(imported).split(".")[0] in TORCH
    ]


def read_house() -> House:
    """Read the package as it is; data and the top `__init__` have no place in the list."""
    stubs = {path.parent: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.pyi")}
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if path.stem not in ("__init__", "__main__", "verify") and not name.startswith("samples"):
            files[name] = path.read_text(encoding="utf-8")
    return House(files, {".".join(d.relative_to(PACKAGE).parts): s for d, s in stubs.items()})


HOUSE = read_house()
LIGHT = tuple(
    file
    for file in HOUSE.files
    if file in EXCEPT_HEAVY or not file.startswith(tuple(f"{room}." for room in HEAVY))
    if file not in HEAVY
)


# --- imports go one way


def test_every_room_has_its_place_in_the_list():
    assert {HOUSE.room_of(file) for file in HOUSE.files} == {*ROOMS, *FLOOR}
    assert {*HOUSE.doors} == {*ROOMS} - {"methods"}


def test_imports_go_down_the_list_and_through_doors_only():
    assert HOUSE.wrong_imports((*ROOMS, *FLOOR)) == []


def test_no_files_import_each_other():
    assert HOUSE.circles() == []


def test_a_room_has_two_to_sixteen_files():
    counts = Counter(HOUSE.room_of(file) for file in HOUSE.files)
    assert {room: n for room in ROOMS if not 2 <= (n := counts[room]) <= 16} == {}


def test_every_room_says_what_it_knows_and_names_its_door():
    for room in ROOMS:
        source = (PACKAGE.joinpath(*room.split(".")) / "__init__.py").read_text(encoding="utf-8")
        said = ast.get_docstring(ast.parse(source)) or ""
        assert len(said) > 150, room
        assert "Its door" in said or room == UPWARDS, room


def test_files_that_read_and_write_traces_do_not_import_torch():
    assert heavy_imports({name: HOUSE.files[name] for name in LIGHT}) == []


def test_the_package_itself_imports_nothing_but_the_standard_library():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    roots = set()
    for node in at_import(ast.parse(source).body):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        roots |= {str(name).split(".")[0] for name in names}
    assert roots <= {*sys.stdlib_module_names, "probekit"}


DOORS_OF_A_HOUSE = {
    "a": "from .x import f as f",
    "b": "from .y import g as g\nfrom . import y as y",
}
UP = "b.y imports a.x, which lies above"


def house(file: str, source: str) -> House:
    return House({"a.x": "", "b.y": "", "b.z": "", "methods.d": "", file: source}, DOORS_OF_A_HOUSE)


@pytest.mark.parametrize(
    ("file", "source", "found"),
    [
        ("b.y", "from probekit.a import f", [UP]),
        ("b.y", "def go():\n    from probekit.a import f", [UP]),
        ("b.y", "if TYPE_CHECKING:\n    from probekit.a import f", [UP]),
        ("b.y", "try:\n    from probekit.a import f\nexcept E:\n    pass", [UP]),
        ("b.y", "from probekit import a\na.f()", ["b.y imports a, which lies above", UP]),
        ("b.y", "import probekit.a", ["b.y imports a, which lies above"]),
        ("a.x", "from probekit.b import h", ["a.x imports b.h (it is not in the door)"]),
        ("a.x", "from probekit.b.y import g", ["a.x imports probekit.b.y past the door of b"]),
        ("a.x", "from probekit.c import g", ["a.x imports c (there is no such file)"]),
        ("a.x", "from probekit.b import g, y\nfrom probekit import b\nb.g()", []),
        ("b.y", "from probekit.b.z import h\nimport torch", []),
        ("methods.d", "def go():\n    from probekit.a import f", []),
        ("methods.d", "from probekit.a import f", ["methods.d imports a.x, which lies above"]),
    ],
)  # fmt: skip
def test_the_check_can_fail(file, source, found):
    assert house(file, source).wrong_imports(("a", "methods", "b")) == found


def test_the_check_for_circles_can_fail():
    assert house("b.z", "from probekit.b.y import g").circles() == []
    two = House(
        {"b.y": "from probekit.b.z import h", "b.z": "def f():\n    from probekit.b.y import g"}, {}
    )
    assert two.circles() == [["b.y", "b.z"]]


@pytest.mark.parametrize(
    ("source", "n_found"),
    [
        ("import torch.nn", 1),
        ("from transformers import AutoConfig", 1),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", 1),
        ("class A:\n    import torch", 1),
        ("def f():\n    import torch", 0),
        ("if TYPE_CHECKING:\n    import torch", 0),
        ("from probekit.handover import RowBatches", 0),
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
    assert loaded("".join(f"import probekit.{name}\n" for name in LIGHT)) == "[]"


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
        "probekit.fit_readout, probekit.load_readout\n"
        "from probekit import Site, Trace, StoreError\n"
        "from probekit.trace.summary import summarize_trace; summarize_trace(trace)\n"
        "trace.report(sys.argv[1] + '.html', lens=False)\n"
    )
    assert loaded(code, tmp_path / "t") == "[]"
    (tmp_path / "model").rename(tmp_path / "elsewhere")  # nothing to look through the lens with
    code = "import sys, probekit; probekit.open(sys.argv[1]).report(sys.argv[1] + '.html')"
    assert loaded(code, tmp_path / "t") == "[]"
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "There is no lens here: " in page and "there is no folder" in page


def test_fitting_a_readout_loads_no_torch(tmp_path):
    rows, labels, _ = planted(40, 4)
    labelled_trace(tmp_path / "t", [rows], {"label": labels.tolist()})
    code = (
        "import sys, probekit\n"
        "trace = probekit.open(sys.argv[1])\n"
        "readout = trace.fit_readout('resid_post', target='label', shuffles=1)\n"
        "readout.plot(), readout.apply(trace).to_pandas()\n"
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
        *(
            "Trace",
            "compare",
            "fit_readout",
            "lens",
            "load_readout",
            "open",
            "plan",
            "record",
            "run",
            "verify",
        ),
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
    more = {"record": ["patterns"], "compare": ["b"], "fit_readout": ["sites"]}
    for name in [name for name in probekit.__all__ if name[0].islower()]:
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
