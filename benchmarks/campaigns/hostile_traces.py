"""Traces that a stranger made: each way of lying in an HDF5 file or beside it, on a small trace.

What lies outside the trace is a trap: a pipe that nobody writes to. A reader that so much as opens
it waits for ever. `read_all` reads everything that probekit reads, as a user would.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import probekit
from campaigns.attempts import Limits, attempt
from probekit.cli.terminal import show_info
from probekit.errors import StoreError
from probekit.store.folder import RunFolder
from probekit.store.format.records import read_record, write_record
from probekit.store.runrecord import RunRecord, read_run
from probekit.store.sealed import sealed_specs
from probekit.store.verification import verify
from probekit.trace.summary import summarize_trace

SECRET = "421888"  # what the secret file holds; bfloat16 has this number


@dataclass(frozen=True, slots=True)
class Place:
    """Where a hostile trace lies, and what lies around it."""

    folder: Path
    trap: Path  # a pipe
    secret: Path  # a true HDF5 file with the same tree


Lie = Callable[[h5py.File, str, Place, random.Random], None]


BASE: dict[
    str, Any
] = {  # two shards, chats, columns, choices, a pool, beams, bfloat16, an execution: all there is
    "model": {"name": "sample:tiny-gpt2", "device": "cpu", "dtype": "bfloat16"},
    "inputs": {
        "examples": [
            {
                "chat": [{"role": "user", "content": "Cats are "}],
                "label": 1,
                "score": 0.5,
                "subject": "Cats",
                "seen": True,
            },
            {
                "chat": [{"role": "user", "content": "The capital of Japan is"}],
                "label": 2,
                "score": None,
                "subject": None,
                "seen": None,
            },
            {
                "chat": [{"role": "assistant", "content": "Dogs"}],
                "label": 3,
                "score": 1.5,
                "subject": "Dogs",
                "seen": False,
            },
        ],
        "messages": "chat",
        "batch_tokens": 8,
    },
    "probes": [
        {"modules": "transformer.h.0.mlp.act", "neurons": [0, 1, 2]},
        {"sites": "resid_post", "layers": 0, "neurons": [0, 1, 2, 3]},
        {"sites": "mlp_out", "positions": "last", "neurons": [0, 1]},
        {"sites": "attn_out", "pool": "mean", "neurons": [0, 1]},
        {"modules": "lm_head", "record": "top_k", "k": 2},
    ],
    "generate": {"max_new_tokens": 2, "beams": 2},
    "execution_order": True,
    "store": {"shard_bytes": 1500},
}


def base_trace(folder: Path) -> None:
    """Record a small trace."""
    template = folder.parent / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}")
    inputs = {**BASE["inputs"], "chat_template": str(template)}
    config = {**BASE, "inputs": inputs, "store": {**BASE["store"], "path": str(folder)}}
    made = attempt(lambda: probekit.run(config), limits=Limits(cpu_s=60, wall_s=600))
    assert made.kind == "done", made.said


def place_at(scratch: Path, base: Path) -> Place:
    """Lay out a copy of a trace, and a trap and a secret beside it."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(base, scratch / "run")
    os.mkfifo(scratch / "trap.h5")
    shutil.copy(base / "shards" / "00000.h5", scratch / "secret.h5")
    with h5py.File(scratch / "secret.h5", "r+") as file:
        for name in _datasets(file):
            if name.startswith("sites/") and file[name].dtype.kind == "f":
                file[name][:] = float(SECRET)
        file["examples/text"][:] = SECRET
    return Place(scratch / "run", scratch / "trap.h5", scratch / "secret.h5")


def _datasets(file: h5py.File) -> tuple[str, ...]:
    found: list[str] = []
    file.visititems(lambda n, o: found.append(n) if isinstance(o, h5py.Dataset) else None)
    return tuple(found)


def _groups(file: h5py.File) -> tuple[str, ...]:
    found: list[str] = []
    file.visititems(lambda n, o: found.append(n) if isinstance(o, h5py.Group) else None)
    return tuple(found)


# --- reading


def read_all(folder: Path) -> str:
    """Read all there is of a trace and of each of its shards; refusals are noted and passed.

    Returns:
        Everything that was read or said.
    """
    said: list[str] = []
    shards = sorted(p for p in (folder / "shards").glob("*.h5") if not p.is_symlink())
    for path in (folder, *shards):  # who opens a link by its own name follows it
        for step in _steps(path):
            try:
                said.append(repr(step())[:2000])
            except StoreError as error:
                assert all(line.isprintable() for line in str(error).split("\n"))
                said.append(f"refused: {error}")
    for step in (
        lambda: read_run(folder),
        lambda: sealed_specs(folder),
        lambda: str([str(damage) for damage in verify(folder).damages]),
        lambda: json.dumps(verify(folder).to_json()),
        lambda: _run_into(folder, None),
        lambda: _run_into(folder, read_run(folder)),
    ):
        try:
            said.append(repr(step())[:500])
        except StoreError as error:
            said.append(f"refused: {error}")
    return "\n".join(said)


def _run_into(folder: Path, run: dict[str, Any] | None) -> str:
    """Begin a run where there is one, as `probekit run` does: another, or the same one again."""
    identity = {} if run is None else run["identity"]
    now = RunRecord(identity=identity, provenance={"config": "seed: 1\n", "device": "cpu"})
    with RunFolder(folder, now) as entered:
        assert entered.changed.isprintable()
        return entered.changed


def _steps(path: Path) -> Iterator[Callable[[], Any]]:
    try:
        trace = probekit.open(path)
    except StoreError as error:
        message = str(error)
        yield lambda: f"refused: {message}"
        return
    yield lambda: repr(trace)
    yield lambda: json.dumps(trace.provenance)
    yield lambda: trace.vocabulary[:50]
    yield lambda: [trace.examples[n] for n in range(min(9, len(trace.examples)))]
    yield lambda: (repr(trace.prompts), trace.prompts[:9])
    yield lambda: [trace.tokens[n] for n in range(min(9, len(trace.tokens)))]
    yield lambda: (trace.tokens.role[:9], trace.tokens.turn[:9], trace.tokens.is_content[:9])
    yield lambda: [trace.context(n) for n in range(min(9, len(trace.tokens)))]
    yield lambda: trace.execution and trace.execution.forwards[:9]
    yield lambda: trace.execution and trace.execution_order[:9]
    yield lambda: trace.select("resid_post", layer=-2)
    yield lambda: trace.match("**")
    yield lambda: (repr(trace.columns), dict(trace.columns))
    yield lambda: trace.next_tokens(0) if len(trace.examples) else None
    for name in trace.site_names[:20]:
        yield lambda name=name: (repr(trace[name]), json.dumps(trace[name].attributes))
        yield lambda name=name: (trace[name][:], trace[name].raw(slice(None)).dtype)
        yield lambda name=name: trace[name][[0, -1]] if len(trace[name]) else None
        yield lambda name=name: trace[name].example(0) if len(trace.examples) else None
        yield lambda name=name: trace[name].rows != "example" and trace[name].token_rows()
        yield lambda name=name: trace[name].torch().sum()
        yield lambda name=name: [trace[name].numbers(axis) for axis in trace[name].axes[1:]]
    if path.is_dir():
        yield lambda: _reported(trace, path.parent / "report.html")
    yield lambda: _shown(trace)


def _reported(trace: probekit.Trace, page: Path) -> Any:
    with np.errstate(all="ignore"):  # that a stranger's numbers overflow is no fault
        return trace.report(page, examples=1, neurons=1)


def _shown(trace: probekit.Trace) -> str:
    info = summarize_trace(trace)
    json.dumps(info)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        show_info(info)
    assert all(line.isprintable() for line in out.getvalue().splitlines()), "moves the cursor"
    return out.getvalue()


# --- lies inside of a file


def _cleared(file: h5py.File, path: str) -> dict[str, Any]:
    """Remove an object; give its attributes."""
    if path not in file:
        return {}
    kept = dict(file[path].attrs)
    del file[path]
    return kept


def _put(file: h5py.File, path: str, **given: Any) -> None:
    kept = _cleared(file, path)
    made = file.create_dataset(path, **given)
    made.attrs.update(kept)


def _shape(file: h5py.File, path: str) -> tuple[int, ...]:
    return tuple(file[path].shape) if isinstance(file.get(path), h5py.Dataset) else (3,)


def external_link(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    _cleared(file, path)
    outside = draw.choice([place.trap, place.secret])
    names = [str(outside), f"../{outside.name}", "./trace.h5", "", "/etc/passwd", "file://x"]
    file[path] = h5py.ExternalLink(draw.choice(names), draw.choice([f"/{path}", "/", "/x"]))


def soft_link(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    _cleared(file, path)
    file["way_out"] = h5py.ExternalLink(str(place.trap), "/")
    names = [f"/{path}", "/", ".", "/missing", "/way_out/x", "/vocabulary", "../" * 9, f"/{path}/x"]
    file[path] = h5py.SoftLink(draw.choice(names))


def cycle(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    _cleared(file, path)
    file[path] = file[draw.choice(["/", path.rpartition("/")[0] or "/", "examples"])]


def other_object(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    _cleared(file, path)
    match draw.randrange(3):
        case 0:
            file.create_group(path)
        case 1:
            file[path] = np.dtype("f8")  # a type with a name
        case _:
            file.create_group(path)["a/b"] = [1]


def strange_type(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    shape = _shape(file, path)
    odd_float = h5py.h5t.IEEE_F32LE.copy()
    odd_float.set_fields(31, 20, 11, 0, 20)
    odd_int = h5py.h5t.STD_I32LE.copy()
    odd_int.set_precision(12)
    odd_int.set_offset(5)
    many: list[Any] = [
        *(h5py.ref_dtype, h5py.regionref_dtype, h5py.string_dtype(), h5py.string_dtype("ascii", 5)),
        *(h5py.vlen_dtype("i4"), h5py.vlen_dtype(h5py.vlen_dtype("f8")), np.dtype("V7")),
        *(h5py.enum_dtype({"A": 1}), np.dtype([("a", "i4"), ("b", "O8")]) if False else "c16"),
        *(np.dtype([("a", "i4"), ("b", "f4", (3,))]), np.dtype(("f4", (2, 2))), ">f4", "u8"),
        *("longdouble", "f2", "bool", np.dtype([("order", "i4"), ("phase", "S3")])),
        *(h5py.Datatype(odd_float.copy()), h5py.Datatype(odd_int.copy())),
        *(h5py.Datatype(h5py.h5t.STD_B32LE.copy()), h5py.Datatype(h5py.h5t.UNIX_D64LE.copy())),
    ]
    kept = _cleared(file, path)
    made = file.create_dataset(path, shape=shape, dtype=draw.choice(many))
    made.attrs.update(kept)
    with contextlib.suppress(Exception):
        made[...] = np.zeros(shape)  # so that the bytes are there


def absurd_shape(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    shape = draw.choice(
        [
            *((2**40,), (2**62,), (2**40, 4), (2**20, 2**20, 4), (0,), (0, 4), (5, 0), (1,) * 32),
            *((2**33, 4), (7, 4), (3, 2**40), (2**31, 2**31)),
        ]
    )
    dtype = draw.choice(["f4", "i4", "i8", h5py.string_dtype()])
    options = draw.choice(
        [
            {"chunks": tuple(min(n or 1, 4) for n in shape)},
            {"chunks": tuple(min(n or 1, 4) for n in shape), "compression": "gzip"},
            {},
        ]
    )
    _put(file, path, shape=shape, dtype=dtype, **options)
    if options and draw.random() < 0.3 and 0 not in shape:
        file[path][(0,) * len(shape)] = 1 if dtype in ("f4", "i4", "i8") else "x"  # one chunk


def no_space(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    kept = _cleared(file, path)
    empty = h5py.Empty(draw.choice(["f4", "i8", h5py.string_dtype()]))
    file[path] = draw.choice([empty, 5, 1.5, "text"])
    file[path].attrs.update(kept)


def external_storage(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    outside = draw.choice([str(place.trap), f"../{place.trap.name}", "/etc/passwd", "/dev/zero"])
    shape = _shape(file, path)
    dtype = draw.choice(["f4", "i4", "i8"])
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    _put(file, path, shape=shape, dtype=dtype, external=[(outside, 0, max(1, size))])


def virtual(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    shape = _shape(file, path) or (3,)
    n_rows = max(1, shape[0])
    row = tuple(max(1, n) for n in shape[1:])
    dtype = draw.choice(["f4", "i8", "i4", file[path].dtype if path in file else "f4"])
    names = [
        *(str(place.trap), f"../{place.trap.name}", str(place.secret), "shards/../../secret.h5"),
        *(".", "trace.h5", "shards/00000.h5", "shards/%b.h5", "missing.h5", "shards", "/dev/zero"),
        *("linked.h5", "shards/linked/secret.h5", "", "\u202e.h5", "a" * 300 + ".h5"),
    ]
    with contextlib.suppress(OSError):
        (place.folder / "linked.h5").symlink_to(place.trap)
        (place.folder / "shards" / "linked").symlink_to(place.trap.parent)
    unlimited = draw.random() < 0.3
    layout = h5py.VirtualLayout((n_rows, *row), dtype, maxshape=(None, *row) if unlimited else None)
    for _ in range(draw.choice([1, 1, 2, 9])):
        name = draw.choice(names)
        if unlimited:
            source = h5py.VirtualSource(name, path, (n_rows, *row), maxshape=(None, *row))
            layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
            break
        begin = draw.randrange(n_rows)
        source = h5py.VirtualSource(name, draw.choice([path, "/", "x"]), (n_rows, *row))
        layout[begin:n_rows] = source[: n_rows - begin]
    kept = _cleared(file, path)
    file.create_virtual_dataset(path, layout)
    file[path].attrs.update({k: v for k, v in kept.items() if k != "axes"})
    file[path].attrs["axes"] = ["token", *(f"d_{n}" for n in range(len(row)))]


def strange_filter(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    shape = tuple(max(1, n) for n in (_shape(file, path) or (3,)))
    kept = _cleared(file, path)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk(shape)
    number = draw.choice([300, 32001, 32015, 257, 65000])
    layout.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    space = h5py.h5s.create_simple(shape)
    made = h5py.h5d.create(file.id, path.encode(), h5py.h5t.IEEE_F32LE, space, layout)
    made.write_direct_chunk((0,) * len(shape), draw.randbytes(draw.choice([0, 7, 4000])))
    h5py.Dataset(made).attrs.update(kept)


def bomb(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    """A few kilobytes that unpack to 600 MB."""
    shape = (150_000_000,) if draw.random() < 0.5 else (37_500_000, 4)
    rows = np.zeros((shape[0] // 10, *shape[1:]), dtype="f4")
    _put(file, path, shape=shape, dtype="f4", chunks=rows.shape, compression="gzip")
    made = file[path]
    made[: len(rows)] = rows
    packed = made.id.read_direct_chunk((0,) * len(shape))[1]
    for n in range(1, 10):
        made.id.write_direct_chunk((n * len(rows), *(0 for _ in shape[1:])), packed)


INSIDE: dict[str, Lie] = {
    "an external link": external_link,
    "a soft link": soft_link,
    "a cycle": cycle,
    "another object": other_object,
    "a strange type": strange_type,
    "an absurd shape": absurd_shape,
    "no space": no_space,
    "external storage": external_storage,
    "a virtual dataset": virtual,
    "a strange filter": strange_filter,
}

# --- lies in attributes and numbers

ODD_VALUES: tuple[Any, ...] = (
    *(
        "",
        "x",
        "../../secret",
        "\u202ex\x1b[2J",
        "a" * 60_000,
        b"\xff\xfe",
        "\0" if False else "nul",
    ),
    *(0, 1, -1, 2, 10**9, 2**62, -(2**62), 1.5, float("nan"), float("inf"), True, 1 + 2j),
    *([], [1, 2], ["a", "b"], ["token"], ["token", "d_model"], [[1, 2], [3, 4]], ["\x1b[31m"] * 2),
    np.zeros(9000, "i8"),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    h5py.Empty("f8"),
)
ROOT_ATTRIBUTES = (
    *("probekit_format", "first_example", "first_token", "n_layers", "model_name", "n_parameters"),
    *("config", "shard", "generate_cached_s", "generate_compared", "stopped_after", "device"),
    *("n_samples", "n_beams", "recorded"),
    *("\u202eodd\x1b[2J", "probekit_version", "dtype", "seed", "self_check"),
)
NUMBERS = ("probekit_format", "first_example", "first_token", "n_layers", "n_parameters", "seed")
SITE_NUMBERS = ("layer", "probe", "heads", "neurons", "n_nonfinite", "n_overflow")
NO_NUMBERS: tuple[Any, ...] = (
    *(float("inf"), float("-inf"), float("nan"), 0.5, "x", b"\xff", [0, 1], [float("inf")]),
    *(np.uint64(2**64 - 1), -(2**63), h5py.Empty("f8"), 1j),
)
SITE_ATTRIBUTES = ("axes", "rows", "layer", "portable", "dtype", "module_class", "probe", "\x1b[2J")


def _set(node: Any, name: str, draw: random.Random) -> None:
    value = draw.choice(ODD_VALUES)
    if draw.random() < 0.1:
        value = np.array([node.ref], dtype=h5py.ref_dtype)
    if name in node.attrs:
        del node.attrs[name]
    if draw.random() < 0.9:
        node.attrs[name] = value


def root_attribute(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    _set(file, draw.choice(ROOT_ATTRIBUTES), draw)


def site_attribute(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    sites = [f"{module}/{kind}" for module, group in file["sites"].items() for kind in group]
    _set(file[f"sites/{draw.choice(sites)}"], draw.choice(SITE_ATTRIBUTES), draw)


def no_number(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    """An attribute that is read as a number, and is none, or none that is finite."""
    sites = [f"sites/{module}/{kind}" for module, group in file["sites"].items() for kind in group]
    of_root = draw.random() < 0.5
    for node in [file] if of_root else [file[path] for path in sites]:
        node.attrs[draw.choice(NUMBERS if of_root else SITE_NUMBERS)] = draw.choice(NO_NUMBERS)


def other_column(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    """A column, or one of the columns of a table, of another type, with values that type has."""
    shape = _shape(file, path)
    if file[path].dtype.names is None:
        values = draw.choice(
            [
                *(np.full(shape, np.inf), np.full(shape, np.nan, "f4"), np.full(shape, b"x")),
                *(np.full(shape, 2**64 - 1, "u8"), np.full(shape, 1j), np.full(shape, True)),
                *(np.full(shape, -(2**63)), np.full(shape, 1, "u1"), np.full((*shape, 1), 1)),
            ]
        )
        _put(file, path, data=values)
        return
    table = file[path][:]
    types = {name: table.dtype[name] for name in table.dtype.names}
    name, value = draw.choice([*types]), draw.choice([np.inf, -1, b"x", 2**62, True])
    types[name] = np.asarray(value).dtype
    if draw.random() < 0.2:
        del types[draw.choice([*types])]
    changed = np.zeros(shape, list(types.items()))
    for kept in types:
        changed[kept] = value if kept == name else table[kept]
    _put(file, path, data=changed)


def numbers(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    """Other numbers, of the right type, in the place of the true ones."""
    dataset = file[path]
    if dataset.is_virtual or not isinstance(dataset, h5py.Dataset):
        values: Any = draw.choice([-1, 2**31 - 1, 10**6, 5])
        _put(file, path, data=np.full(_shape(file, path), values, dtype="i8"))
        return
    for row in range(len(dataset)):
        if draw.random() < 0.5 and dataset.dtype.kind in "iu":
            dataset[row] = draw.choice([-1, -(2**31), 2**31 - 1, 0, 1, 7])
        elif dataset.dtype.names:
            changed = dataset[row]
            changed["order"] = draw.choice([-1, 2**31 - 1, 1])
            dataset[row] = changed
        elif dataset.dtype.kind == "O":
            dataset[row] = draw.choice([b"\xff\xfe", "\u202e\x1b[2J", "", "a" * 10**6])


def names(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    """Names that move the cursor, turn the text around, or are no text."""
    name: Any = draw.choice(
        ["\x1b[2J\x1b[31m", "\u202eevil", "a" * 60_000, b"\xff\xfe", "..", ".", " ", "a\nb", "é"]
    )
    group = file.create_group(b"sites/" + (name if isinstance(name, bytes) else name.encode()))
    if draw.random() < 0.8:
        group["output"] = np.zeros((6, 2), "f4")
        group["output"].attrs["axes"] = ["token", draw.choice(["d", "\x1b[2J"])]
        group[b"\xff"] = [1]


def many(file: h5py.File, path: str, place: Place, draw: random.Random) -> None:
    for number in range(3000):
        file.create_group(f"sites/m.{number}")["output"] = 1


ELSEWHERE: dict[str, Lie] = {
    "a root attribute": root_attribute,
    "a site's attribute": site_attribute,
    "odd names": names,
}

# --- lies beside the files

Spoil = Callable[[Place], None]


def _linked(name: str) -> Spoil:
    def spoil(place: Place) -> None:
        path = place.folder / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
        path.symlink_to(place.secret if path.suffix == ".h5" else place.trap)

    return spoil


def _pipe(name: str) -> Spoil:
    def spoil(place: Place) -> None:
        (place.folder / name).unlink(missing_ok=True)
        os.mkfifo(place.folder / name)

    return spoil


def _with(name: str, content: bytes, *, gone: str | None = None) -> Spoil:
    def spoil(place: Place) -> None:
        if gone is not None:
            (place.folder / gone).unlink()
        (place.folder / name).write_bytes(content)

    return spoil


def _folder(name: str) -> Spoil:
    def spoil(place: Place) -> None:
        (place.folder / name).unlink()
        (place.folder / name).mkdir()

    return spoil


def _huge(place: Place) -> None:
    with (place.folder / "trace.h5").open("r+b") as file:
        file.truncate(1 << 40)


def _swapped(place: Place) -> None:
    first, second = (place.folder / "shards" / f"0000{n}.h5" for n in (0, 1))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


_DEEP = b"[" * 100_000 + b"]" * 100_000
_JSON: dict[str, bytes] = {
    "deep JSON": _DEEP,
    "no JSON": b"{",
    "a list": b"[1]",
    "a number": b"1e999",
    "no text": b"\xff\xfe\0",
    "nothing": b"",
    "an identity that is none": b'{"identity": 5}',
    "shards that are none": b'{"identity": {"shards": 5}}',
    "a spec that is none": b'{"spec": 5, "shard": "x"}',
    "a spec of other keys": b'{"spec": {"number": 1, "evil": 2}}',
    "a spec of other types": b'{"spec": {"number": "x", "first_example": [], "n_examples": null, '
    b'"first_token": {}, "n_tokens": 1e999, "n_rows": 5}}',
    "a large number": b'{"identity": {"shards": [' + b"9" * 100_000 + b"]}}",
}
BESIDE: dict[str, Spoil] = {
    **{
        f"{name} is a link": _linked(name)
        for name in ("trace.h5", "shards/00000.h5", "shards", "inputs.h5")
    },
    **{
        f"{name} is a pipe": _pipe(name)
        for name in ("trace.h5", "shards/00001.h5", "run.json", "inputs.h5")
    },
    "run.json is a pipe, no index": lambda p: (
        _pipe("run.json")(p),
        (p.folder / "trace.h5").unlink(),
    ),
    "run.json is a link, no index": lambda p: (
        _linked("run.json")(p),
        (p.folder / "trace.h5").unlink(),
    ),
    "a shard's record is a pipe": _pipe("shards/00000.json"),
    "trace.h5 is a folder": _folder("trace.h5"),
    "a shard is a folder": _folder("shards/00000.h5"),
    "trace.h5 is a terabyte": _huge,
    "shards are swapped": _swapped,
    "inputs.h5 is noise": _with("inputs.h5", random.Random(1).randbytes(5000)),
    "trace.h5 is noise": _with("trace.h5", random.Random(0).randbytes(5000)),
    "trace.h5 is a signature": _with("trace.h5", b"\x89HDF\r\n\x1a\n" + bytes(600)),
    "trace.h5 is a pickle": _with("trace.h5", b"\x80\x04\x95cos\nsystem\n(S'x'\ntR."),
    **{f"run.json is {k}": _with("run.json", v, gone="trace.h5") for k, v in _JSON.items()},
    **{f"a shard's record is {k}": _with("shards/00000.json", v) for k, v in _JSON.items()},
}


ODD_JSON: tuple[Any, ...] = (
    *("abc", "", "\u202e\x1b[2J", None, True, 0, -1, 1.5, 2**63, 10**30, float("inf")),
    *(float("nan"), [], [1], [[1, 2]], [[float("inf"), 1]], {}, {"x": [1]}),
    "a: &a [x, x]\nb: &b [*a, *a]\nc: [" + "*b, " * 90_000 + "]",
)


def odd_record(name: str) -> Callable[[Place, random.Random], None]:
    """Give a lie in a record that has its own checksum, of its own making."""

    def apply(place: Place, draw: random.Random) -> None:
        path = place.folder / name
        record = read_record(path)
        for _ in range(draw.choice([1, 1, 2])):
            here, key = draw.choice([*_keys(record)])
            here[key] = draw.choice(ODD_JSON)
        write_record(path, record)

    return apply


def _keys(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give every place in a record: what it is in, and under which key."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in [*inside]:
        yield value, key
        if isinstance(item, dict | list):
            yield from _keys(item)


RECORDS = ("shards/00000.json", "shards/00001.json", "trace.json", "run.json", "inputs.json")

# --- all of it


@dataclass(frozen=True, slots=True)
class HostileTrace:
    """A way to lie, and what of it is left to chance."""

    name: str
    lie: Callable[[Place, random.Random], None]


def _in_file(kind: str, lie: Lie, file: str, path: str) -> HostileTrace:
    def apply(place: Place, draw: random.Random) -> None:
        with h5py.File(place.folder / file, "r+") as opened:
            lie(opened, path, place, draw)
        # A stranger leaves no record that does not fit: nothing is checked against it.
        (place.folder / file).with_suffix(".json").unlink(missing_ok=True)

    return HostileTrace(f"{kind} at {path} in {file}" if path else f"{kind} in {file}", apply)


def catalogue(base: Path) -> list[HostileTrace]:
    """Give every way to lie in a trace, each at every place where it can be told."""
    found = [HostileTrace(name, lambda p, _, s=spoil: s(p)) for name, spoil in BESIDE.items()]
    for file in ("trace.h5", "shards/00000.h5"):
        with h5py.File(base / file, "r") as opened:
            datasets, groups = _datasets(opened), _groups(opened)
        for kind, lie in INSIDE.items():
            places = (*datasets, *groups) if kind in _OF_GROUPS else datasets
            found += [_in_file(kind, lie, file, path) for path in places]
        tables = [path for path in datasets if not path.startswith("sites/")]
        found += [_in_file("other numbers", numbers, file, path) for path in tables]
        found += [_in_file("another column", other_column, file, path) for path in tables] * 2
        executions = [path for path in tables if path.startswith("execution/forwards")]
        found += [_in_file("another column", other_column, file, path) for path in executions] * 8
        found += [_in_file(kind, lie, file, "") for kind, lie in ELSEWHERE.items()] * 12
        found += [_in_file("no number", no_number, file, "")] * 40
        found += [_in_file("a bomb", bomb, file, path) for path in tables[::3]]
    found += [HostileTrace(f"odd values in {name}", odd_record(name)) for name in RECORDS] * 25
    return [*found, _in_file("many sites", many, "trace.h5", "sites")]


_OF_GROUPS = ("an external link", "a soft link", "a cycle", "another object")
