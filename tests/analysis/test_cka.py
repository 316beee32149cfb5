"""Linear CKA in blocks, against its formulas written out on whole arrays."""

import numpy as np
import pytest
from cka_by_hand import by_hand, debiased_by_hand
from tiny_traces import site, write_trace

import probekit
from probekit.analysis import cka
from probekit.analysis.cka import Rows, linear_cka
from probekit.trace import rowblocks as blocks

LENGTHS = ((30, 1, 50), (20,), (40, 6))
N = 147


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 200)
    monkeypatch.setattr(cka, "_TILE", 5)


def drawn(*shapes, seed=0):
    """Arrays that have something in common, far from the origin, their sizes apart."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(N, 4))
    arrays = []
    for number, shape in enumerate(shapes):
        width = int(np.prod(shape))
        own = shared @ draw.normal(size=(4, width)) + draw.normal(size=(N, width))
        arrays.append((own * 10.0**number + 40).reshape(N, *shape).astype("float32"))
    return arrays


def sites_of(folder, *arrays):
    specs = [site(f"s{n}", row_shape=v.shape[1:]) for n, v in enumerate(arrays)]
    values = {spec.name: v for spec, v in zip(specs, arrays, strict=True)}
    trace = probekit.open(write_trace(folder, specs, LENGTHS, values=values).folder)
    return [trace[spec.name] for spec in specs]


@pytest.fixture(params=["_over_rows", "_over_dimensions"])
def way(request, monkeypatch):
    monkeypatch.setattr(
        cka, "_inner_squares", lambda rows, pairs: getattr(cka, request.param)(rows, pairs)
    )
    return request.param


def test_both_ways_give_the_formulas_values(tmp_path, way):
    arrays = drawn((12,), (3, 4), (7,), (12,))
    sites = sites_of(tmp_path, *arrays)
    found = linear_cka(sites[:2], sites[2:])
    for i, j in np.ndindex(2, 2):
        x, y = arrays[i], arrays[2 + j]
        assert found.plain[i, j] == pytest.approx(by_hand(x, y), rel=1e-9)
        assert found.debiased[i, j] == pytest.approx(debiased_by_hand(x, y), rel=1e-7)
    assert (found.n_rows, found.n_left_out) == (N, 0)


def test_rows_with_a_value_that_is_not_finite_are_left_out_on_all_sides(tmp_path, way):
    arrays = drawn((12,), (7,))
    arrays[0][3, 2], arrays[1][100, 0], arrays[1][101, 0] = np.nan, np.inf, -np.inf
    sites = sites_of(tmp_path, *arrays)
    found = linear_cka(sites[:1], sites[1:])
    kept = np.delete(np.arange(N), [3, 100, 101])
    assert found.plain[0, 0] == pytest.approx(by_hand(*(v[kept] for v in arrays)), rel=1e-9)
    assert (found.n_rows, found.n_left_out) == (N - 3, 3)


def test_cka_does_not_see_rotation_size_and_shift(tmp_path):
    (x,) = drawn((12,))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    sites = sites_of(tmp_path, x, (x @ turn * 7 - 3).astype("float32"))
    assert linear_cka(sites[:1], sites[1:]).plain[0, 0] == pytest.approx(1, abs=1e-6)


def test_of_few_rows_only_the_debiased_value_tells_chance(tmp_path):
    draw = np.random.default_rng(0)
    x, y = (draw.normal(size=(N, 600)).astype("float32") for _ in range(2))
    sites = sites_of(tmp_path, x, y)
    found = linear_cka(sites[:1], sites[1:])
    assert found.plain[0, 0] > 0.75
    assert abs(found.debiased[0, 0]) < 0.05


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_rows_that_are_all_equal_have_no_cka(tmp_path, value):
    (x,) = drawn((12,))
    constant = np.full((N, 5), value, dtype="float32")
    sites = sites_of(tmp_path, x, constant)
    found = linear_cka(sites[:1], sites[1:])
    assert np.isnan(found.plain[0, 0])
    assert np.isnan(found.debiased[0, 0])


def test_one_number_a_row_gives_the_squared_correlation(tmp_path):
    x, y = drawn((), ())
    sites = sites_of(tmp_path, x, y)
    found = linear_cka(sites[:1], sites[1:]).plain[0, 0]
    assert found == pytest.approx(np.corrcoef(x.astype(float), y.astype(float))[0, 1] ** 2)


def test_no_block_is_larger_than_it_may_be(tmp_path, way, monkeypatch):
    sizes = []
    block = Rows.block
    monkeypatch.setattr(
        Rows, "block", lambda *given: sizes.append((b := block(*given)).nbytes) or b
    )
    sites = sites_of(tmp_path, *drawn((12,), (7,)))
    linear_cka(sites[:1], sites[1:])
    assert max(sizes) <= 8 * 200
    assert len(sizes) > 40


def test_the_way_with_less_to_compute_is_taken(tmp_path, monkeypatch):
    taken = []
    for name in ("_over_rows", "_over_dimensions"):
        monkeypatch.setattr(
            cka,
            name,
            lambda rows, pairs, name=name: taken.append(name) or np.ones((2, 2)),
        )
    draw = np.random.default_rng(0)
    for width in (3, 600):
        sites = sites_of(
            tmp_path / str(width), *(draw.normal(size=(N, width)).astype("f4") for _ in range(2))
        )
        linear_cka(sites[:1], sites[1:])
    assert taken == ["_over_dimensions", "_over_rows"]
