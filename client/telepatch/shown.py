"""`show`: small values of a job that is running, told as soon as they are computed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from telepatch import arguments
from telepatch.current import needed_builder
from telepatch.lines import points_home
from telepatch.names import missing_name
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.graph import Log
from telepatch_protocol.printable import printable
from telepatch_protocol.refs import NAME

Hear = Callable[["Shown"], object]
"""Told what is shown, as it comes, from a thread of the connection."""

_OTHERS = {
    "fit": "of a fit f.log(name=value) tells a value of every step",
    "aside": "of a fit f.log(name=value) tells a value of every step",
    "grad": "gradients are shown after the block in which they are read",
}
_NUMBERS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
_OWN = ("line", "at", "values")


class Shown:
    """What one `show` has told at one time.

    Attributes:
        line: where it stands, ``study.py:12``.
        at: numbers of the elements and steps that it stands in, from the outermost block on.
        values: numbers, or nested lists of them, by name; each is an attribute, too.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.line: str = entry.get("line") or ""
        self.at: tuple[int, ...] = tuple(entry.get("at") or ())
        self.values: dict[str, Any] = {name: _numbers(value) for name, value in entry["values"].items()}

    @points_home
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self.values:
            raise missing_name(f"this shows {', '.join(self.values)}; there is no '{name}'")
        return self.values[name]

    def __str__(self) -> str:
        place = " ".join([*([self.line] if self.line else []), *([str(list(self.at))] if self.at else [])])
        return f"{place}: {' '.join(f'{name}={_text(value)}' for name, value in self.values.items())}"

    def __repr__(self) -> str:
        return f"<shown at {self}>"


@points_home
def show(**values: Any) -> None:
    """Have small values shown while the job runs, as soon as they are computed: what `print` is in a local program.

    They are printed on standard error, with line and step, or given to the function that `connect` was told;
    ``t.shown`` has them afterwards. This goes in any block but those of a fit, where ``f.log`` is said, and of
    ``backward()``. What a job shows is no result: nothing is kept by the service when it has ended.

    Args:
        **values: by the names under which they are shown; each has at most 1,024 numbers.

    Raises:
        TraceError: no block is open, or one of a fit or of ``backward()``.
        TooLarge: a value has more numbers.

    Example:
        >>> with model.generate("Paris is", max_new_tokens=5):
        ...     telepatch.show(norm=model.blocks[2].output[0, -1].norm())
        study.py:2 [0]: norm=12.5
    """
    builder = needed_builder("telepatch.show")
    builder.alive()
    inside = next((scope.kind for scope in builder.scope.around() if scope.kind in _OTHERS), None)
    if inside is not None:
        raise TraceError(f"telepatch.show says nothing inside here: {_OTHERS[inside]}")
    if not values:
        raise BadArgument("telepatch.show takes values by name: telepatch.show(norm=h.norm())")
    for name in values:
        if not re.fullmatch(NAME, name, re.ASCII) or name in _OWN:
            raise BadArgument(f"'{name}' is no name to show a value by; choose another identifier")
    told = {name: arguments.argument(builder, "operand", value) for name, value in values.items()}
    builder.add(Log(id=builder.id(), values=told))


def printed(shown: Shown) -> None:
    """Print it on standard error, above the line that says what is waited for."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{clear}{printable(str(shown), lines=False)}\n")
    sys.stderr.flush()


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, list):
        return str(value)
    return np.array2string(np.array(value), precision=6, threshold=32, separator=", ").replace("\n", "")
