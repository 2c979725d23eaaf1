"""A service with two people, each with a key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.conftest import serving

from telepatch_server.desk import Where, desk


@dataclass(frozen=True)
class Shared:
    """Where it is, and the keys: `ada` may have high priority."""

    url: str
    ada: str
    bob: str


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """One service for all tests of how people get along."""
    home = tmp_path_factory.mktemp("shared")
    limits = {"requests_per_minute": "none", "jobs_queued": "none"}
    with desk(Where(home=home), {}) as found:
        for name in ("ada", "bob"):
            found.ask("PATCH", f"/people/{name}", {"limits": limits})
        keys = [str(found.ask("POST", "/keys", {"person": name})["key"]) for name in ("ada", "bob")]
    settings = {"TELEPATCH_GATEWAY_HIGH_PRIORITY": "ada, eve", "TELEPATCH_WORKER_SLICE_SECONDS": "0.5"}
    with serving(home, ["gpt2-random"], settings=settings) as url:
        yield Shared(url, *keys)
