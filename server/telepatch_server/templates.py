"""The environment in which chat templates are compiled: what transformers gives them, inside the sandbox, with limits.

A template comes with a model and is no more trusted than the model is. The sandbox keeps it away from Python, and here
it also has a deadline and a bound on what a single expression makes.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_TEXT: Final = 4_000_000
"""Characters that a template may write, and that a single text inside it may have."""

_FILE: Final = "<chat template>"
_WIDTH: Final = re.compile(r"\d{7,}")


class TooMuch(Exception):
    """A template made too much."""


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant said; here it only has to be read over."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Its body as it stands."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """``dict(...)`` in a template, without the attributes of Python's class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """As of Python's class."""
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """``namespace(...)`` in a template, which takes no names that mean something to Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        given = dict(*rest, **kwargs)
        for name in given:
            _plain_name(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _plain_name(name)
        _not_huge(value)
        super().__setitem__(name, value)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Operators and methods that could make a text out of all proportion are looked at first."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse what would be too large, else do it."""
        if operator == "+" and _length(left) + _length(right) > MAX_TEXT:
            raise TooMuch(f"a text or list of {_length(left) + _length(right):,} parts")
        if operator == "*" and max(_length(left), 1) * max(_length(right), 1) * _times(left, right) > MAX_TEXT:
            raise TooMuch("a text or list repeated too often")
        if operator == "**" and (abs(left) > 2**64 or abs(right) > 64):
            raise TooMuch("a number out of all proportion")
        if operator == "%" and isinstance(left, str):
            _modest(left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as jinja2 has it
        """Refuse to fill up a text to a width out of all proportion."""
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox has wrapped those that format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            _modest(owner if method.__name__ in ("format", "format_map") else "", *args, *kwargs.values())
            if method.__name__ == "replace":
                _not_too_often(owner, *args)
        return super().call(__context, __obj, *args, **kwargs)


def compiled(source: str) -> Template:
    """A template ready to be rendered, its environment as transformers makes it.

    Raises:
        jinja2.TemplateError: no template.
    """
    found = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    found.filters |= {"tojson": _to_json, "replace": _replaced}
    for name in ("center", "indent", "format", "ljust", "wordwrap"):  # they make any length from a few characters
        if name in found.filters:
            found.filters[name] = _guarded(found.filters[name])
    found.globals |= {
        "raise_exception": _raise,
        "strftime_now": _now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    found.globals.pop("lipsum", None)
    code = found.compile(source, filename=_FILE)
    return Template.from_code(found, code, found.make_globals(None))


def rendered(template: Template, end: float, **names: Any) -> str:
    """What a template writes until the monotonic clock shows `end`.

    Raises:
        TimeoutError: it took longer.
        TooMuch: it wrote more than `MAX_TEXT`.
        Exception: whatever the template itself raises.
    """
    pieces: list[str] = []
    size = 0
    with _deadline(end):
        for piece in template.generate(**names):
            size += len(piece)
            if size > MAX_TEXT:
                raise TooMuch(f"it wrote more than {MAX_TEXT:,} characters")
            pieces.append(piece)
    return "".join(pieces)


@contextmanager
def _deadline(end: float) -> Iterator[None]:
    """Stops a template at the next of its lines when time is over; other code of this thread is not looked at."""

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError
        for value in frame.f_locals.values():
            _not_huge(value)
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_lines = True
        return line if frame.f_code.co_filename == _FILE else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


def _not_too_often(text: str, *args: Any) -> None:
    """Refuse to put a long text into the place of many short ones."""
    old, new = (args[0], args[1]) if len(args) > 1 else ("", "")
    if isinstance(old, str) and isinstance(new, str) and text.count(old) * len(new) > MAX_TEXT:
        raise TooMuch("a text replaced by longer ones too often")


def _replaced(text: Any, old: str, new: str, count: int | None = None) -> str:
    """The filter, for text that is no markup."""
    _not_too_often(str(text), old, new)
    return str(text).replace(str(old), str(new), -1 if count is None else count)


def _not_huge(value: Any) -> None:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise TooMuch(f"a text of {len(value):,} characters")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _times(left: Any, right: Any) -> int:
    """How often a text or list is repeated; numbers among themselves may be multiplied."""
    if not (_length(left) or _length(right)):
        return 0
    return next((abs(one) for one in (left, right) if isinstance(one, int)), 1)


def _plain_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore; found {name!r}")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Without the escapes for HTML that jinja2's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _guarded(filter: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is looked at before it makes a text of any width."""

    @functools.wraps(filter)
    def look(*args: Any, **kwargs: Any) -> Any:
        _modest(*args, *kwargs.values())
        return filter(*args, **kwargs)

    return look


def _modest(*given: Any) -> None:
    """Refuse widths out of all proportion, given as numbers or inside a text that formats others."""
    for one in given:
        for part in one if isinstance(one, tuple | list) else (one,):
            wide = _WIDTH.search(part) if isinstance(part, str) else None
            if wide or (isinstance(part, int) and abs(part) > MAX_TEXT):
                raise TooMuch(f"a width over {MAX_TEXT:,}")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)
