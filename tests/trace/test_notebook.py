"""What a notebook shows of a trace and of a site."""

from tags import Tags
from tiny_traces import ATTRIBUTES, site, write_trace

import probekit


def test_a_trace_lists_its_sites_by_layer(tmp_path):
    specs = [site(f"h.{n}.mlp", layer=n, portable="mlp_out") for n in range(12)]
    more = {"model_name": "/models/tiny & small", "model_class": "GPT2", "model_weights": "random"}
    made = write_trace(tmp_path, [*specs, site("lm_head")], attributes=ATTRIBUTES | more)
    page = probekit.open(made.folder)._repr_html_()
    assert Tags(page).cells[6:18] == [
        *("h.{0..11}.mlp/output", "12", "token=21, d_0=3", "float32", "252 B", "mlp_out"),
        *("lm_head/output", "1", "token=21, d_0=3", "float32", "252 B"),
        Tags(page).cells[17],
    ]
    assert "tiny &amp; small, random weights (GPT2), 6 examples, 21 tokens" in page
    assert "/models" not in page


def test_a_site_says_how_it_was_recorded(tmp_path):
    spec = site(
        "h.3.attn", "z", row_shape=(2, 4), axes=("token", "head", "d_head"), rows="last", layer=3,
        dtype="bfloat16", portable="z", details={"heads": [7, 0]},
    )  # fmt: skip
    pooled = site("x", rows="example", details={"pool": "mean"})
    trace = probekit.open(write_trace(tmp_path, [spec, pooled]).folder)
    cells = Tags(trace["h.3.attn/z"]._repr_html_()).cells
    said = dict(zip(cells[2::2], cells[3::2], strict=True))
    assert said["axes"] == "token=6, head=2, d_head=4"
    assert said["stored as"] == "bfloat16, 96 B"
    assert said["rows"] == "tokens, positions: last"
    assert (said["layer"], said["portable name"], said["heads"]) == ("3", "z", "[7, 0]")
    assert "one an example (mean)" in trace["x"]._repr_html_()


def test_a_site_of_attention_says_that_an_example_has_other_axes(tmp_path):
    axes = ("token", "head", "key")
    every, last = (
        site(f"h.{n}.attn", "pattern", row_shape=(2, 6), axes=axes, rows=rows)
        for n, rows in enumerate(("all", "last"))
    )
    pooled = site(
        "h.2.attn", "pattern", row_shape=(2, 6), axes=("example", *axes[1:]), rows="example"
    )
    trace = probekit.open(write_trace(tmp_path, [every, last, pooled, site("x")]).folder)
    for name in ("h.0.attn/pattern", "h.1.attn/pattern"):
        assert trace[name].example(1).shape[0] == 2 and trace[name][:].shape[1:] == (2, 6)
        assert "; example(i): [head, query, key]>" in repr(trace[name])
        assert "head, query, key: its own keys alone" in trace[name]._repr_html_()
    assert trace["h.2.attn/pattern"].example(1).shape == (2, 6)
    for name in ("h.2.attn/pattern", "x"):  # one row an example is as it stands in the site
        assert "example(" not in repr(trace[name]) + trace[name]._repr_html_()
