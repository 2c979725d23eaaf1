"""References: ``"$id"`` is a value, ``"$id.name"`` one output of a node that has several, ``"$$"`` a literal dollar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pydantic import JsonValue

from telepatch_protocol.errors import BadArgument

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
"""What ids of nodes, runs, invokes, constants and saved values look like."""

MAX_DEPTH = 32
"""How deep lists may nest inside an argument."""

_REF = re.compile(rf"\$({NAME})(?:\.([A-Za-z0-9_.]{{1,200}}))?", re.ASCII)
_CONSTANT_FORMS = ("range", "tensor", "result", "data")


@dataclass(frozen=True, slots=True)
class Ref:
    """A use of a value: the id that defines it and, for a node of several outputs, which one."""

    id: str
    output: str | None = None

    def __str__(self) -> str:
        return f"${self.id}" if self.output is None else f"${self.id}.{self.output}"


def parse(value: JsonValue) -> Ref | None:
    """The reference that a JSON value is, or None where it is a literal.

    Raises:
        BadArgument: a string that begins with ``$`` but is no reference and not escaped as ``$$``.
    """
    return _parsed(value) if isinstance(value, str) and value.startswith("$") else None


@lru_cache(4096)
def _parsed(value: str) -> Ref | None:
    if value.startswith("$$"):
        return None
    match = _REF.fullmatch(value)
    if match is None:
        raise BadArgument(f"{value!r} is not a reference; write '$id' or '$id.output', or '$$' for a literal dollar")
    return Ref(match[1], match[2])


def literal(text: str) -> str:
    """A string that is no reference, unescaped."""
    return text[1:] if text.startswith("$$") else text


def escape(text: str) -> str:
    """The way back: a string that will be read as itself."""
    return "$" + text if text.startswith("$") else text


def is_constant_form(value: JsonValue) -> bool:
    """Whether a JSON object is one of the constant forms ``{range}``, ``{tensor}``, ``{result}``, ``{data}``."""
    return isinstance(value, dict) and any(form in value for form in _CONSTANT_FORMS)


def walk(value: JsonValue, depth: int = 0) -> Iterator[Ref]:
    """Every reference inside an argument, in order.

    Raises:
        BadArgument: an argument nested too deep, or an object that is no constant form.
    """
    if depth > MAX_DEPTH:
        raise BadArgument(f"an argument nests deeper than {MAX_DEPTH} lists")
    if isinstance(value, list):
        for item in value:
            yield from walk(item, depth + 1)
    elif isinstance(value, dict):
        if not is_constant_form(value):
            known = ", ".join(_CONSTANT_FORMS)
            raise BadArgument(f"an object with keys {sorted(value)} is no constant; known: {known}")
        yield from walk(value.get("index"), depth + 1)
    elif (ref := parse(value)) is not None:
        yield ref


def resolve(value: JsonValue, lookup: Callable[[Ref], object]) -> object:
    """The argument with every reference replaced by what `lookup` gives and every literal unescaped."""
    if isinstance(value, list):
        return [resolve(item, lookup) for item in value]
    if isinstance(value, str):
        ref = parse(value)
        return literal(value) if ref is None else lookup(ref)
    return value
