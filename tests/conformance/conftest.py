"""Each model twice with the same weights: under nnsight in this process, and behind a service in others."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from table import OWN

import telepatch
from telepatch.lab import Lab
from telepatch_worker import interleave  # before nnsight, whose mount on every object it takes back
from telepatch_worker.cards import read_card
from telepatch_worker.load import Loaded, load

MODELS = Path(__file__).parents[2] / "models"
CARDS = Path(__file__).parent / "cards"


Serving = Callable[[Path, list[str]], AbstractContextManager[str]]


class Twins:
    """Models by name, in both forms.

    Args:
        lab: of the service that all tests share.
        own: asked once, if ever, for the address of the service with models of this suite's own.
        cache: folder for weights.
    """

    def __init__(self, lab: Lab, own: Callable[[], Lab], cache: Path) -> None:
        assert interleave
        self._lab = lab
        self._own = own
        self._cache = cache
        self._made: dict[tuple[str, bool, bool], Any] = {}

    def telepatch(self, model: str) -> Any:
        """As a researcher gets it from the service."""
        return (self._own() if model in OWN else self._lab).model(model)

    def nnsight(self, model: str, *, bare: bool, eager: bool) -> Any:
        """As nnsight wraps the same weights here."""
        key = model, bare, eager
        if key not in self._made:
            file = read_card((CARDS if model in OWN else MODELS) / f"{model}.toml")
            changed = {"adapters": {}} | ({"attention": "eager"} if eager else {})
            loaded = load(file.model_copy(update=changed), cache=self._cache)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about children called `output`
                self._made[key] = _wrapped(loaded, bare)
        return self._made[key]


def _wrapped(loaded: Loaded, bare: bool) -> Any:
    from nnsight import NNsight, TransformersModel

    if bare:
        return NNsight(loaded.module)
    assert loaded.tokenizer is not None
    loaded.tokenizer.chat_template = loaded.file.chat_template
    return TransformersModel(loaded.module, tokenizer=loaded.tokenizer, task="text-generation")


@pytest.fixture(scope="session")
def twins(service_url: str, served: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ExitStack() as stack:

        @cache
        def own() -> Lab:
            cards = [str(CARDS / f"{model}.toml") for model in OWN]
            url = stack.enter_context(served(tmp_path_factory.mktemp("own"), cards))
            return stack.enter_context(telepatch.connect(url))

        yield Twins(stack.enter_context(telepatch.connect(service_url)), own, tmp_path_factory.mktemp("models"))
    torch.set_num_threads(before)
