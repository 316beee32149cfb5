"""Optional libraries: used where they are there, asked for where they are not."""

import sys

import pytest

from probekit.errors import ProbekitError
from probekit.extras import load_extra


def test_a_library_that_is_there_is_loaded():
    import json.decoder

    assert load_extra("json.decoder", extra="x", purpose="y") is json.decoder


def test_one_that_is_not_is_asked_for():
    with pytest.raises(
        ProbekitError,
        match=r"to_pandas\(\) needs no_such_library, .*pip install 'probekit\[analysi",
    ):
        load_extra("no_such_library.part", extra="analysis", purpose="to_pandas()")


def test_one_that_is_there_and_broken_is_not_taken_for_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        load_extra("broken_library", extra="x", purpose="y")
    sys.modules.pop("broken_library", None)
