"""One model in three copies with the same weights: for hooks, for nnsight, and under the engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from telepatch_worker.cards import CardFile, read_card
from telepatch_worker.engine import Engine
from telepatch_worker.load import Loaded, load

MODELS = Path(__file__).parents[2] / "models"


@dataclass
class Bench:
    """One model in three copies with the same weights."""

    file: CardFile
    cache: Path

    @cached_property
    def plain(self) -> Loaded:
        return load(self.file, cache=self.cache)

    @cached_property
    def engine(self) -> Engine:
        return Engine(load(self.file, cache=self.cache))

    @cached_property
    def envoy(self) -> Any:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nnsight import NNsight

            return NNsight(load(self.file, cache=self.cache).module)


VARIANTS = {"eager": {"attention": "eager"}, "bfloat16": {"dtype": "bfloat16"}}
"""What a model's name ends in, for a committed card changed in one thing."""


def card_file(model: str) -> CardFile:
    """A committed card, or a variant of one: ``gpt2-eager`` is gpt2-random under the attention that has patterns."""
    family, _, variant = model.partition("-")
    file = read_card(MODELS / f"{family}-random.toml")
    return file.model_copy(update={"id": model, **VARIANTS[variant]}) if variant in VARIANTS else file
