"""In-place operators on values: which of them write, told from the author's own line.

``site[:, -1] += v`` and ``part = site[:, -1]; part += v`` look the same to the part: Python calls its ``__iadd__`` in
both. Only in the first it then stores the outcome back into the site. So the caller's next instruction decides.
"""

from __future__ import annotations

import opcode
from types import FrameType

_PASSED_OVER = frozenset({"CACHE", "SWAP", "EXTENDED_ARG", "NOP", "ROT_TWO", "ROT_THREE"})


def stores_into_item(frame: FrameType | None) -> bool:
    """Whether the instruction after the one that `frame` executes stores into ``something[key]``."""
    if frame is None:
        return False
    code = frame.f_code.co_code
    for at in range(frame.f_lasti + 2, len(code), 2):
        name = opcode.opname[code[at]]
        if name not in _PASSED_OVER:
            return name == "STORE_SUBSCR"
    return False
