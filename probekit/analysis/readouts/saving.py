"""Saving: readouts in a safetensors file, one direction a layer.

Knows the file: a tensor `layer6` is a direction as `LayerReadout` has it, and the one entry of the
metadata, `probekit_readout`, is JSON of all else: biases, classes, method, model, sites, scores. A
file of a stranger's is refused where it says something else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from probekit import arguments
from probekit.analysis.readouts.result import LayerReadout, Readout
from probekit.analysis.readouts.targets import METHODS
from probekit.errors import StoreError
from probekit.store import explained, fsync, new_name
from probekit.version import __version__

Array = np.ndarray[Any, Any]

ENTRY = "probekit_readout"  # of the file's metadata; a lone one, since their order is not fixed
_FORMAT = 1
_SCALING = "none to be done: x * direction, summed, plus bias, of rows as they were recorded"
_NUMBERS = int | float


def save_readout(readout: Readout, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a readout into a file; see `Readout.save`."""
    from safetensors.numpy import save  # is one of the libraries that reading a trace never loads

    path = arguments.path("path", path)
    target = new_name(path, overwrite=overwrite, is_ours=("readout of probekit", _is_readout))
    tensors = {one.key: np.ascontiguousarray(one.direction) for one in readout.layers}
    data = save(tensors, {ENTRY: json.dumps(_said(readout))})
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with explained(path):
        try:
            part.write_bytes(data)
            fsync(part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return path


def load_readout(path: str | Path) -> Readout:
    """Read a readout that `Readout.save` wrote.

    Args:
        path: of the file.

    Raises:
        StoreError: if there is no such file, or it is none.

    Example:
        >>> probekit.load_readout("truth.safetensors").apply(trace).layer(6).scores
    """
    path = arguments.path("path", path)
    said, tensors = _read(path)
    try:
        return _readout(said, tensors)
    except (KeyError, TypeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise StoreError(f"{path}: is no readout of probekit: {what}") from error


def _said(readout: Readout) -> dict[str, Any]:
    plain = {f.name: getattr(readout, f.name) for f in fields(readout) if f.name != "layers"}
    layers = [
        {f.name: getattr(one, f.name) for f in fields(one) if f.name != "direction"}
        | {"bias": one.bias.tolist()}
        for one in readout.layers
    ]
    head = {"format": _FORMAT, "version": __version__, "scaling": _SCALING}
    return {**head, **plain, "layers": layers}


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Array]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        there = "is a folder" if path.is_dir() else "there is no such file"
        raise StoreError(f"{path}: {there}; expected a file that Readout.save wrote")
    try:
        with explained(path, "read"), safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:  # TypeError: a dtype that numpy has not
        raise StoreError(f"{path}: is no safetensors file of a readout: {error}") from error
    if ENTRY not in metadata:
        raise StoreError(f"{path}: is no readout of probekit: its metadata have no {ENTRY}")
    try:
        said = json.loads(metadata[ENTRY])
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: is no readout of probekit: {ENTRY} is no JSON") from error
    if not isinstance(said, dict) or said.get("format") != _FORMAT:
        raise StoreError(f"{path}: is of another format than {_FORMAT}; a newer probekit reads it")
    return said, tensors


def _readout(said: Mapping[str, Any], tensors: Mapping[str, Array]) -> Readout:
    row_shape = tuple(
        _typed(n, "row_shape", int) for n in _typed(said["row_shape"], "row_shape", list)
    )
    classes = tuple(_typed(c, "classes", str | bool | int | float) for c in
                    _typed(said["classes"], "classes", list))  # fmt: skip
    if said["method"] not in METHODS or len(classes) == 1:
        raise ValueError(f"method {said['method']!r} of {len(classes)} classes")
    n_outputs = (len(classes),) if len(classes) > 2 else ()
    layers = tuple(
        _layer(_typed(one, "layers", dict), tensors, n_outputs, row_shape)
        for one in _typed(said["layers"], "layers", list)
    )
    if not layers:
        raise ValueError("it has no layers")
    return Readout(
        **{name: _typed(said[name], name, str) for name in _TEXTS},
        **{name: _typed(said[name], name, str | None) for name in ("portable", "group", "pool")},
        **{name: _typed(said[name], name, int) for name in _WHOLE},
        baseline=float(_typed(said["baseline"], "baseline", _NUMBERS)),
        confidence=float(_typed(said["confidence"], "confidence", _NUMBERS)),
        split=_typed(said["split"], "split", str | float),
        row_axes=tuple(
            _typed(a, "row_axes", str) for a in _typed(said["row_axes"], "row_axes", list)
        ),
        row_shape=row_shape,
        classes=classes,
        notes=tuple(_typed(n, "notes", str) for n in _typed(said["notes"], "notes", list)),
        layers=layers,
    )


_TEXTS = ("path", "model", "place", "target", "method", "measure")
_WHOLE = ("seed", "n_train", "n_test", "n_train_rows", "n_test_rows")


def _layer(
    said: Mapping[str, Any],
    tensors: Mapping[str, Array],
    n_outputs: tuple[int, ...],
    row_shape: tuple[int, ...],
) -> LayerReadout:
    key = _typed(said["key"], "key", str)
    direction = tensors[key]
    if direction.shape != (*n_outputs, *row_shape) or direction.dtype != np.float32:
        wanted = [*n_outputs, *row_shape]
        raise ValueError(
            f"{key} is {list(direction.shape)} {direction.dtype}; expected {wanted} float32"
        )
    if not np.isfinite(direction).all():
        raise ValueError(f"{key} holds values that are not finite")
    bias = np.array(said["bias"], dtype=np.float64)
    if bias.shape != n_outputs or not np.isfinite(bias).all():
        raise ValueError(f"the bias of {key} is {said['bias']}")
    strength = _typed(said["strength"], "strength", _NUMBERS | None)
    return LayerReadout(
        key=key,
        site=_typed(said["site"], "site", str),
        layer=_typed(said["layer"], "layer", int | None),
        direction=direction,
        bias=bias,
        strength=None if strength is None else float(strength),
        **{name: float(_typed(said[name], name, _NUMBERS)) for name in ("score", "low", "high")},
        shuffled=tuple(
            float(_typed(s, "shuffled", _NUMBERS))
            for s in _typed(said["shuffled"], "shuffled", list)
        ),
    )


def _typed(value: Any, name: str, kind: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, _NUMBERS)):
        raise TypeError(f"{name} is {value!r}")
    return value


def _is_readout(path: Path) -> bool:
    """Say whether a file is a readout, so that it may be replaced by another."""
    try:
        _read(path)
    except StoreError:
        return False
    return True
