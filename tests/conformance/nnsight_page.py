"""Writes the rows of docs/nnsight.md from what the tests run; run it to renew the page."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rows import GROUPS
from table import Group, Row, Without, shown

PAGE = Path(__file__).parents[2] / "docs" / "nnsight.md"

_PART = re.compile(r"(<!-- (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def counts() -> str:
    """How many rows there are of each kind."""
    rows = [row for group in GROUPS for row in group.rows]
    both = sum(isinstance(row, Row) for row in rows)
    return (
        f"{both} rows run in both and give the same numbers; {len(rows) - both} say why not, and what to do instead.\n"
    )


def contents() -> str:
    """All rows, group by group."""
    return "\n".join(line for group in GROUPS for line in _group(group))


def _group(group: Group) -> Iterator[str]:
    yield from (f"## {group.title}", "", "| capability | nnsight 0.8.1 | Telepatch |", "|---|---|---|")
    yield from map(_line, group.rows)
    yield ""
    for row in group.rows:
        yield from (f"### {row.title}", "")
        yield from _both(row) if isinstance(row, Row) else (f"{row.why} Instead: {row.instead}", "")


def _line(row: Row | Without) -> str:
    there = (row.shows or row.says[0]) if isinstance(row, Row) else row.says
    here = row.says[1] if isinstance(row, Row) else row.has
    return f"| [{row.title}](#{_anchor(row.title)}) | {_code(there)} | {_code(here) if here else 'not as such'} |"


def _code(says: str) -> str:
    return " ... ".join(f"`{part}`" for part in says.split(" ... ")).replace("|", "\\|")


def _anchor(title: str) -> str:
    """The name under which a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _both(row: Row) -> Iterator[str]:
    if row.note:
        yield from (row.note, "")
    for name, function in (("nnsight", row.nnsight), ("Telepatch", row.telepatch)):
        yield from ("```python", f"# {name}", shown(function), "```", "")


def written(page: str) -> str:
    """The page with its parts as they should be."""
    parts = {"counts": counts, "rows": contents}
    return _PART.sub(lambda found: f"{found[1]}{parts[found['name']]()}{found[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
