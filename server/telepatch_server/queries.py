"""Query parameters: a name that a call does not know is refused, so that a slip does not change what a request does."""

from __future__ import annotations

import difflib

from fastapi import Request

from telepatch_protocol.errors import BadArgument


def known_only(request: Request) -> None:
    """Refuse unknown query parameters.

    Raises:
        BadArgument: one that the call does not have; the message says which it has.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise BadArgument(
                f"this call has no query parameter '{name[:80]}'{hint}; it has: {', '.join(known) or 'none'}"
            )
