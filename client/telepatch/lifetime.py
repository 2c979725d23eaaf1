"""Couriers that run in this process: what the end of the interpreter and a fork have to know of."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telepatch.courier import Courier
    from telepatch.outcome import Outcome

_running: set[Courier] = set()
_all: weakref.WeakSet[Courier] = weakref.WeakSet()
_hooked: list[bool] = []

log = logging.getLogger("telepatch")


def add(courier: Courier) -> None:
    """A courier has started: the end of the program sends what it still has."""
    if not _hooked:
        _hooked.append(True)
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)
    _running.add(courier)
    _all.add(courier)


def remove(courier: Courier) -> None:
    """A courier has stopped."""
    _running.discard(courier)


def report(unseen: list[Outcome]) -> None:
    """Tell of failures that nobody has looked at."""
    for outcome in unseen:
        log.warning("job %s failed and none of its values was looked at: %s", outcome.job, outcome.error())


def _at_exit() -> None:
    for courier in list(_running):
        report(courier.close())


def _after_fork() -> None:
    _running.clear()
    for courier in list(_all):
        courier.after_fork()
