"""Sessions: several runs of the model as one job."""

from __future__ import annotations

from telepatch.blocks import Block
from telepatch.builder import Builder
from telepatch.lines import here
from telepatch_protocol.errors import TraceError


class Session(Block):
    """Several traces as one job: every ``with model.trace(...)`` inside is one more run of it.

    Values flow from one trace to the others without being saved; everything is sent when the block ends.
    """

    what = "session"

    def _fits(self, other: Builder) -> TraceError | None:
        place = here()
        where = "" if place is None else f" at {place.short}"
        return TraceError(
            f"a session is a job of its own, and a {other.scope.what} is open since {other.opened}; end that block "
            f"before the session{where} begins"
        )
