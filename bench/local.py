"""The model in this process: bare, and under the engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from bench.stack import card_path, prompt
from telepatch_protocol.graph import Graph
from telepatch_worker.cards import read_card
from telepatch_worker.engine import Engine, Task
from telepatch_worker.load import Loaded, load
from telepatch_worker.settings import Settings


class Local:
    """One model with a prompt of 16 tokens.

    Args:
        model: id of a card.
        threads: that PyTorch may use.
    """

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = model
        self.bare_model = self.another()
        self.card = self.bare_model.card
        self.ids = prompt(self.card.vocabulary)

    @cached_property
    def engine(self) -> Engine:
        """The engine, on a copy of its own, once somebody asks for it."""
        return Engine(self.another())

    def another(self) -> Loaded:
        """A copy of the model with the same weights."""
        return load(read_card(card_path(self.model)), cache=Settings.from_environment().cache)

    def bare(self) -> None:
        """The forward alone, all logits."""
        with torch.no_grad():
            self.bare_model.module(input_ids=torch.tensor([self.ids]), use_cache=False)

    def bare_batch(self, rows: int) -> Callable[[], None]:
        """The forward of several rows."""

        def run() -> None:
            with torch.no_grad():
                self.bare_model.module(input_ids=torch.tensor([self.ids] * rows), use_cache=False)

        return run

    def through_engine(self, jobs: int = 1) -> Callable[[], None]:
        """Jobs that each read a layer, zero an MLP position and save the last logits."""
        tasks = [Task(f"job-{number}", self.graph()) for number in range(jobs)]

        def run() -> None:
            for outcome in self.engine.run(tasks):
                if outcome.error is not None:
                    raise outcome.error

        return run

    def graph(self) -> Graph:
        """The same job as `bench.stack` sends."""
        last: dict[str, Any] = {"invoke": "x", "index": [":", -1]}
        return Graph.model_validate(
            {
                "model": {"id": self.card.id},
                "runs": [{"id": "run", "invokes": [{"id": "x", "ids": self.ids}]}],
                "nodes": [
                    {"kind": "get", "id": "h", "site": "blocks.2:resid_post", "invoke": "x"},
                    {"kind": "set", "id": "w", "site": "blocks.3.mlp:output", "value": 0, **last},
                    {"kind": "get", "id": "z", "site": "unembed:output", **last},
                ],
                "saves": {"h": "$h", "z": "$z"},
            }
        )
