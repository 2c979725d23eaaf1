"""Runs whose inputs are computed: each is taken in as soon as all that it is given is known."""

from __future__ import annotations

from collections.abc import Container

from telepatch_protocol.graph import Run
from telepatch_protocol.order import given_to


class Begun:
    """Which runs can be taken in, because all that their inputs need is known; each is looked at once per need.

    Args:
        runs: of a scope.
        ahead: ids of its nodes.
    """

    def __init__(self, runs: list[Run], ahead: Container[str]) -> None:
        self._runs = runs
        given = ({ref.id for invoke in run.invokes for ref in given_to(invoke)} for run in runs)
        self._missing = [{name for name in names if name in ahead} for names in given]
        self._waiting: dict[str, list[int]] = {}
        for at, names in enumerate(self._missing):
            for name in names:
                self._waiting.setdefault(name, []).append(at)

    def at_once(self) -> list[Run]:
        """Those that need nothing of the scope's own."""
        return [run for run, missing in zip(self._runs, self._missing, strict=True) if not missing]

    def after(self, node: str) -> list[Run]:
        """Those that waited for this node last."""
        found = self._waiting.pop(node, [])
        for at in found:
            self._missing[at].discard(node)
        return [self._runs[at] for at in found if not self._missing[at]]
