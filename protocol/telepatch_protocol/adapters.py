"""Adapters of a model by name: which is in force in a job."""

from __future__ import annotations

from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import UnknownName
from telepatch_protocol.graph import Graph


def adapter_of(graph: Graph, card: ModelCard) -> str | None:
    """The adapter that a job names, else that of the model for jobs that name none; None for the base model."""
    return card.adapter if graph.options.adapter is None else graph.options.adapter


def check_adapter(name: object, card: ModelCard) -> None:
    """Refuse an adapter that the model does not have.

    Raises:
        UnknownName: with the names of those that it has.
    """
    if name is None or name in card.adapters:
        return
    known = ", ".join(repr(one) for one in card.adapters)
    has = f"it has {known}" if known else "it has none; leave 'adapter' out"
    raise UnknownName(f"model '{card.id}' has no adapter {name!r}; {has}")
