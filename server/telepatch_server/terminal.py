"""What ``telepatch up`` shows: a moving line where a person watches, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status


class Progress:
    """Lines that stay, and one line above the cursor that changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def show(self, text: str) -> None:
        """Show what is happening now, in place of what was shown before."""
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        text = escape(text[: self._console.width - 4])
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def say(self, text: str) -> None:
        """Print a line that stays, and stop showing what was happening."""
        self.close()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the changing line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


@contextmanager
def progress() -> Iterator[Progress]:
    """A display that leaves the terminal as it found it."""
    shown = Progress(Console())
    try:
        yield shown
    finally:
        shown.close()
