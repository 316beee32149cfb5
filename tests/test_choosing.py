"""Sites by glob and by portable name."""

import pytest
from tiny_traces import site, write_trace

import probekit
from probekit.choosing import choose_sites
from probekit.errors import StoreError


@pytest.fixture
def trace(tmp_path):
    specs = [site(f"h.{n}", portable="resid_post", layer=n) for n in range(3)]
    specs += [site("h.0.attn", "pattern", row_shape=(2, 6), axes=("token", "head", "key"))]
    return probekit.open(write_trace(tmp_path, specs).folder)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, ["h.0/output", "h.0.attn/pattern", "h.1/output", "h.2/output"]),
        ("h.1", ["h.1/output"]),
        ("resid_post", ["h.0/output", "h.1/output", "h.2/output"]),
        (["h.2", "resid_post"], ["h.2/output", "h.0/output", "h.1/output"]),
        ("h.*.attn/pattern", ["h.0.attn/pattern"]),
        ([], []),
    ],
)
def test_sites_are_named_by_glob_and_by_portable_name(trace, asked, names):
    assert sorted(s.name for s in choose_sites(trace, asked)) == sorted(names)
    if asked is not None:
        assert [s.name for s in choose_sites(trace, asked)] == names


@pytest.mark.parametrize("asked", ["resid_pre", ["h.0", "h.7"]])
def test_what_means_nothing_is_an_error_that_says_what_is_there(trace, asked):
    with pytest.raises(
        StoreError, match=r"recorded: .*h.\{0..2\}/output.* \(portable names: resid_post\)"
    ):
        choose_sites(trace, asked)
