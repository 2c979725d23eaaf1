"""Reading what another part of the service says, which may be newer: fields that are not known here are left out.

Requests are read strictly, so that nothing that somebody asks for is quietly ignored. Answers, events, cards and what
workers say of themselves are read like this, so that parts of different versions work together while they are updated.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)

_UNKNOWN = "extra_forbidden"


def understood(kind: type[T], found: bytes | str | Any) -> T:
    """What is understood of JSON, as text or as values.

    Raises:
        ValidationError: something other than a field too many.

    Example:
        >>> understood(SavedMeta, '{"dtype": "int64", "since": "tomorrow"}').dtype
        'int64'
    """
    text = isinstance(found, bytes | str)
    try:
        return kind.model_validate_json(found) if text else kind.model_validate(found)
    except ValidationError as error:
        places = [one["loc"] for one in error.errors(include_url=False) if one["type"] == _UNKNOWN]
        if not places or len(places) < error.error_count():
            raise
        return kind.model_validate_json(json.dumps(_without(json.loads(found) if text else found, places)))


def _without(value: Any, places: list[tuple[int | str, ...]]) -> Any:
    """The same values without those at some places."""
    if isinstance(value, dict):
        gone = {place[0] for place in places if len(place) == 1}
        kept = {name: one for name, one in value.items() if name not in gone}
        return {name: _without(one, _below(name, places)) for name, one in kept.items()}
    if isinstance(value, list):
        return [_without(one, _below(at, places)) for at, one in enumerate(value)]
    return value


def _below(name: int | str, places: list[tuple[int | str, ...]]) -> list[tuple[int | str, ...]]:
    return [place[1:] for place in places if len(place) > 1 and place[0] == name]
