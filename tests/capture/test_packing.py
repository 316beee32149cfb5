"""Padded batches and packed rows, against rows cut out by hand."""

from __future__ import annotations

from typing import Any

import by_hand
import numpy as np
import pytest
import torch
from by_hand import EXAMPLES
from hypothesis import given, strategies as st
from torch import Tensor

from probekit.capture.rows.packing import Batch, make_batch, pack, padded
from probekit.errors import CaptureError
from probekit.inputs import NO_SPOTS
from probekit.planning import to_storage

CPU = torch.device("cpu")
EVERY = frozenset({"input_ids", "attention_mask", "position_ids", "use_cache"})
CHOICES = ("all", "first", "last", "0,-1", "1:3", "::2", "example")
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]


def batch_of(
    numbers: list[int],
    examples: Any = EXAMPLES,
    accepted: frozenset[str] = EVERY,
    choices: Any = CHOICES,
) -> Batch:
    return make_batch(
        np.array(numbers),
        np.array([len(ids) for ids in examples]),
        np.array([token for ids in examples for token in ids], dtype=np.int32),
        choices=NO_SPOTS,
        kept=choices,
        accepted=accepted,
        device=CPU,
    )


def cut(values: Tensor, numbers: list[int], keep: Any = lambda positions: positions) -> Tensor:
    """Cut [batch, pos, ...] by hand into the kept rows of real tokens."""
    rows = [
        values[place, position]
        for place, number in enumerate(numbers)
        for position in keep(range(len(EXAMPLES[number])))
    ]
    return torch.stack(rows)


# --- batches


def test_batches_are_padded_on_the_right_with_explicit_positions_and_mask():
    batch = batch_of([3, 4, 0])
    expected = by_hand.pad([EXAMPLES[3], EXAMPLES[4], EXAMPLES[0]])
    for name, tensor in expected.items():
        assert torch.equal(batch.arguments[name], tensor), name
    assert batch.arguments["use_cache"] is False
    assert (batch.numbers, batch.n_tokens, batch.shape) == ((3, 4, 0), 13 + 2 + 5, (3, 13))


def test_only_what_the_forward_accepts_is_given():
    batch = batch_of([0, 1], accepted=frozenset({"input_ids", "attention_mask"}))
    assert set(batch.arguments) == {"input_ids", "attention_mask"}


def test_a_batch_of_one_has_no_padding():
    batch = batch_of([2])
    assert batch.arguments["input_ids"].tolist() == [list(EXAMPLES[2])]
    assert batch.arguments["attention_mask"].min() == 1


def test_token_zero_is_a_token_like_any_other():
    batch = batch_of([0, 1], examples=[(0, 0), (0, 5, 0)], choices=["all"])
    assert batch.arguments["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    rows = pack(batch.arguments["input_ids"], ("batch", "position"), batch, batch.rows["all"])
    assert rows.tolist() == [0, 0, 0, 5, 0]


# --- rows

NUMBERS = [1, 4, 0, 5]
SHAPE = (4, 13)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randint(0, 2**15, shape, generator=torch.Generator().manual_seed(0))
    return values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_packs_to_the_same_rows(dtype):
    batch, values = batch_of(NUMBERS), drawn(*SHAPE, 6, 7, dtype=dtype)
    expected = cut(values, NUMBERS)
    layouts = {
        ("batch", "position", 6, 7): values,
        ("token", 6, 7): values.reshape(4 * 13, 6, 7),
        (6, "token", 7): values.reshape(4 * 13, 6, 7).transpose(0, 1),
        ("batch", 6, "position", 7): values.transpose(1, 2),
        ("position", "batch", 6, 7): values.transpose(0, 1),
        (6, "batch", "position", 7): values.movedim(2, 0),
    }
    for axes, tensor in layouts.items():
        for shaped in (tensor, tensor.contiguous()):
            rows = pack(shaped, axes, batch, batch.rows["all"])
            assert rows.dtype == dtype
            assert torch.equal(rows, expected), axes


@pytest.mark.parametrize(
    ("choice", "keep"),
    [
        ("all", lambda p: p),
        ("first", lambda p: p[:1]),
        ("last", lambda p: p[-1:]),
        ("0,-1", lambda p: [p[0], p[-1]]),
        ("1:3", lambda p: p[1:3]),
        ("::2", lambda p: p[::2]),
    ],
)
def test_choices_of_positions_keep_those_rows(choice, keep):
    batch, values = batch_of(NUMBERS), drawn(*SHAPE, 3)
    rows = batch.rows[choice]
    assert torch.equal(
        pack(values, ("batch", "position", 3), batch, rows), cut(values, NUMBERS, keep)
    )
    counts = [len(keep(range(len(EXAMPLES[number])))) for number in NUMBERS]
    assert list(rows.counts) == counts
    assert list(rows.starts) == [sum(counts[:n]) for n in range(4)]


def test_a_tensor_without_positions_keeps_one_row_an_example():
    batch, values = batch_of(NUMBERS), drawn(4, 3)
    rows = batch.rows["example"]
    assert torch.equal(pack(values, ("batch", 3), batch, rows), values)
    assert torch.equal(pack(values.T, (3, "batch"), batch, rows), values)
    assert (rows.starts, rows.counts) == ((0, 1, 2, 3), (1, 1, 1, 1))


def test_one_number_a_token_packs_to_a_column():
    batch = batch_of(NUMBERS)
    rows = pack(batch.arguments["input_ids"], ("batch", "position"), batch, batch.rows["all"])
    assert rows.tolist() == [token for number in NUMBERS for token in EXAMPLES[number]]


def test_padding_never_reaches_a_row():
    batch, values = batch_of(NUMBERS), torch.full((*SHAPE, 2), float("nan"))
    for place, number in enumerate(NUMBERS):
        values[place, : len(EXAMPLES[number])] = number
    for choice in ("all", "first", "last", "0,-1", "1:3", "::2"):
        rows = pack(values, ("batch", "position", 2), batch, batch.rows[choice])
        assert not rows.isnan().any(), choice


def test_packed_rows_are_copies():
    batch, values = batch_of(NUMBERS), drawn(*SHAPE, 3)
    rows = pack(values, ("batch", "position", 3), batch, batch.rows["all"])
    expected = rows.clone()
    values.zero_()
    assert torch.equal(rows, expected)


def test_rows_that_lie_in_runs_are_read_in_place():
    batch, values = batch_of(NUMBERS), drawn(*SHAPE, 3)
    flat = padded(values, ("batch", "position", 3), batch)
    assert flat is not None and flat.data_ptr() == values.data_ptr()
    starts = batch.rows["all"].padded_starts
    parts = [
        flat[start : start + len(EXAMPLES[number])]
        for start, number in zip(starts, NUMBERS, strict=True)
    ]
    assert torch.equal(torch.cat(parts), cut(values, NUMBERS))
    assert batch.rows["last"].padded_starts is None, "these do not lie in runs"


@pytest.mark.parametrize(
    ("axes", "make"),
    [
        (("batch", 3, "position", 2), lambda: drawn(4, 3, 13, 2)),
        (("batch", "position", 3), lambda: drawn(13, 4, 3).transpose(0, 1)),
        (("batch", "position", 3), lambda: drawn(4, 13, 6)[..., ::2]),
        (("batch", "position", 3), lambda: drawn(4, 26, 3)[:, ::2]),
        (("batch", "position", 3), lambda: drawn(1, 13, 3).expand(4, -1, -1)),
    ],
)
def test_a_tensor_whose_places_are_scattered_is_not_read_in_place(axes, make):
    assert padded(make(), axes, batch_of(NUMBERS)) is None
    values = make()
    moved = values.movedim(axes.index("position"), 1)
    rows = pack(values, axes, batch_of(NUMBERS), batch_of(NUMBERS).rows["all"])
    assert torch.equal(rows, cut(moved, NUMBERS))


@pytest.mark.parametrize(
    ("axes", "shape", "said"),
    [
        (("batch", "position", 3), (4, 12, 3), r"the plan says \[4, 13, 3\], .* \[4, 12, 3\]"),
        (("batch", "position", 3), (4, 13, 4), r"the plan says \[4, 13, 3\], .* \[4, 13, 4\]"),
        (("token", 3), (4, 13, 3), r"the plan says \[52, 3\], the module gave \[4, 13, 3\]"),
        (("batch", 3), (5, 3), r"the plan says \[4, 3\], the module gave \[5, 3\]"),
    ],
)
def test_another_shape_than_planned_is_an_error(axes, shape, said):
    batch = batch_of(NUMBERS)
    with pytest.raises(CaptureError, match=said):
        pack(drawn(*shape), axes, batch, batch.rows["all"])
    with pytest.raises(CaptureError, match=said):
        padded(drawn(*shape), axes, batch)


def test_gradients_are_left_behind():
    batch, values = batch_of(NUMBERS), torch.randn(*SHAPE, 3, requires_grad=True)
    rows = pack(values * 2, ("batch", "position", 3), batch, batch.rows["all"])
    assert not rows.requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_bits_are_the_tensors_bits(dtype):
    values = drawn(5, 3, dtype=dtype)
    stored = to_storage(values)
    assert stored.tobytes() == by_hand.tensor_bits(values)
    assert stored.dtype == (np.uint16 if dtype == torch.bfloat16 else values.numpy().dtype)


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(lengths=lengths, data=st.data())
def test_any_batch_gives_every_token_once_and_in_order(lengths, data):
    firsts = [sum(lengths[:n]) for n in range(len(lengths))]
    examples = [range(first, first + n) for first, n in zip(firsts, lengths, strict=True)]
    numbers = data.draw(st.permutations(range(len(lengths))))
    numbers = list(numbers[: data.draw(st.integers(1, len(lengths)))])
    batch = batch_of(numbers, examples=examples, choices=["all"])
    rows = pack(batch.arguments["input_ids"], ("batch", "position"), batch, batch.rows["all"])
    assert rows.tolist() == [token for number in numbers for token in examples[number]]
    places = pack(batch.arguments["position_ids"], ("batch", "position"), batch, batch.rows["all"])
    assert places.tolist() == [p for number in numbers for p in range(lengths[number])]
