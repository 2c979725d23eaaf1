"""A connection to the service of all tests, and each small model twice: served, and by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from experiments import by_hand
from written_out import Plain

import telepatch
from telepatch.lab import Lab
from telepatch.model import Model


@pytest.fixture
def lab(service_url: str) -> Iterator[Lab]:
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


@pytest.fixture(params=["gpt2-random", "llama-random"])
def pair(request: pytest.FixtureRequest, lab: Lab) -> tuple[Model, Plain]:
    """A served model, and the same weights by hand."""
    return lab.model(request.param), by_hand(request.param)
