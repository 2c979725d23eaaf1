"""Reading documents: a structure that was read before is not looked at again."""

from __future__ import annotations

import json
from collections import OrderedDict
from threading import Lock

from pydantic import JsonValue

from telepatch_protocol.graph import Graph
from telepatch_protocol.wire import from_dict, read_json

MAX_CHARACTERS = 2**24
"""Of all structures that are kept, together."""


class Reader:
    """Reads documents, and keeps their structures.

    Args:
        characters: how long the structures that are kept may be as JSON, together.

    Example:
        >>> Reader().decode('{"protocol": [1, 0], "model": {"id": "gpt2-random"}, ...}')
    """

    def __init__(self, characters: int = MAX_CHARACTERS) -> None:
        self._most = characters
        self._length = 0
        self._kept: OrderedDict[str, Graph] = OrderedDict()
        self._lock = Lock()

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
        structure = json.dumps({**found, "constants": [*constants]}, separators=(",", ":"))
        with self._lock:
            known = self._kept.get(structure)
            if known is not None:
                self._kept.move_to_end(structure)
        if known is not None:
            return known.with_constants(constants)
        graph = from_dict(found)
        self._keep(structure, graph)
        return graph

    def _keep(self, structure: str, graph: Graph) -> None:
        with self._lock:
            if structure not in self._kept:
                self._length += len(structure)
            self._kept[structure] = graph
            while self._length > self._most:
                self._length -= len(self._kept.popitem(last=False)[0])
