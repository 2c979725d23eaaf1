"""A job of the worker's own, run before it says that it is ready: small, and all the way through the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch

from telepatch_protocol.card import ModelCard
from telepatch_protocol.wire import from_dict
from telepatch_worker.load import Loaded
from telepatch_worker.named_models import probe_named
from telepatch_worker.plan import Task
from telepatch_worker.publish import sizes_for

ID: Final = "00000000-0000-7000-8000-000000000000"
_TOKENS: Final = 4


def first_task(loaded: Loaded) -> Task:
    """A job that reads the last output of one forward, of an input that only has to be one."""
    card = loaded.card
    named = _named(loaded)
    given: dict[str, Any] = {"ids": _ids(card)}
    if named:
        given = {"inputs": {name: f"$given_{at}" for at, name in enumerate(named)}}
    document: dict[str, Any] = {
        "protocol": [1, 0],
        "model": {"id": card.id},
        "runs": [{"id": "r", "invokes": [{"id": "a", **given}]}],
        "nodes": [{"kind": "get", "id": "last", "site": f"{_last(card)}:output", "invoke": "a"}],
        "saves": {"last": "$last"},
        "constants": {f"given_{at}": {"tensor": name} for at, name in enumerate(named)},
    }
    return Task(ID, from_dict(document), attachment=named)


def _ids(card: ModelCard) -> list[int]:
    return [at % card.vocabulary for at in range(min(_TOKENS, card.limits.max_positions))] if card.vocabulary else []


def _named(loaded: Loaded) -> dict[str, torch.Tensor]:
    inputs = loaded.card.inputs
    if not inputs:
        return {}
    size = sizes_for(loaded.module, loaded.card.limits.max_positions, inputs)[0]
    return probe_named(inputs, replace(size, rows=1), torch.device("cpu"))


def _last(card: ModelCard) -> str:
    """The module, below the whole, that is left last, of those whose output tells rows apart; else the whole."""
    fired = [
        (module.output.order, module.path)
        for module in card.modules
        if module.output and module.path and module.output.leaves[module.output.primary].axes[:1] == ("row",)
    ]
    return max(fired)[1] if fired else ""
