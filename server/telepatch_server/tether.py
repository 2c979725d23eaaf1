"""Child processes that cannot outlive the process that started them, however it ends.

``start`` runs a command through this module: the child first asks the kernel to kill it when its parent dies, then
becomes the command. Where the kernel has no such request (macOS), it stays as a guard that looks after the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Final

PR_SET_PDEATHSIG: Final = 1
GUARD_PERIOD_S: Final = 0.5


def start(
    command: Sequence[str], output: IO[bytes], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the command tied to this process, deaf to the terminal's Ctrl-C, with both its outputs going to a file.

    Call it from the main thread: the kernel ties the child to the thread that started it.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "telepatch_server.tether", str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def become(parent: int, command: Sequence[str]) -> None:
    """Tie this process to its parent and turn into the command; does not return."""
    if sys.platform != "linux":
        raise SystemExit(_guard(parent, command))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl refused PR_SET_PDEATHSIG")
    if os.getppid() != parent:  # it died before the request was made
        raise SystemExit(1)
    os.execv(command[0], list(command))


def _guard(parent: int, command: Sequence[str]) -> int:
    """Run the command, pass on a polite end, and kill it once the parent is gone."""
    child = subprocess.Popen(list(command))
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while child.poll() is None:
        if os.getppid() != parent:
            child.kill()
        time.sleep(GUARD_PERIOD_S)
    return child.returncode


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
