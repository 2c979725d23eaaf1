"""Workers that are killed, or hang: others do their jobs, once, and with the right values."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from tests.faults.fragile import CARD, PATH, SLOW
from tests.faults.parts import LEASE_SECONDS, Part, Stack, stack, until
from tests.faults.people import Person, fit, fragile, generation, terminal_events, trace

pytestmark = pytest.mark.faults
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def holder(service: Stack, job: str) -> str:
    """The worker that has a job."""
    with service.redis() as client:
        found = client.hget(f"telepatch:job:{job}", "worker")
    return "" if found is None else found.decode()


def part_of(service: Stack, worker: str) -> Part:
    """Its process."""
    pid = int(worker.rsplit("-", 2)[1])
    return next(part for part in service.workers if part.alive and part.pid == pid)


def test_what_a_killed_worker_was_generating_is_completed_by_another(mended: Stack, ada: Person, expected) -> None:
    documents = [generation([5, 6, at], 200) for at in range(4)]
    ids = ada.submit(*documents)
    until(lambda: all(holder(mended, id) for id in ids), 30, 0.005)
    part_of(mended, holder(mended, ids[0])).kill()
    assert set(ada.ended(ids).values()) == {"completed"}
    for id, document in zip(ids, documents, strict=True):
        assert ada.values(id)["tokens"].tolist() == expected(document)["tokens"].tolist()
    ends = terminal_events(mended, "local")
    assert [ends[id] for id in ids] == [1] * 4


def test_a_fit_goes_on_from_its_checkpoint_when_its_worker_is_killed(mended: Stack, ada: Person, expected) -> None:
    document = fit(2000, checkpoint_every=50)
    [id] = ada.submit(document)
    with mended.redis() as client:
        until(lambda: client.hget(f"telepatch:job:{id}", "checkpoint"), 60, 0.005)
        first = holder(mended, id)
        part_of(mended, first).kill()
        kept = client.hget(f"telepatch:job:{id}", "checkpoint")
    assert kept, "it was over before its worker could be killed"
    assert ada.ended([id]) == {id: "completed"}
    found, wanted = ada.values(id), expected(document)
    np.testing.assert_array_equal(found["loss"], wanted["loss"])
    np.testing.assert_array_equal(found["W"], wanted["W"])
    assert holder(mended, id) != first
    assert terminal_events(mended, "local")[id] == 1


def test_a_worker_that_hangs_loses_its_jobs_and_what_it_gives_later_is_refused(
    mended: Stack, ada: Person, expected
) -> None:
    document = generation([9, 8, 7], 220)
    [id] = ada.submit(document)
    worker = until(lambda: holder(mended, id), 30, 0.005)
    hanging = part_of(mended, worker)
    hanging.pause()
    try:
        until(lambda: holder(mended, id) not in ("", worker), 60)
        assert ada.ended([id]) == {id: "completed"}
        wanted = expected(document)["tokens"].tolist()
        assert ada.values(id)["tokens"].tolist() == wanted
    finally:
        hanging.resume()
    until(lambda: worker in {name.removeprefix("telepatch:worker:") for name in mended.serving()}, 60)
    until(lambda: f'"job": "{id}"' in hanging.said(), 30)
    assert terminal_events(mended, "local")[id] == 1
    assert ada.values(id)["tokens"].tolist() == wanted
    [again] = ada.submit(trace([1, 2, 3]))
    assert ada.ended([again]) == {again: "completed"}


def test_no_job_is_taken_by_two_workers(mended: Stack, ada: Person) -> None:
    ids = ada.submit(*[trace([1 + at % 200, 2, 3]) for at in range(300)])
    assert set(ada.ended(ids).values()) == {"completed"}
    with mended.redis() as client:
        events = client.xrange("telepatch:person:local:events")
    begun = [fields[b"job"].decode() for _, fields in events if fields[b"type"] == b"running"]
    assert sorted(one for one in begun if one in set(ids)) == sorted(ids)
    ends = terminal_events(mended, "local")
    assert {ends[id] for id in ids} == {1}


@pytest.fixture(scope="module")
def alone() -> Iterator[Stack]:
    """A service with a single worker, of a model that is slow when asked to be."""
    with stack() as made:
        made.gateway()
        made.worker(str(CARD), PYTHONPATH=PATH)
        made.ready()
        yield made


@pytest.fixture
def bob(alone: Stack) -> Iterator[Person]:
    person = Person(alone)
    yield person
    person.close()


def test_a_worker_that_is_killed_in_the_middle_of_a_batch_and_started_again_completes_it(
    alone: Stack, bob: Person
) -> None:
    ids = bob.submit(fragile(SLOW), *[fragile(float(at)) for at in range(5)])
    until(lambda: all(holder(alone, id) for id in ids), 30, 0.005)
    alone.workers[0].kill()
    alone.workers[0].start()
    assert set(bob.ended(ids).values()) == {"completed"}
    in_company = bob.values(ids[1])["y"]
    later = bob.submit(fragile(0.0))
    bob.ended(later)
    np.testing.assert_allclose(bob.values(later[0])["y"], in_company, **CLOSE)
    ends = terminal_events(alone, "local")
    assert [ends[id] for id in ids] == [1] * 6


def test_the_only_worker_hangs_for_longer_than_its_leases_and_goes_on_with_what_it_has(
    alone: Stack, bob: Person
) -> None:
    ids = bob.submit(fragile(SLOW), *[fragile(float(at)) for at in range(5)])
    until(lambda: all(holder(alone, id) for id in ids), 30, 0.005)
    alone.workers[0].pause()
    time.sleep(2 * LEASE_SECONDS)
    alone.workers[0].resume()
    assert bob.ended(ids) == dict.fromkeys(ids, "completed")
    ends = terminal_events(alone, "local")
    assert [ends[id] for id in ids] == [1] * 6
