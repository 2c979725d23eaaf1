"""The author's place in their own program, and errors that point at it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

from telepatch_protocol.errors import TelepatchError

P = ParamSpec("P")
T = TypeVar("T")

_OURS = frozenset({"telepatch", "telepatch_protocol", "numpy", "torch", "contextlib"})


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the author's program; `file` is the full path."""

    file: str
    line: int

    @property
    def short(self) -> str:
        """As it goes over the wire: without the folders."""
        return f"{os.path.basename(self.file)}:{self.line}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def is_ours(frame: FrameType) -> bool:
    """Whether a frame belongs to this package or to a library that calls it on the author's behalf."""
    return _is_our_module(frame.f_globals.get("__name__"))


@functools.lru_cache(maxsize=4096)
def _is_our_module(name: object) -> bool:
    return str(name).partition(".")[0] in _OURS


def user_frame() -> FrameType | None:
    """The innermost frame of the author's program."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_ours(frame):
        frame = frame.f_back
    return frame


def here() -> Place | None:
    """The line of the author's program that is being executed."""
    frame = user_frame()
    return None if frame is None else Place(frame.f_code.co_filename, frame.f_lineno)


def placed(error: TelepatchError, place: Place | None = None) -> TelepatchError:
    """The error with the author's line filled in, where it has none yet."""
    found = place or here()
    return error if found is None else error.at(file=found.file, line=found.line)


def at_place(error: TelepatchError, place: Place | None, node: str | None = None) -> TelepatchError:
    """The error with that line and node filled in, where it has none yet."""
    return error.at(node=node) if place is None else error.at(node=node, file=place.file, line=place.line)


def points_home(function: Callable[P, T]) -> Callable[P, T]:
    """Errors that leave `function` name the author's line and carry none of this package's inner frames."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except TelepatchError as error:
            raise placed(error).with_traceback(None) from None

    return call


def trim(traceback: TracebackType | None) -> None:
    """Cut a traceback off after the last line of the author's own program."""
    last: TracebackType | None = None
    while traceback is not None:
        if not is_ours(traceback.tb_frame):
            last = traceback
        traceback = traceback.tb_next
    if last is not None:
        last.tb_next = None
