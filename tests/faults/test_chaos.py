"""A thousand jobs while parts of the service are killed at random: each ends once, rightly or with a named reason."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.faults.parts import Part, Stack, stack
from tests.faults.people import Document, Person, child, fit, generation, terminal_events, trace

from telepatch_protocol.errors import ERRORS, JobError
from telepatch_protocol.jobs import new_job_id

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

JOBS, KILLS, SEED = 1000, 20, 20261130
PEOPLE = ("ada", "bob", "eve")
AT_ONCE = 10
EVERY_SECONDS = (3.0, 7.0)
END_SECONDS = 900.0
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
Values = dict[str, np.ndarray[Any, Any]]
Expected = Callable[..., Values]


@dataclass
class Sent:
    """A job that was accepted."""

    id: str
    document: Document
    parent: str | None = None


@dataclass
class Programme:
    """What one person does: jobs of all kinds, in bunches, as somebody's study would.

    Attributes:
        sent: what was accepted so far.
    """

    person: Person
    draw: random.Random
    jobs: int
    sent: list[Sent] = field(default_factory=list)

    def run(self) -> None:
        """Send everything."""
        while len(self.sent) < self.jobs:
            bunch = self.bunch(min(AT_ONCE, self.jobs - len(self.sent)))
            self.person.submit(*[one.document for one in bunch], ids=[one.id for one in bunch])
            self.sent += bunch
            time.sleep(self.draw.uniform(1.0, 3.5))

    def bunch(self, count: int) -> list[Sent]:
        """Some jobs, of which some use values of those before."""
        made: list[Sent] = []
        for _ in range(count):
            prompt = [self.draw.randrange(1, 250) for _ in range(self.draw.randrange(2, 9))]
            parents = [one for one in (*self.sent, *made) if "h" in one.document["saves"]]
            kind = self.draw.choices(("trace", "write", "child", "generation", "fit"), (45, 20, 22, 12, 1))[0]
            if kind == "child" and parents:
                parent = self.draw.choice(parents[-20:])
                made.append(Sent(new_job_id(), child(parent.id, prompt), parent.id))
            elif kind == "generation":
                made.append(Sent(new_job_id(), generation(prompt, self.draw.randrange(5, 120))))
            elif kind == "fit":
                document = fit(self.draw.randrange(200, 1200), self.draw.randrange(99), checkpoint_every=50)
                made.append(Sent(new_job_id(), document))
            else:
                made.append(Sent(new_job_id(), trace(prompt, value=2.0 if kind == "write" else None)))
        return made


class Killer:
    """Kills parts of a service by a seeded schedule, and starts each again after a while.

    Args:
        service: the service.
        seed: of the schedule.
    """

    def __init__(self, service: Stack, seed: int) -> None:
        self._service = service
        self._draw = random.Random(seed)
        self.killed: list[str] = []

    def run(self) -> None:
        """All of it."""
        for _ in range(KILLS):
            time.sleep(self._draw.uniform(*EVERY_SECONDS))
            group = self._draw.choice(("worker", "worker", "gateway", "queue"))
            part = self._draw.choice(self._of(group))
            if not part.alive:
                part = self._draw.choice([one for one in self._service.parts() if one.alive])
            self.killed.append(part.name)
            part.kill()
            again = 0.3 if part is self._service.queue else self._draw.uniform(0.2, 3.0)
            threading.Timer(again, part.start).start()

    def _of(self, group: str) -> list[Part]:
        service = self._service
        return {"worker": service.workers, "gateway": service.gateways, "queue": [service.queue]}[group]


def test_a_thousand_jobs_end_once_and_right_while_parts_are_killed(expected: Expected) -> None:
    with stack(PEOPLE) as service:
        for _ in range(2):
            service.gateway()
            service.worker()
        service.ready()
        began = time.monotonic()
        draw = random.Random(SEED)
        shares = [JOBS // len(PEOPLE) + (at < JOBS % len(PEOPLE)) for at in range(len(PEOPLE))]
        programmes = [
            Programme(Person(service, name, at % 2), random.Random(draw.random()), share)
            for at, (name, share) in enumerate(zip(PEOPLE, shares, strict=True))
        ]
        killer = Killer(service, SEED)
        threads = [threading.Thread(target=one.run) for one in (*programmes, killer)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sent = time.monotonic() - began
        states = {}
        for one in programmes:
            states |= one.person.ended([job.id for job in one.sent], END_SECONDS)
        took = time.monotonic() - began
        told = Counter[str]()
        for name in PEOPLE:
            told += terminal_events(service, name)
        jobs = [job for one in programmes for job in one.sent]
        reasons = _reasons(programmes, states)
        checked = _check_values(programmes, states, expected)
        for one in programmes:
            one.person.close()
    print(
        f"\n{len(jobs)} jobs and {len(killer.killed)} kills ({dict(Counter(killer.killed))}): sent in {sent:.0f} s, "
        f"over after {took:.0f} s; {dict(Counter(states.values()))}, {checked} values right, reasons {dict(reasons)}"
    )
    assert len(jobs) == len(states) == JOBS
    assert len(killer.killed) == KILLS
    assert {told[job.id] for job in jobs} == {1}, "a job was told to have ended twice, or never"
    assert set(states.values()) <= {"completed", "failed"}
    assert all(issubclass(ERRORS[code], JobError) for code in reasons)
    assert sum(reasons.values()) <= JOBS // 50, "too many have failed"


def _reasons(programmes: list[Programme], states: dict[str, str]) -> Counter[str]:
    """Why those failed that did."""
    found: Counter[str] = Counter()
    for one in programmes:
        for job in one.sent:
            if states[job.id] != "completed":
                found[one.person.status(job.id)["error"]["code"]] += 1
    return found


def _check_values(programmes: list[Programme], states: dict[str, str], expected: Expected) -> int:
    """Compare everything that came with what the same documents give here; how many values there were."""
    count = 0
    for one in programmes:
        here: dict[str, Values] = {}
        for job in one.sent:
            given = {} if job.parent is None else {(job.parent, "h"): here[job.parent]["h"]}
            here[job.id] = expected(job.document, given)
            if states[job.id] != "completed":
                continue
            found = one.person.values(job.id)
            assert found.keys() == here[job.id].keys()
            for name, value in found.items():
                if name == "tokens":
                    assert value.tolist() == here[job.id][name].tolist(), job
                else:
                    np.testing.assert_allclose(value, here[job.id][name], **CLOSE, err_msg=str(job))
                count += 1
    return count
