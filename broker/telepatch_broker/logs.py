"""Logs of gateways and workers: one line per event on standard error, with ids, sizes, times and codes.

Contents never get there: no prompt, no constant, no tensor, no key. What an exception says may be somebody's data: its
kind and the lines of code stand in the log, and its message does not.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog

from telepatch_protocol.printable import printable

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

Event = MutableMapping[str, Any]

_FRAMES: Final = 8
_ROOM: Final = "telepatch_broker"


def configure(level: Level = "info", format: Format | None = None, stream: TextIO | None = None) -> None:
    """Log from now on.

    Libraries are heard from warnings on, whatever the level is: what they say below that may be about contents.

    Args:
        level: of the lines that are written.
        format: ``json``, or ``console`` for people; None chooses by whether a person watches.
        stream: where to; standard error if left out.
    """
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    people = format == "console" or (format is None and out.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=out.isatty()) if people else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _signed,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            without_values,
            *([_seen] if people else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    root = logging.getLogger()
    root.handlers = [one for one in root.handlers if not isinstance(one, _Forward)] + [_Forward()]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOM).setLevel(number)


_signature: dict[str, str] = {}


def sign(**fields: str) -> None:
    """What stands in every line of this process from now on, such as the worker and its model."""
    _signature.clear()
    _signature.update(fields)


def _signed(logger: object, method: str, event: Event) -> Event:
    return {**_signature, **event}


def without_values(logger: object, method: str, event: Event) -> Event:
    """In place of an exception its kind and where it was raised; of what the system says also that."""
    error = _error(event.pop("exc_info", None))
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        event.setdefault("kind", type(error).__name__)
        event["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        if isinstance(error, OSError) and error.strerror:
            event["reason"] = error.strerror
    return event


def _seen(logger: object, method: str, event: Event) -> Event:
    """What a terminal would obey is spelled out, and every event stays on its line; JSON does that by itself."""
    return {name: printable(one, lines=False) if isinstance(one, str) else one for name, one in event.items()}


def _error(
    told: BaseException | bool | tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None,
) -> BaseException | None:
    if isinstance(told, BaseException):
        return told
    if isinstance(told, tuple):
        return told[1]
    return sys.exc_info()[1] if told else None


class _Forward(logging.Handler):
    """What libraries log, as lines of ours: the first of theirs, since what follows may repeat an exception."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        text = record.getMessage().partition("\n")[0]
        structlog.get_logger().log(record.levelno, text, logger=record.name, exc_info=record.exc_info)
