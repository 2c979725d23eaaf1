"""The golden documents of operations: where they stand and how a file is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Size

FOLDER = Path(__file__).parent / "1.1" / "operations"

Entry = dict[str, Any]
"""An operation, a document that calls it, the tensors attached to it, and shapes and dtypes of what it saves."""


def file_of(group: str) -> Path:
    """Where the operations of a group stand, one a line."""
    return FOLDER / f"{group.lower().replace(' ', '_')}.json"


def read(file: Path) -> list[Entry]:
    """The entries of a file."""
    found: list[Entry] = json.loads(file.read_text())
    return found


def compact(value: Any) -> str:
    """JSON as documents are written: no spaces, no escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def written(entries: list[Entry]) -> str:
    """The text of a file: a list in JSON, an entry a line."""
    return "[\n" + ",\n".join(map(compact, entries)) + "\n]\n"


def sizes(meta: Meta) -> dict[str, Any]:
    """Shape and dtype; null where only the data tell."""
    shape = None if meta.shape is None else [None if isinstance(dim, Size) else dim for dim in meta.shape]
    return {"dtype": meta.dtype, "shape": shape}
