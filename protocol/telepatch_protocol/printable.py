"""Text that somebody else wrote, as it may reach a terminal or a log: nothing in it moves a cursor or turns a line."""

from __future__ import annotations

import re
from typing import Final

MOST: Final = 4000
"""Characters of one message that travel; the rest says nothing more."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls of C0 and C1 but tab and line feed, marks that change the direction of text, and what takes no room."""


def printable(text: str, *, lines: bool = True) -> str:
    r"""The text with every character spelled out that would do something else than be seen.

    Args:
        text: whatever it is.
        lines: whether it may have several lines; without, tabs and line feeds are spelled out, too.

    Example:
        >>> printable("red \x1b[31m")
        'red \\x1b[31m'
    """
    found = _UNSEEN.sub(_spelled, text)
    return found if lines else found.replace("\n", "\\n").replace("\t", "\\t")


def short(text: str, most: int = MOST) -> str:
    """The text, cut where it is longer than anybody reads."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _spelled(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()
