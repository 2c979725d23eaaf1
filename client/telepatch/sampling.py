"""Settings of a generation, as its author writes them and as the document has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from telepatch import arguments
from telepatch.builder import Builder
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.graph import Arg, Generate

NAMES = tuple(Generate.model_fields)


def generate(builder: Builder, settings: Mapping[str, Any]) -> Generate:
    """The settings as the document has them: numbers and texts as constants, names of a sweep as they are.

    Raises:
        BadArgument: no `max_new_tokens`, or a setting of another kind.
    """
    if settings.get("max_new_tokens") is None:
        raise BadArgument("a generation needs max_new_tokens, the most tokens that it may make")
    return Generate(**{name: _argument(builder, name, value) for name, value in settings.items() if value is not None})


def _argument(builder: Builder, name: str, value: Any) -> Arg:
    ref = arguments.reference(builder, value)
    if ref is not None:
        return ref
    plain = arguments.plain(value)
    if name == "stop" and isinstance(plain, list | tuple):
        plain = [arguments.plain(one) for one in plain]
    good = isinstance(plain, str | int | float | list) and all(
        isinstance(one, str | int) for one in (plain if isinstance(plain, list) else ())
    )
    if not good:
        raise BadArgument(f"{name} is {value!r}; a number works, and for stop a text, a token id or a list of these")
    return f"${builder.constant(plain)}"
