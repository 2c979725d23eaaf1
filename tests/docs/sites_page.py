"""Writes the tables of docs/sites.md from what the tests of standard ports check; run it to renew the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "worker"))

from families import FAMILIES, MEANINGS, VIT

PAGE = Path(__file__).parents[2] / "docs" / "sites.md"

_TABLE = re.compile(r"(<!-- (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def meanings() -> str:
    """What each standard port is."""
    rows = [f"| `{name}` | ({axes}) | {text} |" for name, (axes, text) in MEANINGS.items()]
    return "\n".join(["| port | axes | meaning |", "|---|---|---|", *rows]) + "\n"


def families() -> str:
    """Which families have which."""
    head = f"| family | {' | '.join(f'`{name}`' for name in MEANINGS)} |"
    rows = [
        f"| {family.title} | {' | '.join('yes' if name in family.ports else '' for name in MEANINGS)} |"
        for family in (*FAMILIES, VIT)
    ]
    return "\n".join([head, "|---" * (len(MEANINGS) + 1) + "|", *rows]) + "\n"


def written(page: str) -> str:
    """The page with its tables as they should be."""
    tables = {"ports": meanings(), "families": families()}
    return _TABLE.sub(lambda found: f"{found[1]}{tables[found['name']]}{found[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
