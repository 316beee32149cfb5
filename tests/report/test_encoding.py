"""Attention weights as codes: how far what is read back may lie from what was written."""

import zlib

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from probekit.report.encoding import (
    NOT_A_NUMBER,
    Scale,
    are_weights,
    kept_of,
    squeezed,
    thumbnails_of,
)

WEIGHTS = arrays(np.float32, st.integers(1, 200), elements=st.floats(0, 1, width=32))


def read(codes, scale):
    """What a code stands for, by the letter of Scale's docstring."""
    first, second = codes // 256, codes % 256
    above = 256.0 * (first - scale.levels) + second
    even = scale.below + above / scale.steps * (1 - scale.below)
    return np.where(first < scale.levels, first / scale.levels * scale.below, even)


@given(WEIGHTS)
def test_fine_codes_are_within_half_a_ten_thousandth(weights):
    scale = Scale.fine()
    found = read(scale.codes(weights).astype(np.int64), scale)
    assert np.abs(found - weights).max() <= 5e-5 + 1e-8
    assert scale.says() == "within 0.00005 of the trace's"


@given(WEIGHTS, st.integers(1, 5000))
def test_coarse_codes_are_as_close_as_they_say(weights, n_tokens):
    scale = Scale.coarse(n_tokens)
    off = np.abs(read(scale.codes(weights).astype(np.int64), scale) - weights)
    small = weights < 0.02
    assert off[~small].max(initial=0) <= 5e-5 + 1e-8
    assert off[small].max(initial=0) <= scale.error() + 1e-8
    said = float(scale.says().split("within ")[2].split()[0])
    assert scale.error() <= said <= scale.error() + 1e-5


@pytest.mark.parametrize("n_tokens", [16, 128, 512, 1000])
def test_attention_that_is_spread_evenly_is_four_steps_from_nothing(n_tokens):
    scale = Scale.coarse(n_tokens)
    found = read(scale.codes(np.array([1 / n_tokens])).astype(np.int64), scale)
    assert found == pytest.approx(1 / n_tokens, rel=0.25)


@pytest.mark.parametrize("scale", [Scale.fine(), Scale.coarse(512)])
def test_a_weight_that_is_not_a_number_has_a_code_of_its_own(scale):
    weights = np.array([0.0, np.nan, 1.0, 1.0005], dtype=np.float32)
    codes = scale.codes(weights)
    assert list(codes == NOT_A_NUMBER) == [False, True, False, False]
    assert read(codes[[0, 2, 3]].astype(np.int64), scale).tolist() == [0, 1, 1]


@pytest.mark.parametrize("scale", [Scale.fine(), Scale.coarse(512)])
def test_second_bytes_are_there_for_large_weights_only(scale):
    weights = np.array([0.001, 0.5, 0.019, np.nan, 0.02, 0.0])
    codes = scale.codes(weights)
    planes = scale.planes(codes)
    large = [1, 3, 4]
    assert b"".join(planes) == bytes((codes // 256).tolist()) + bytes((codes[large] % 256).tolist())
    assert list(map(len, planes)) == [6, 3]
    assert zlib.decompress(squeezed(planes)) == b"".join(planes)


def test_what_is_no_attention_is_told_apart():
    assert are_weights(np.array([0, 0.5, 1.0001, np.nan]))
    assert not are_weights(np.array([0, 1.5]))
    assert not are_weights(np.array([-0.1]))


def test_causal_heads_keep_earlier_keys_only():
    pattern = np.tril(np.full((2, 4, 4), 0.3, dtype=np.float32))
    causal, kept = kept_of(pattern, np.arange(4))
    assert causal
    assert kept.tolist() == np.tril(np.ones((4, 4), dtype=bool)).tolist()
    causal, kept = kept_of(pattern[:, [1, 3]], np.array([1, 3]))
    assert causal
    assert kept.sum(-1).tolist() == [2, 4]


def test_heads_that_look_ahead_keep_every_key():
    causal, kept = kept_of(np.full((1, 3, 3), 1 / 3, dtype=np.float32), np.arange(3))
    assert not causal
    assert kept.all()


@pytest.mark.parametrize("n_tokens", [1, 7, 32, 33, 100])
def test_a_thumbnails_tile_is_the_largest_weight_in_it(n_tokens):
    pattern = np.random.default_rng(n_tokens).uniform(0, 1, (2, n_tokens, n_tokens))
    small = thumbnails_of(pattern)
    n_cells = min(n_tokens, 32)
    assert small.shape == (2, n_cells, n_cells)
    edges = [place * n_tokens // n_cells for place in range(n_cells)] + [n_tokens]
    for y in range(n_cells):
        for x in range(n_cells):
            tile = pattern[1, edges[y] : edges[y + 1], edges[x] : edges[x + 1]]
            assert small[1, y, x] == round(255 * float(np.sqrt(tile.max())))


def test_a_line_one_cell_wide_is_still_a_line_in_a_thumbnail():
    small = thumbnails_of(np.eye(200)[None])
    assert (np.diagonal(small[0]) == 255).all()
    assert (small[0] > 0).sum() == 32
