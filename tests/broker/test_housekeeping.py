"""RQ runs our own functions, and nothing else that it finds in Redis."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Webhook
from rq.job import Job
from rq.serializers import JSONSerializer

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.housekeeping import Housekeeping, broker_tasks
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_broker.tasks import Tasks
from telepatch_protocol.errors import NotFound
from telepatch_protocol.jobs import new_job_id


class Notes:
    """What the tasks of the tests did."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def write(self, *values: Any) -> str:
        self.seen.append(values)
        return "written"

    async def write_later(self, value: Any) -> None:
        self.seen.append(value)

    def fail(self) -> None:
        raise ValueError("no")


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def house(redis_url: str, notes: Notes) -> Housekeeping:
    return Housekeeping(redis_url, Tasks({"write": notes.write, "later": notes.write_later, "fail": notes.fail}))


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def queue(server: redis.Redis) -> Queue:
    """The queue as a stranger with access to Redis would use it."""
    return Queue("housekeeping", connection=server, serializer=JSONSerializer)


def is_failed(server: redis.Redis, id: str) -> bool:
    return server.hget(f"rq:job:{id}", "status") == b"failed"


def test_a_task_of_the_table_runs(house: Housekeeping, notes: Notes) -> None:
    with house.run():
        first, second = house.enqueue("write", 1, "two"), house.enqueue("later", {"three": 3})
        eventually(lambda: house.state(first) == house.state(second) == "finished")
    assert notes.seen == [(1, "two"), {"three": 3}]


def test_a_task_that_fails_says_so_and_the_next_one_runs(house: Housekeeping, notes: Notes) -> None:
    with house.run():
        failed, fine = house.enqueue("fail"), house.enqueue("write")
        eventually(lambda: house.state(fine) == "finished")
        assert house.state(failed) == "failed"


def test_a_name_that_is_not_in_the_table_is_not_even_queued(house: Housekeeping, server: redis.Redis) -> None:
    with pytest.raises(NotFound, match=r"os\.system"):
        house.enqueue("os.system", "true")
    with pytest.raises(NotFound):
        house.every(1, "os.system")
    assert list(server.scan_iter("rq:job:*")) == []


def test_hostile_jobs_written_into_redis_are_refused(
    house: Housekeeping, notes: Notes, server: redis.Redis, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    names = ["os.system", "subprocess.call", "builtins.print", "write.__call__", "__getitem__"]
    jobs = [queue(server).enqueue_call(name, args=(f"touch {proof}",)) for name in names]
    with house.run():
        eventually(lambda: all(is_failed(server, job.id) for job in jobs))
        fine = house.enqueue("write")
        eventually(lambda: house.state(fine) == "finished")
    assert not proof.exists()


def test_jobs_with_callbacks_are_refused_and_neither_runs(
    house: Housekeeping, notes: Notes, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks = ["on_success", "on_failure", "on_stopped"]
    jobs = [
        queue(server).enqueue_call(name, **{callback: Callback("never_imported.touch")})
        for callback in callbacks
        for name in ("write", "fail")
    ]
    with house.run():
        eventually(lambda: all(is_failed(server, job.id) for job in jobs))
        fine = house.enqueue("write", "fine")
        eventually(lambda: house.state(fine) == "finished")
    assert notes.seen == [("fine",)]
    assert "never_imported'" not in caplog.text


def test_a_job_with_a_webhook_is_refused(house: Housekeeping, notes: Notes, server: redis.Redis) -> None:
    job = queue(server).enqueue_call("write", webhooks=[Webhook("http://127.0.0.1:9/", "finished")])
    with house.run():
        eventually(lambda: is_failed(server, job.id))
    assert notes.seen == []


def test_a_job_that_calls_a_method_is_refused(house: Housekeeping, notes: Notes, server: redis.Redis) -> None:
    job = Job.create("append", args=[1], connection=server, serializer=JSONSerializer)
    job._instance = [0]
    queue(server).enqueue_job(job)
    with house.run():
        eventually(lambda: is_failed(server, job.id))


def test_a_pickle_in_redis_is_never_loaded(house: Housekeeping, server: redis.Redis, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    # What pickle would read as os.system("touch ...").
    bomb = f"cos\nsystem\n(S'touch {proof}'\ntR.".encode()
    job = queue(server).enqueue_call("write")
    members = {"data": bomb, "meta": bomb, "result": bomb, "group_id": "g"}
    server.hset(f"rq:job:{job.id}", mapping=members)
    server.sadd("rq:groups", "rq:group:g")
    server.sadd("rq:group:g", job.id)
    server.xadd(f"rq:results:{job.id}", {"type": 1, "return_value": base64.b64encode(bomb)})
    with house.run():
        fine = house.enqueue("write")
        eventually(lambda: house.state(fine) == "finished")
    assert not proof.exists()


def test_broken_jobs_do_not_stop_the_others(house: Housekeeping, server: redis.Redis) -> None:
    for fields in ({"status": b"strange"}, {"timeout": b"soon"}, {"\xff": b""}, {"data": b""}):
        job = queue(server).enqueue_call("write")
        server.hset(f"rq:job:{job.id}", mapping=fields)
    with house.run():
        fine = house.enqueue("write")
        eventually(lambda: house.state(fine) == "finished", 20)


def test_commands_from_redis_do_not_reach_the_process(house: Housekeeping, server: redis.Redis, notes: Notes) -> None:
    with house.run():
        eventually(lambda: server.smembers("rq:workers"))
        [key] = server.smembers("rq:workers")
        assert server.publish(f"rq:pubsub:{key.decode().split(':')[-1]}", '{"command": "shutdown"}') == 0


def test_it_stops_within_seconds_and_leaves_no_thread(house: Housekeeping, server: redis.Redis) -> None:
    with house.run():
        eventually(lambda: server.smembers("rq:workers"))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert server.smembers("rq:workers") == set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("housekeeping")]


def test_one_that_waits_for_tasks_ends_at_once(house: Housekeeping, server: redis.Redis) -> None:
    with house.run():
        eventually(lambda: [one for one in server.client_list() if "b" in one["flags"]])
        began = time.monotonic()
    assert time.monotonic() - began < 0.6


def test_a_periodic_task_runs_once_per_period_for_all_processes(redis_url: str, notes: Notes) -> None:
    houses = [Housekeeping(redis_url, Tasks({"write": notes.write})) for _ in range(2)]
    for house in houses:
        house.every(0.5, "write", "tick")
    began = time.monotonic()
    with houses[0].run(), houses[1].run():
        eventually(lambda: len(notes.seen) >= 4)
        assert time.monotonic() - began > 1.2


async def test_results_expire_by_the_room_s_own_task(redis_url: str, lane: Lane, blobs: DirectoryBlobs) -> None:
    short = Lane(lane._redis, blobs, result_seconds=0.01)
    job = NewJob(new_job_id(), "ada", "gpt2", b"{}")
    await short.submit([job])
    await short.take("gpt2", "w1")
    await short.complete(job.id, "w1", saves={}, result=b"x")
    house = Housekeeping(redis_url, Tasks(broker_tasks(redis_url, blobs)))
    house.every(0.2, "expire_results")
    house.every(0.2, "reclaim")
    with house.run():
        while await lane._redis.hexists(f"telepatch:job:{job.id}", "inline"):
            await asyncio.sleep(0.05)
