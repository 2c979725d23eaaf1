"""Memory of processes over time: whether it is flat."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

MIB = 2**20


@dataclass
class Held:
    """What processes held, look by look.

    Attributes:
        at: seconds since the beginning.
        bytes: of each process, by name.
    """

    at: list[float] = field(default_factory=list)
    bytes: dict[str, list[int]] = field(default_factory=dict)

    def after(self, seconds: float) -> Held:
        """Without the first seconds, in which caches fill."""
        first = next((place for place, at in enumerate(self.at) if at >= seconds), 0)
        return Held(self.at[first:], {name: held[first:] for name, held in self.bytes.items()})

    def ratio(self, name: str) -> float:
        """The median of the last quarter beside that of the first."""
        held = self.bytes[name]
        quarter = max(1, len(held) // 4)
        return statistics.median(held[-quarter:]) / statistics.median(held[:quarter])

    def slope(self, name: str) -> float:
        """Bytes a second, of the line with the least squares."""
        if len(set(self.at)) < 2:
            return 0.0
        return statistics.linear_regression(self.at, self.bytes[name]).slope


@contextmanager
def watched(processes: Mapping[str, psutil.Process], every: float) -> Iterator[Held]:
    """Look at the processes, and at this one, until the block ends."""
    all_of_them = {**processes, "driver": psutil.Process(os.getpid())}
    held = Held(bytes={name: [] for name in all_of_them})
    begun, ending = time.perf_counter(), threading.Event()

    def look() -> None:
        while not ending.wait(every):
            found = {name: int(one.memory_info().rss) for name, one in all_of_them.items()}
            held.at.append(time.perf_counter() - begun)
            for name, bytes_held in found.items():
                held.bytes[name].append(bytes_held)

    watcher = threading.Thread(target=look, name="watching", daemon=True)
    watcher.start()
    try:
        yield held
    finally:
        ending.set()
        watcher.join()
