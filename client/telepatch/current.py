"""The trace that is open here: one per thread and per task, so that two of them never mix."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telepatch.builder import Builder

_open: ContextVar[Builder | None] = ContextVar("telepatch_open_trace", default=None)


def open_builder() -> Builder | None:
    """What builds the graph of the open trace, if one is open."""
    return _open.get()


def set_open(builder: Builder | None) -> None:
    """Make `builder` the open one, or none."""
    _open.set(builder)
