"""Ctrl-C while somebody waits: the jobs go on, unless their author says that they shall not."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable


def offer(left: int, cancel: Callable[[], int]) -> None:
    """Offer to cancel what was submitted from here and has not ended.

    In a terminal its author is asked, once; another Ctrl-C is no answer and leaves at once. Elsewhere nothing is
    cancelled, and one line says how it can be.

    Args:
        left: how many jobs there are.
        cancel: cancels them, and gives how many these were.

    Raises:
        KeyboardInterrupt: Ctrl-C again.
    """
    if not left:
        return
    jobs = (
        "the job that was submitted here and has" if left == 1 else f"the {left} jobs that were submitted here and have"
    )
    if not _asks():
        _say(f"telepatch: {jobs} not ended will go on; lab.cancel() cancels {'it' if left == 1 else 'them'}\n")
        return
    _say(f"\ntelepatch: cancel {jobs} not ended? [y/N] ")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        _say(f"telepatch: {cancel()} cancelled\n")


def _asks() -> bool:
    """Whether somebody sits at a terminal, and it is theirs to answer."""
    if threading.current_thread() is not threading.main_thread() or sys.stdin is None or sys.stderr is None:
        return False
    return sys.stdin.isatty() and sys.stderr.isatty()


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
