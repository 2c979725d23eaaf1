"""A service with two people, each with a key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import serving


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
    settings = {"TELEPATCH_GATEWAY_HIGH_PRIORITY": "ada, eve", "TELEPATCH_WORKER_SLICE_SECONDS": "0.5"}
    with serving(home, ["gpt2-random"], settings=settings) as url:
        yield Shared(url, *(_key(home, name) for name in ("ada", "bob")))


def _key(home: Path, name: str) -> str:
    """A key of a person of the service in that folder."""
    command = [sys.executable, "-P", "-m", "telepatch", "keys", "add", name, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
