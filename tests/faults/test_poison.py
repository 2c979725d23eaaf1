"""Jobs that raise, want too much memory or kill their worker: they end alone, and those beside them complete."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from tests.faults.fragile import CARD, HUGE, KILL, NOT_A_NUMBER, PATH, RAISE, make
from tests.faults.parts import Stack, stack
from tests.faults.people import Person, fragile, terminal_events

pytestmark = pytest.mark.faults
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def service() -> Iterator[Stack]:
    """A gateway, and a worker of a model that does what its input asks for."""
    with stack() as made:
        made.gateway()
        made.worker(str(CARD), PYTHONPATH=PATH)
        made.ready()
        yield made


@pytest.fixture
def ada(service: Stack) -> Iterator[Person]:
    person = Person(service)
    yield person
    person.close()


def expected(first: float) -> np.ndarray:
    import torch

    with torch.no_grad():
        return make(None, {}).eval()(torch.tensor([[first, 0.5, 0.5, 0.5]])).numpy()


def check(ada: Person, ids: list[str], firsts: range) -> None:
    """All of them have completed, with the values of the module itself."""
    assert set(ada.ended(ids).values()) == {"completed"}
    for id, first in zip(ids, firsts, strict=True):
        np.testing.assert_allclose(ada.values(id)["y"], expected(float(first)), **CLOSE)


def test_jobs_that_raise_lack_memory_or_give_no_numbers_do_so_alone(service: Stack, ada: Person) -> None:
    firsts = range(12)
    documents = [fragile(float(first)) for first in firsts]
    ids = ada.submit(*documents[:6], fragile(RAISE), fragile(HUGE), fragile(NOT_A_NUMBER), *documents[6:])
    raises, lacks, odd = ids[6:9]
    check(ada, ids[:6] + ids[9:], firsts)
    assert ada.ended([raises, lacks, odd]) == {raises: "failed", lacks: "failed", odd: "completed"}
    error = ada.status(raises)["error"]
    assert (error["code"], "this row cannot be" in error["detail"]) == ("execution_error", True)
    assert ada.status(lacks)["error"]["code"] == "out_of_memory"
    assert np.isnan(ada.values(odd)["y"]).all()


@contextmanager
def supervised(service: Stack) -> Iterator[list[float]]:
    """The worker is started again whenever it dies, as an init system does; gives when it died."""
    deaths: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if not service.workers[0].alive:
                deaths.append(time.monotonic())
                service.workers[0].start()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield deaths
    finally:
        over.set()
        thread.join()


def command(service: Stack, *words: str) -> str:
    """What the operator is told by ``telepatch quarantine``."""
    told = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "from telepatch_server.quarantine import app; app()",
            *words,
            "--redis-url",
            service.redis_url,
            "--blobs",
            str(service.home / "blobs"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout


def test_a_job_that_kills_its_worker_twice_is_put_into_quarantine_and_those_beside_it_complete(
    service: Stack, ada: Person
) -> None:
    firsts = range(10)
    documents = [fragile(float(first)) for first in firsts]
    with supervised(service) as deaths:
        ids = ada.submit(*documents[:5], fragile(KILL), *documents[5:])
        bad = ids[5]
        assert ada.ended([bad], 240) == {bad: "failed"}
        check(ada, ids[:5] + ids[6:], firsts)
    assert len(deaths) == 2
    error = ada.status(bad)["error"]
    assert error["code"] == "worker_lost"
    assert "2 workers died while they had this job; it was put into quarantine" in error["detail"]
    ends = terminal_events(service, "local")
    assert [ends[id] for id in ids] == [1] * 11
    assert bad in command(service, "list")
    shown = command(service, "show", bad)
    assert shown.count(" died, seen ") == 2
    worker = next(line.split()[1] for line in shown.splitlines() if line.startswith("worker"))
    assert f'"worker": "{worker}"' in service.workers[0].said(), "the log of a worker is found by its name"
    assert '"head:output"' in command(service, "show", bad, "--document")
    again = command(service, "release", bad).strip()
    assert ada.state(again) in ("queued", "running")
    ada.ask("DELETE", f"/v1/jobs/{again}")
    with supervised(service):
        [good] = ada.submit(fragile(3.0))
        check(ada, [good], range(3, 4))
