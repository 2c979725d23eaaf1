"""Reading documents: a structure that was read before is not looked at again."""

from __future__ import annotations

import json

from pydantic import JsonValue

from telepatch_protocol.graph import Graph
from telepatch_protocol.newest import Newest
from telepatch_protocol.wire import from_dict, read_json

MAX_CHARACTERS = 2**24
"""Of all structures that are kept, together."""

_STRUCTURE = "structure as it came"


class Reader:
    """Reads documents, and keeps their structures.

    Args:
        characters: how long the structures that are kept may be as JSON, together.

    Example:
        >>> Reader().decode('{"protocol": [1, 0], "model": {"id": "gpt2-random"}, ...}')
    """

    def __init__(self, characters: int = MAX_CHARACTERS) -> None:
        self._kept: Newest[tuple[str, ...], Graph] = Newest(characters)

    def decode(self, data: bytes | str) -> Graph:
        """As `wire.decode`.

        Raises:
            ProtocolError: as `wire.decode`.
        """
        return self.from_dict(read_json(data))

    def from_dict(self, found: JsonValue) -> Graph:
        """As `wire.from_dict`.

        Raises:
            ProtocolError: as `wire.from_dict`.
        """
        constants = found.get("constants", {}) if isinstance(found, dict) else None
        if not isinstance(found, dict) or not isinstance(constants, dict):
            return from_dict(found)
        structure = _json({name: value for name, value in found.items() if name != "constants"})
        key = (structure, *constants)
        known = self._kept.get(key)
        if known is not None:
            return known.with_constants(constants)
        graph = from_dict(found)
        graph.noted[_STRUCTURE] = structure
        self._kept.put(key, graph, len(structure) + sum(map(len, constants)))
        return graph


def text_of(graph: Graph) -> str:
    """A document as JSON; where a `Reader` has read it, or a variant of it, only its constants are written anew."""
    structure: str | None = graph.noted.get(_STRUCTURE)
    if structure is None:
        return graph.to_json()
    return f'{structure[:-1]},"constants":{_json(graph.constants)}}}'


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
