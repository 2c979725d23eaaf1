"""What a gateway's ``/metrics`` says at one moment, and what happened between two of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.M)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Reading:
    """Samples by name.

    Attributes:
        at: when it was taken, in seconds of any clock.
        samples: labels and value of each.
    """

    at: float
    samples: Mapping[str, list[tuple[Labels, float]]] = field(default_factory=dict)

    @staticmethod
    def of(text: str, at: float) -> Reading:
        """Read what Prometheus would."""
        found: dict[str, list[tuple[Labels, float]]] = {}
        for name, labels, value in _LINE.findall(text):
            inside = {key: _ESCAPED.sub(_meant, told) for key, told in _LABEL.findall(labels)}
            found.setdefault(name, []).append((inside, float(value)))
        return Reading(at, found)

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(value for _, value in self.of_labels(name, **labels))

    def most(self, name: str, **labels: str) -> float:
        """The largest of them; 0 if there is none."""
        return max((value for _, value in self.of_labels(name, **labels)), default=0.0)

    def of_labels(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """The samples that have these labels."""
        for told, value in self.samples.get(name, ()):
            if labels.items() <= dict(told).items():
                yield told, value

    def values(self, name: str, label: str) -> list[str]:
        """The values of a label, in order."""
        return sorted({told[label] for told, _ in self.samples.get(name, ()) if label in told})


@dataclass(frozen=True)
class Between:
    """What happened from one reading to the next."""

    before: Reading
    now: Reading

    def rate(self, name: str, **labels: str) -> float:
        """How many more a second; what began anew in between counts from nothing."""
        seconds = self.now.at - self.before.at
        return self._more(name, **labels) / seconds if seconds > 0 else 0.0

    def mean(self, histogram: str, **labels: str) -> float | None:
        """The mean of what was counted in between; of all that was ever counted where nothing was, None without any."""
        count, total = self._more(f"{histogram}_count", **labels), self._more(f"{histogram}_sum", **labels)
        if not count:
            count = self.now.total(f"{histogram}_count", **labels)
            total = self.now.total(f"{histogram}_sum", **labels)
        return total / count if count else None

    def _more(self, name: str, **labels: str) -> float:
        """By series, since workers come and go."""
        earlier = {tuple(sorted(told.items())): value for told, value in self.before.of_labels(name, **labels)}
        found = 0.0
        for told, value in self.now.of_labels(name, **labels):
            past = earlier.get(tuple(sorted(told.items())), 0.0)
            found += value - past if value >= past else value
        return found


def _meant(escaped: re.Match[str]) -> str:
    return "\n" if escaped[1] == "n" else escaped[1]
