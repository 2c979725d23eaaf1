"""What a check of a deployment finds: one line each, and what would work where something is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from telepatch_protocol.errors import Unavailable

Level = Literal["ok", "warn", "fail"]
"""As it should be; works, with a risk that somebody should know; does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: the thing.
        level: how it is.
        found: how it was found, with the value.
        works: what would have worked; empty where all is well.
    """

    what: str
    level: Level
    found: str
    works: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.found}" + (f". {self.works}" if self.works else "")


def refuse_failures(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are only warnings.

    Raises:
        Unavailable: there is a failure; the message has the first one.
    """
    told = list(findings)
    failed = [one for one in told if one.level == "fail"]
    if failed:
        more = f" ({len(failed) - 1} more: telepatch check)" if len(failed) > 1 else ""
        raise Unavailable(f"{failed[0]}{more}")
    return [one for one in told if one.level == "warn"]
