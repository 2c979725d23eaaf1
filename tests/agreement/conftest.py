"""The models of the agreement suite, each loaded once: for hooks, for nnsight, and under the engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from benches import Bench, card_file


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Bit for bit needs the same number of threads everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    cache = tmp_path_factory.mktemp("models")
    made: dict[str, Bench] = {}
    return lambda name: made.setdefault(name, Bench(card_file(name), cache))
