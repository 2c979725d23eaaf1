"""``python -m bench.crowd``: people who each send one trace after the other, in a process of their own.

The first line of standard input says where they ask and with which keys; each further line is a window of time in which
so many of them do, and is answered by one line of what each of them saw. Everybody has a connection and a thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import telepatch
from bench.stack import one_trace, prompt


@dataclass(frozen=True)
class Seen:
    """What people saw in a window.

    Attributes:
        ended: jobs that ended in it.
        waits: seconds that each of them waited for each of their jobs, those included that end after it.
        cpu: seconds of CPU of their process, for all these jobs.
    """

    ended: int
    waits: list[list[float]]
    cpu: float

    @property
    def jobs(self) -> int:
        return sum(map(len, self.waits))


class Person:
    """Somebody with a key and a connection."""

    def __init__(self, number: int, url: str, model: str, key: str) -> None:
        self.lab = telepatch.connect(url, key, progress=False, show=None)
        self.model = self.lab.model(model)
        self.number = number
        self.sent = 0

    def ask(self) -> None:
        """One job, and its values."""
        self.sent += 1
        ids = prompt(self.model.card.vocabulary, 1009 * self.number + self.sent)
        telepatch.gather(one_trace(self.model, ids))

    def keep_asking(self, begin: threading.Barrier, until: list[float], waits: list[float], ends: list[float]) -> None:
        """One job after the other, until it is too late to begin another."""
        begin.wait()
        while (begun := time.perf_counter()) < until[0]:
            self.ask()
            ends.append(time.perf_counter())
            waits.append(ends[-1] - begun)


def window(people: Sequence[Person], lead: float, seconds: float) -> Seen:
    """Have people ask; the jobs that end in the first `lead` seconds are not counted, nor waited for in the figures."""
    waits: list[list[float]] = [[] for _ in people]
    ends: list[list[float]] = [[] for _ in people]
    until, begin = [0.0], threading.Barrier(len(people) + 1)
    threads = [
        threading.Thread(target=one.keep_asking, args=(begin, until, mine, at))
        for one, mine, at in zip(people, waits, ends, strict=True)
    ]
    for thread in threads:
        thread.start()
    until[0] = time.perf_counter() + lead + seconds
    used = time.process_time()
    begin.wait()
    for thread in threads:
        thread.join()
    used = time.process_time() - used
    counted = sum(until[0] - seconds < at <= until[0] for mine in ends for at in mine)
    return Seen(counted, waits, used)


def main() -> None:
    """Connect, and answer each line with a window."""
    warnings.simplefilter("ignore", telepatch.SlowLoop)  # looking at each value is what is measured
    where = json.loads(sys.stdin.readline())
    people = [Person(number, where["url"], where["model"], key) for number, key in where["keys"]]
    for one in people:
        one.ask()
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        found = window(people[: asked["people"]], asked["lead"], asked["seconds"])
        print(json.dumps(vars(found)), flush=True)


class Crowd:
    """People in a few processes, as the bench sees them."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self.processes = processes

    def ask(self, people: int, lead: float, seconds: float) -> Seen:
        """A window with so many of them, spread over the processes."""
        shares = [len(range(place, people, len(self.processes))) for place in range(len(self.processes))]
        busy = [(one, share) for one, share in zip(self.processes, shares, strict=True) if share]
        for one, share in busy:
            _say(one, {"people": share, "lead": lead, "seconds": seconds})
        found = [Seen(**json.loads(_heard(one))) for one, _ in busy]
        waits = [mine for one in found for mine in one.waits]
        return Seen(sum(one.ended for one in found), waits, sum(one.cpu for one in found))


@contextmanager
def crowd(url: str, model: str, keys: Sequence[str], processes: int) -> Iterator[Crowd]:
    """People who have connected and have had an answer each."""
    command = [sys.executable, "-m", "bench.crowd"]
    made = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        for place, one in enumerate(made):
            mine: list[Any] = list(enumerate(keys))[place::processes]
            _say(one, {"url": url, "model": model, "keys": mine})
        for one in made:
            _heard(one)
        yield Crowd(made)
    finally:
        for one in made:
            assert one.stdin is not None
            one.stdin.close()
        for one in made:
            one.wait(60)


def _say(process: subprocess.Popen[str], what: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


def _heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the people's process ended")
    return line


if __name__ == "__main__":
    main()
