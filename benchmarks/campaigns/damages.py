"""Damages: what can happen to the files of a trace, done to a copy of it and undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from campaigns.runs import MADE, Undisturbed

BYTES = ("byte", "byte of the structure")  # one byte: any, or one outside of the rows
FILES = ("sector", "cut", "grown", "swapped", "renamed", "missing")
KINDS = (*BYTES, *FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing done to a trace's files."""

    kind: str
    files: tuple[str, ...]  # that are not what they were
    site: str | None  # the site whose rows were hit, where it was one
    where: str  # for people

    @property
    def shards(self) -> set[int]:
        """The shards that are not what they were."""
        return {int(Path(f).name.partition(".")[0]) for f in self.files if f.startswith("shards/")}


@contextmanager
def damaged(run: Undisturbed, folder: Path, kind: str, chance: Random) -> Iterator[Damage]:
    """Damage a run's trace, or a copy of it, for the time of a block."""
    damage = _do(folder, kind, run, chance)
    try:
        yield damage
    finally:
        for name in damage.files:
            if name in run.files:
                (folder / name).write_bytes(run.files[name])
            else:
                (folder / name).unlink(missing_ok=True)


def _do(folder: Path, kind: str, run: Undisturbed, chance: Random) -> Damage:
    name = _pick(kind, run.files, chance)
    path, data = folder / name, bytearray(run.files[name])
    files, site, where = (name,), None, name
    if kind.startswith("byte"):
        rows = run.extents.get(name, {})
        at = chance.randrange(len(data))
        while kind != "byte" and any(at in extent for extent in rows.values()):
            at = chance.randrange(len(data))
        site = next((s for s, extent in rows.items() if at in extent), None)
        data[at] ^= chance.randint(1, 255)
        where = f"{name}, byte {at} of {len(data)}"
        path.write_bytes(data)
    elif kind == "sector":
        at = chance.randrange(0, len(data), 512)
        zeroed = data[:at] + bytes(len(data[at : at + 512])) + data[at + 512 :]
        if zeroed == data:  # nothing but zeros there
            zeroed[at] = 1
        path.write_bytes(zeroed)
        where = f"{name}, sector {at // 512}"
    elif kind == "cut":
        n_bytes = chance.randrange(len(data))
        path.write_bytes(data[:n_bytes])
        where = f"{name}, cut at {n_bytes} of {len(data)}"
    elif kind == "grown":
        path.write_bytes(data + chance.randbytes(chance.randint(1, 5000)))
    elif kind == "missing":
        path.unlink()
    else:
        files, where = _exchange(folder, name, kind, run.files, chance)
    return Damage(kind=kind, files=files, site=site, where=where)


def _pick(kind: str, before: Mapping[str, bytes], chance: Random) -> str:
    """Pick a file: half of the times each alike, else in proportion to its bytes."""
    names = sorted(before)
    if kind in ("swapped", "renamed"):
        names = [n for n in names if n.startswith("shards/") and not n.endswith(MADE)]
    weights = [1] * len(names) if chance.random() < 0.5 else [len(before[n]) for n in names]
    return chance.choices(names, weights)[0]


def _exchange(
    folder: Path, name: str, kind: str, before: Mapping[str, bytes], chance: Random
) -> tuple[tuple[str, ...], str]:
    """Swap a shard with another, or give it another number: one of its files, or both."""
    path = Path(name)
    numbers = sorted({int(Path(n).stem) for n in before if n.endswith(".h5") and "/" in n})
    others = [n for n in numbers if n != int(path.stem)] if kind == "swapped" else [len(numbers)]
    other = path.with_stem(f"{chance.choice(others):05d}")
    endings = chance.choice([(path.suffix,), (".h5", ".json")])
    pairs = [(path.with_suffix(e), other.with_suffix(e)) for e in endings]
    changed: list[str] = []
    for one, two in pairs:
        (folder / two).write_bytes(before[str(one)])
        if kind == "swapped":
            (folder / one).write_bytes(before[str(two)])
        else:
            (folder / one).unlink()
        changed += [str(one), str(two)]
    return tuple(changed), f"{kind} {', '.join(changed)}"
