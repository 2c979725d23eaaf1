"""Numbers for Prometheus: what each is, how a worker counts them, and how they are written.

A worker listens on no port, so its numbers travel through Redis beside its heartbeat (`Tally.snapshot`), and every
gateway shows them (`exposition`). They only ever grow, but for gauges, and begin anew with a worker.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Measure:
    """One metric.

    Attributes:
        name: as it is exposed; of counters it ends in ``_total``.
        kind: of Prometheus.
        help: one line.
        labels: names of its labels, in order.
        buckets: of a histogram, their upper ends.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


@dataclass
class Distribution:
    """How often values fell into each bucket, the last one without an end, and their sum."""

    counts: list[int]
    sum: float = 0.0

    def add(self, value: float, buckets: Sequence[float]) -> None:
        """One more."""
        self.counts[bisect_left(buckets, value)] += 1
        self.sum += value


Number = float | Distribution
Samples = Sequence[tuple[Sequence[str], Number]]
"""Values of labels, in the order of the measure's, and the number."""


@dataclass
class Tally:
    """Counts for the measures of a table, whose own label there is at most one of.

    Args:
        table: what can be counted.

    Example:
        >>> tally = Tally([Measure("eggs_total", "counter", "Eggs laid", ("colour",))])
        >>> tally.add("eggs_total", label="white")
        >>> tally.snapshot()
        {'eggs_total': {'white': 1}}
    """

    table: Iterable[Measure]
    _measures: dict[str, Measure] = field(init=False)
    _numbers: dict[str, dict[str, Number]] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._measures = {one.name: one for one in self.table}
        self._numbers = {name: {} for name in self._measures}

    def add(self, name: str, value: float = 1, *, label: str = "") -> None:
        """So many more."""
        with self._lock:
            numbers = self._numbers[name]
            before = numbers.get(label, 0)
            assert not isinstance(before, Distribution)
            numbers[label] = before + value

    def set(self, name: str, value: float, *, label: str = "") -> None:
        """So many now."""
        with self._lock:
            self._numbers[name][label] = value

    def observe(self, name: str, value: float, *, label: str = "") -> None:
        """One more value of a histogram."""
        with self._lock:
            numbers, buckets = self._numbers[name], self._measures[name].buckets
            found = numbers.setdefault(label, Distribution([0] * (len(buckets) + 1)))
            assert isinstance(found, Distribution)
            found.add(value, buckets)

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        with self._lock:
            return {
                name: {label: _plain(number) for label, number in numbers.items()}
                for name, numbers in self._numbers.items()
                if numbers
            }


def _plain(number: Number) -> Any:
    return {"counts": list(number.counts), "sum": number.sum} if isinstance(number, Distribution) else number


def read(measure: Measure, told: object) -> dict[str, Number]:
    """The numbers of one measure in a snapshot, by label, without what is none of its kind.

    A worker of another version may count other things, or in other buckets: those are left out.
    """
    found: dict[str, Number] = {}
    for label, number in told.items() if isinstance(told, Mapping) else ():
        if measure.kind == "histogram":
            if isinstance(number, Mapping) and len(number.get("counts", ())) == len(measure.buckets) + 1:
                found[str(label)] = Distribution([int(one) for one in number["counts"]], float(number.get("sum", 0)))
        elif isinstance(number, int | float):
            found[str(label)] = number
    return found


def exposition(families: Iterable[tuple[Measure, Samples]]) -> str:
    """Measures with their numbers as Prometheus reads them."""
    return "".join(line + "\n" for measure, samples in families for line in _family(measure, samples))


def _family(measure: Measure, samples: Samples) -> Iterable[str]:
    yield f"# HELP {measure.name} {measure.help}"
    yield f"# TYPE {measure.name} {measure.kind}"
    for values, number in samples:
        labels = tuple(zip(measure.labels, values, strict=True))
        if isinstance(number, Distribution):
            yield from _histogram(measure, labels, number)
        else:
            yield _line(measure.name, labels, number)


def _histogram(measure: Measure, labels: tuple[tuple[str, str], ...], number: Distribution) -> Iterable[str]:
    ends = [*map(_text, measure.buckets), "+Inf"]
    so_far = list(accumulate(number.counts))
    for end, count in zip(ends, so_far, strict=True):
        yield _line(f"{measure.name}_bucket", (*labels, ("le", end)), count)
    yield _line(f"{measure.name}_sum", labels, number.sum)
    yield _line(f"{measure.name}_count", labels, so_far[-1])


def _line(name: str, labels: Sequence[tuple[str, str]], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels)
    return f"{name}{{{inside}}} {_text(value)}" if inside else f"{name} {_text(value)}"


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
