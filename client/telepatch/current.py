"""The trace that is open here: one per thread and per task, so that two of them never mix."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from telepatch_protocol.errors import TraceError

if TYPE_CHECKING:
    from telepatch.builder import Builder

_open: ContextVar[Builder | None] = ContextVar("telepatch_open_trace", default=None)


def open_builder() -> Builder | None:
    """What builds the graph of the open trace, if one is open."""
    return _open.get()


def needed_builder(what: str) -> Builder:
    """What builds the graph of the open trace, for something that belongs into one.

    Raises:
        TraceError: none is open.
    """
    found = open_builder()
    if found is None:
        raise TraceError(f"{what} is part of a job and none is open; use it inside 'with model.trace(...)'")
    return found


def set_open(builder: Builder | None) -> None:
    """Make `builder` the open one, or none."""
    _open.set(builder)
