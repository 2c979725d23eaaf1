"""Keeps one server alive for as long as the process that started this one lives; started as a script, by path.

The parent holds the other end of standard input. When that closes, for whatever reason, the server is asked to stop.
A server that dies by itself is started again. Nothing but the standard library is imported, so that this starts fast.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from types import FrameType

STOP_SECONDS = 10.0
QUICK_SECONDS = 2.0
QUICK_DEATHS = 3


class Reaper:
    """Runs `command` until told to stop."""

    def __init__(self, command: list[str], inherited: tuple[int, ...]) -> None:
        self._command = command
        self._inherited = inherited
        self._lock = threading.Lock()
        self._stopping = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Start the server, again and again where it must be; returns its last exit status."""
        quick = 0
        while (child := self._start()) is not None:
            began = time.monotonic()
            status = child.wait()
            quick = quick + 1 if time.monotonic() - began < QUICK_SECONDS else 0
            if self._stopping or quick >= QUICK_DEATHS:
                return status
            time.sleep(0.05)
        return 0

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if not self._stopping:
                self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, pass_fds=self._inherited)
            return None if self._stopping else self._child

    def watch(self) -> None:
        """Wait until the parent is gone, then stop the server."""
        sys.stdin.buffer.read()
        self.stop()

    def stop(self) -> None:
        """End the server, gently at first."""
        with self._lock:
            self._stopping = True
            child = self._child
        if child is None:
            return
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def main(arguments: list[str]) -> int:
    """``reaper.py LOCK COMMAND...``: run the command, which holds the file descriptor of a lock while it lives."""
    reaper = Reaper(arguments[1:], (int(arguments[0]),))

    def on_signal(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=reaper.stop, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    threading.Thread(target=reaper.watch, daemon=True).start()
    return reaper.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
