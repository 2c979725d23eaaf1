"""What a generation gives while it goes on, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from telepatch.lines import points_home
from telepatch.names import missing_name
from telepatch.outcome import Outcome


class StepEvent:
    """What one step has given.

    Attributes:
        step: its number; 0 is that of the prompt.
        token: the token that it has sampled; of several rows a list, with padding for those that have ended.
        text: what the token adds to the text, empty while a character is not whole; of several rows a list.
        values: what `emit` named; each is an attribute, too.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.run: str = entry["run"]
        self.step: int = entry["step"]
        self.token: Any = _only(entry["tokens"])
        self.text: Any = _only(entry["text"])
        self.values: dict[str, Any] = dict(entry.get("values") or {})

    @points_home
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self.values:
            raise missing_name(f"this step tells {', '.join(['token', 'text', *self.values])}; there is no '{name}'")
        return self.values[name]

    def __repr__(self) -> str:
        told = "".join(f", {name}={value!r}" for name, value in self.values.items())
        return f"<step {self.step}: {self.text!r}{told}>"


def _only(listed: list[Any]) -> Any:
    return listed[0] if len(listed) == 1 else listed


class Stream:
    """The steps of a generation as they come, from the first on; it can be gone through again.

    Args:
        outcome: of the job.
        runs: which of its generations.
    """

    def __init__(self, outcome: Outcome, *runs: str) -> None:
        self._outcome = outcome
        self._runs = runs

    @points_home
    def __iter__(self) -> Iterator[StepEvent]:
        left, last, at = set(self._runs), dict.fromkeys(self._runs, -1), 0
        while left:
            entry = self._outcome.entry(at)
            if entry is None:
                break
            at += 1
            run = entry.get("run", "")
            if run not in last or "at" in entry:
                continue
            if "step" not in entry:
                left.discard(run)
            elif entry["step"] > last[run]:  # a job that had to begin again tells its first steps again
                last[run] = entry["step"]
                yield StepEvent(entry)
        self._outcome.check()

    async def __aiter__(self) -> AsyncIterator[StepEvent]:
        steps = iter(self)
        while (event := await asyncio.to_thread(next, steps, None)) is not None:
            yield event
