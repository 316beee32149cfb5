"""What every test shares: no network, two threads, draws that do not change from run to run."""

import gc
import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from probekit import models
from probekit.capture import selfcheck
from probekit.models import modulerows

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What lands depends on neither luck nor the machine's mood; `make test-slow` draws anew.
_SLOW: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **_SLOW)
settings.register_profile("anew", derandomize=False, **_SLOW)
settings.load_profile("same")


class Unsynced:
    """Stand for `os.fsync`, and wait for no disk: no test can see what a power cut would lose.

    Programs that tests start sync, and so does what asks for `os.fsync.real`.
    """

    real = staticmethod(os.fsync)

    def __call__(self, fd: int) -> None:
        os.fstat(fd)  # there must be something to sync


os.fsync = Unsynced()  # type: ignore[assignment]


class SkeletonsOnce:
    """Build the skeleton of an architecture once a process: a third of the time went there.

    What asks `probekit.models`, or for a list of modules, has it from here, and what asks
    `probekit.models.skeleton` anew.
    """

    def __init__(self) -> None:
        self._built: dict[tuple[Any, ...], Any] = {}

    def __call__(self, hf_config: Any, dtype: Any, attention: str = "auto", **more: Any) -> Any:
        from probekit.models.skeleton import build_skeleton

        said = {**hf_config.to_dict(), "_name_or_path": ""}
        own = (type(hf_config), hf_config._attn_implementation, getattr(hf_config, "_own_code", 0))
        # Where the config says the model's name is for messages of what cannot be built.
        asked = (dtype, attention, *sorted((k, v) for k, v in more.items() if k != "where"))
        key = (*own, json.dumps(said, sort_keys=True, default=repr), *asked)
        if key not in self._built:
            self._built[key] = build_skeleton(hf_config, dtype, attention, **more)
        return replace(self._built[key], hf_config=hf_config)


models.build_skeleton = SkeletonsOnce()  # type: ignore[assignment]
modulerows.build_skeleton = models.build_skeleton


@pytest.fixture(autouse=True, scope="module")
def rehearsals_of_fixtures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the self-check out where a test has an oracle of its own: a fifth of the time."""
    with _rehearsed(request):
        yield


@pytest.fixture(autouse=True)
def rehearsals(request: pytest.FixtureRequest) -> Iterator[None]:
    """Likewise for a test alone."""
    with _rehearsed(request):
        yield


@contextmanager
def _rehearsed(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("rehearsed") is None:
        check = _unchecked
    else:
        from probekit.capture.selfcheck.checking import self_check as check
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selfcheck, "self_check", check)
        yield


def _unchecked(model: Any, plan: Any, record: Any, place: Any, company: str) -> Any:
    from probekit.capture.selfcheck import Checked

    return Checked(company=company, said={"self_check": "skipped"}, notes=())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are collected: nearly all of it stays, and 4 s go there."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make slow what a test marked `few` leaves out by default: it keeps both ends."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few") is not None:
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for same in tests.values():
        marker = same[0].get_closest_marker("few")
        assert marker is not None
        kept = {
            round(k * (len(same) - 1) / max(1, marker.args[0] - 1)) for k in range(marker.args[0])
        }
        for number, item in enumerate(same):
            if number not in kept:
                item.add_marker("slow")
