"""The checker as the client uses it: line by line, at any scope that is still open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from telepatch_protocol.check import Checker
from telepatch_protocol.meta import Meta
from telepatch_protocol.refs import Ref


class LineChecker(Checker):
    """Checks each line when it is written; inside a sweep, a number in a path is then that of the first element."""

    samples: dict[str, int]
    """For names that a sweep binds to numbers, one of them; lines are checked with it where a number picks a module."""

    @contextmanager
    def at(self, level: int, *, backward: bool = False) -> Iterator[None]:
        """Work at an outer level for a while, or among gradients."""
        inner, before = self.levels[level + 1 :], self._backward
        del self.levels[level + 1 :]
        self._backward = backward
        try:
            yield
        finally:
            self.levels.extend(inner)
            self._backward = before

    def forget(self, ids: Iterable[str]) -> None:
        """Let ids of the innermost level be taken again."""
        for id in ids:
            self.values.pop(id, None)
            self.level.places.pop(id, None)
            self.level.writes.discard(id)
            self.level.generated = {invoke: run for invoke, run in self.level.generated.items() if run != id}

    def number(self, name: str) -> int:
        """The number that a name in a site stands for; for a name whose element is not chosen yet, a sample."""
        if isinstance(self.lookup(Ref(name)), Meta) and name in self.samples:
            return self.samples[name]
        return super().number(name)
