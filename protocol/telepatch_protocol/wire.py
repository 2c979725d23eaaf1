"""Bytes to graphs and back: the only door through which a document enters.

Whatever bytes come, `decode` returns a graph or raises a `ProtocolError`; nothing is executed, looked up or guessed.
"""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from pydantic import JsonValue, ValidationError

from telepatch_protocol import PROTOCOL
from telepatch_protocol.errors import GraphError, ProtocolError, TooLarge, VersionError
from telepatch_protocol.fragments import MAX_BYTES, Fragment, check_form
from telepatch_protocol.graph import KINDS, Graph, place_in
from telepatch_protocol.versions import check_label

MAX_DOCUMENT = 64 * 2**20
"""Bytes that one document may take."""

MAX_NESTING = 200
"""How deep a document may nest."""

MAX_KEYS = 100_000
"""How many keys one JSON object may have."""

_LONG = re.compile(r"\d{19}", re.ASCII)
"""Digits of an integer that may not fit into 64 bits."""

_VAST = re.compile(r"[eE]\+?\d{3}|\d{300}", re.ASCII)
"""Digits of a number that may be more than 64 bits of floating point can say."""


def decode(data: bytes | str) -> Graph:
    """Read a document.

    Raises:
        VersionError: a protocol version that this side does not speak.
        ProtocolError: anything else that is wrong with its form; the message says where and what is allowed there.
    """
    return from_dict(read_json(data))


def read_json(data: bytes | str) -> JsonValue:
    """JSON, strictly: no NaN, no infinities, no doubled keys, bounded in size and depth.

    Raises:
        ProtocolError: not such JSON.
    """
    if len(data) > MAX_DOCUMENT:
        raise ProtocolError(f"a document of {len(data)} bytes is over the limit of {MAX_DOCUMENT}")
    try:
        text = data if isinstance(data, str) else data.decode()
        whole = _int if _LONG.search(text) else None
        real = _float if _VAST.search(text) else None
        found: JsonValue = json.loads(
            text, parse_constant=_no_constant, object_pairs_hook=_no_doubles, parse_int=whole, parse_float=real
        )
    except ProtocolError:
        raise
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the document is not JSON: {error}") from None
    if text.count("[") + text.count("{") > MAX_NESTING:
        _bounded(found)
    return found


def from_dict(found: JsonValue) -> Graph:
    """Read a document from JSON values.

    Raises:
        ProtocolError: as `decode`.
    """
    if not isinstance(found, dict):
        raise ProtocolError("a document is a JSON object with protocol, model, runs, nodes and saves")
    _check_version(found.get("protocol"))
    try:
        graph = Graph.model_validate(found)
    except ValidationError as error:
        raise _explain(error, found) from None
    check_label(graph)
    edits_of(graph)
    return graph


def decode_edit(data: bytes | str) -> Fragment:
    """Read an edit.

    Raises:
        GraphError: as `decode`, and for what no edit can be.
    """
    if len(data) > MAX_BYTES:
        raise TooLarge(
            f"the edit has {len(data):,} bytes; an edit has at most {MAX_BYTES:,}. Tensors in it are uploads, or "
            "results of jobs"
        )
    return edit_from_dict(read_json(data))


def edit_from_dict(found: JsonValue) -> Fragment:
    """Read an edit from JSON values.

    Raises:
        GraphError: as `decode_edit`.
    """
    if not isinstance(found, dict):
        raise ProtocolError("an edit is a JSON object with protocol, model, arguments, nodes and constants")
    for name, what in (("runs", "runs nothing"), ("saves", "saves nothing")):
        if name in found:
            raise ProtocolError(f"an edit {what}, and has no '{name}'; the trace does that to which it is applied")
    _check_version(found.get("protocol"))
    try:
        fragment = Fragment.model_validate(found)
    except ValidationError as error:
        raise _explain(error, found) from None
    check_form(fragment)
    return fragment


def edits_of(graph: Graph) -> dict[str, Fragment]:
    """The edits that a graph brings along.

    Raises:
        GraphError: one is none; it is named.
    """
    found = {}
    for name, one in graph.edits.items():
        try:
            found[name] = edit_from_dict(one)
        except GraphError as error:
            error.detail = f"edit '{name}': {error.detail}"
            raise
    return found


def _check_version(version: JsonValue) -> None:
    if not isinstance(version, list) or len(version) != 2 or not all(type(part) is int for part in version):
        raise VersionError(
            f"a document begins with 'protocol': [major, minor], here {list(PROTOCOL)}; found {version!r}"
        )
    if version[0] != PROTOCOL[0] or not isinstance(version[1], int) or not 0 <= version[1] <= PROTOCOL[1]:
        raise VersionError(
            f"protocol {version} is not spoken here; this side speaks {[PROTOCOL[0], 0]} to {list(PROTOCOL)}"
        )


def _explain(error: ValidationError, document: dict[str, JsonValue]) -> ProtocolError:
    """The first thing that is wrong, named by node and field."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    node = _node_at(first["loc"], document)
    lines = document.get("lines")
    file, line = place_in(lines if isinstance(lines, dict) else {}, node)
    shown = repr(first.get("input"))
    found = shown if len(shown) < 100 else shown[:97] + "..."
    hint = f"; kinds: {', '.join(KINDS)}" if "tag" in first["type"] else ""
    return ProtocolError(
        f"{place or 'document'}: {first['msg'].removeprefix('Value error, ')}; found {found}{hint}",
        node=node,
        file=file,
        line=line,
    )


def _node_at(loc: tuple[int | str, ...], document: dict[str, JsonValue]) -> str | None:
    nodes = document.get("nodes")
    if len(loc) < 2 or loc[0] != "nodes" or not isinstance(nodes, list) or not isinstance(loc[1], int):
        return None
    node = nodes[loc[1]]
    name = node.get("id") if isinstance(node, dict) else None
    return name if isinstance(name, str) and len(name) <= 64 else None


def _no_constant(text: str) -> NoReturn:
    raise ProtocolError(f'{text} is not JSON; write "inf", "-inf" or "nan" as a string')


def _int(text: str) -> int:
    if len(text.lstrip("-")) > 19 or not -(2**63) <= int(text) < 2**63:
        raise ProtocolError(f"the integer {text[:24]} does not fit into 64 bits")
    return int(text)


def _float(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ProtocolError(f'the number {text[:24]} is beyond floating point; write "inf" or "-inf" if that is meant')
    return found


def _no_doubles(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    if len(pairs) > MAX_KEYS:
        raise ProtocolError(f"a JSON object has {len(pairs):,} keys; {MAX_KEYS:,} can be")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ProtocolError("a JSON object has the same key twice")
    return found


def _bounded(value: JsonValue) -> None:
    level: list[JsonValue] = [value]
    for _ in range(MAX_NESTING):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ProtocolError(f"the document nests deeper than {MAX_NESTING} levels")
