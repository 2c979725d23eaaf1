"""What each exit code of the ``telepatch`` command means, and which error ends in which."""

from __future__ import annotations

from typing import Final

from telepatch_protocol import errors

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
REFUSED: Final = 4
MISSING: Final = 5
INTERRUPTED: Final = 130

MEANINGS: Final[dict[int, str]] = {
    OK: "done",
    FAILED: "the job failed, or a part that should have run on ended",
    USAGE: "the command line or a setting is wrong; nothing was done",
    UNREACHABLE: "the service cannot be reached or is not ready",
    REFUSED: "the service said no: a wrong graph, an unknown key",
    MISSING: "a package that this command needs is not installed",
    INTERRUPTED: "stopped by Ctrl-C",
}

# The nearest class in an error's ancestry decides, so a new kind of refusal needs no line here.
_BY_ERROR: Final[dict[type[errors.TelepatchError], int]] = {
    errors.TelepatchError: FAILED,
    errors.GraphError: REFUSED,
    errors.JobError: FAILED,
    errors.ServiceError: REFUSED,
    errors.Unavailable: UNREACHABLE,
    errors.ConnectionFailed: UNREACHABLE,
}


def code_for(error: errors.TelepatchError) -> int:
    """The exit code that an error ends the command with."""
    return next(_BY_ERROR[cls] for cls in type(error).__mro__ if cls in _BY_ERROR)
