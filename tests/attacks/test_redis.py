"""Whoever can write to Redis can break the service, but cannot make a gateway or a worker run anything of theirs."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from rq import Callback, Queue, Repeat, Webhook
from rq.group import Group
from rq.job import Job
from rq.serializers import JSONSerializer

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.housekeeping import Housekeeping
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol.jobs import ENDED, new_job_id
from telepatch_worker.service import housekeeping
from telepatch_worker.serving import Serving
from telepatch_worker.settings import Settings

QUEUE = "worker-housekeeping"
MODEL = "gpt2-random"


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Redis, as the attacker has it: everything can be written."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What an attack that works would make."""
    return tmp_path / "marker"


@pytest.fixture
def house(redis_url: str, tmp_path: Path) -> Housekeeping:
    """The housekeeping of a real worker, with its own tasks."""
    models = tmp_path / "models"
    models.mkdir()
    settings = Settings(model=MODEL, models=models, redis_url=redis_url, blobs=tmp_path / "blobs", cache=tmp_path / "c")
    return housekeeping(settings, DirectoryBlobs(tmp_path / "blobs"))


def stranger(server: redis.Redis, name: str = QUEUE) -> Queue:
    """The queue with RQ's own class of jobs."""
    return Queue(name, connection=server, serializer=JSONSerializer)


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def pickled(marker: Path) -> bytes:
    """What pickle would read as ``os.system("touch ...")``."""
    return f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()


def lives(house: Housekeeping) -> None:
    """It still does what it is there for."""
    fine = house.enqueue("expire_results")
    eventually(lambda: house.state(fine) == "finished")


NAMES = [
    *("os.system", "posix.system", "subprocess.call", "subprocess.getoutput", "builtins.exec", "builtins.eval", "eval"),
    *(
        "pty.spawn",
        "runpy.run_path",
        "importlib.import_module",
        "telepatch_worker.loaders.call_loader",
        "shutil.rmtree",
    ),
    *("telepatch_broker.housekeeping.broker_tasks", "telepatch_worker.service.main", "rq.utils.import_attribute"),
    *("expire_results.__globals__", "expire_results.__call__", "__class__", "", " expire_results", "expire_results\n"),
    *("EXPIRE_RESULTS", "expire\u005fresults ", "ｅxpire_results", "../expire_results", "fetch_model;os.system"),
]


def test_jobs_by_any_name_but_our_own_are_refused(house: Housekeeping, server: redis.Redis, marker: Path) -> None:
    command = f"touch {marker}"
    jobs = [stranger(server).enqueue_call(name or "x", args=(command,)) for name in NAMES]
    for job, name in zip(jobs, NAMES, strict=True):
        server.hset(job.key, "data", JSONSerializer.dumps([name, None, [command], {}]))
    with house.run():
        eventually(lambda: all(server.hget(job.key, "status") == b"failed" for job in jobs))
        lives(house)
    assert not marker.exists()


def test_everything_that_rq_hangs_on_a_job_is_refused(
    house: Housekeeping, server: redis.Redis, marker: Path, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef run(*args, **more): pass\n")
    evil = "evil.run"
    queue = stranger(server)
    jobs = [
        queue.enqueue_call("expire_results", on_success=Callback(evil)),
        queue.enqueue_call("no_such_task", on_failure=Callback(evil)),
        queue.enqueue_call("expire_results", on_stopped=Callback(evil)),
        queue.enqueue_call("expire_results", webhooks=[Webhook("http://127.0.0.1:9/", "finished")]),
        queue.enqueue_call("expire_results", repeat=Repeat(times=1000, interval=0)),
    ]
    for field in ("success_callback_name", "failure_callback_name", "stopped_callback_name"):
        jobs.append(queue.enqueue_call("expire_results"))
        server.hset(jobs[-1].key, field, evil)
    dependent = Job.create("os.system", [f"touch {marker}"], connection=server, serializer=JSONSerializer)
    with house.run():
        eventually(lambda: all(server.hget(job.key, "status") == b"failed" for job in jobs))
        first = house.enqueue("expire_results")
        dependent._dependency_ids = [first]
        dependent.save()
        server.sadd(f"rq:job:{first}:dependents", dependent.id)
        lives(house)
    assert not marker.exists()
    assert server.hget(dependent.key, "status") != b"finished"


def test_registries_full_of_strangers_are_cleaned_and_nothing_of_them_runs(
    house: Housekeeping, server: redis.Redis, marker: Path
) -> None:
    """What RQ looks through by itself: started, deferred, ready, scheduled, failed, finished; groups, and workers."""
    bomb, command = pickled(marker), f"touch {marker}"
    for at, registry in enumerate(("wip", "deferred", "ready", "scheduled", "failed", "finished", "canceled")):
        for data in (JSONSerializer.dumps(["os.system", None, [command], {}]), bomb):
            id = f"job-{at}-{len(data)}"
            fields = {
                "data": data,
                "status": "started",
                "origin": QUEUE,
                "created_at": "2020-01-01T00:00:00Z",
                "timeout": "1",
            }
            callbacks = {
                "failure_callback_name": "os.system",
                "success_callback_name": "os.system",
                "retries_left": "3",
            }
            server.hset(
                f"rq:job:{id}", mapping=fields | callbacks | dict.fromkeys(("meta", "exc_info", "result"), bomb)
            )
            server.zadd(f"rq:{registry}:{QUEUE}", {id: 1, f"{id}:execution": 1})
            server.xadd(f"rq:results:{id}", {"type": 1, "return_value": base64.b64encode(bomb)})
    server.lpush(f"rq:queue:{QUEUE}:intermediate", "job-0-1", *(key[7:] for key in server.keys("rq:job:job-*")))
    server.sadd("rq:queues", f"rq:queue:{QUEUE}", "rq:queue:evil")
    with suppress(Exception):
        Group(connection=server, name="g").enqueue_many(stranger(server), [])
    server.sadd("rq:groups", "rq:group:g")
    server.sadd("rq:group:g", *(key[7:] for key in server.keys("rq:job:job-*")))
    server.hset("rq:worker:ghost", mapping={"queues": QUEUE, "state": "busy", "current_job": "job-0-1", "birth": "x"})
    server.sadd("rq:workers", "rq:worker:ghost")
    server.sadd(f"rq:workers:{QUEUE}", "rq:worker:ghost")
    with house.run():
        lives(house)
        time.sleep(1.0)
        lives(house)
    assert not marker.exists()


def test_scheduled_jobs_stay_where_they_are(house: Housekeeping, server: redis.Redis, marker: Path) -> None:
    queue = stranger(server)
    job = Job.create("os.system", [f"touch {marker}"], connection=server, serializer=JSONSerializer, origin=QUEUE)
    job.save()
    queue.scheduled_job_registry.schedule(job, datetime(2020, 1, 1, tzinfo=UTC))
    server.zadd("rq:scheduler:scheduled_jobs", {job.id: 1})
    server.hset("rq:cron:evil", mapping={"func": "os.system", "args": json.dumps([f"touch {marker}"])})
    with house.run():
        lives(house)
    assert not marker.exists()


@pytest.mark.parametrize("command", ["shutdown", "kill-horse", "stop-job", "import", "eval"])
def test_commands_to_workers_are_heard_by_nobody(house: Housekeeping, server: redis.Redis, command: str) -> None:
    with house.run():
        eventually(lambda: server.smembers("rq:workers"))
        for key in server.smembers("rq:workers"):
            name = key.decode().removeprefix("rq:worker:")
            payload = json.dumps({"command": command, "job_id": "x"})
            assert server.publish(f"rq:pubsub:{name}", payload) == 0
        lives(house)


def test_a_task_of_ours_takes_no_path_and_so_names_no_loader(
    house: Housekeeping, server: redis.Redis, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``fetch_model`` reads a card, and a card can name a function to import: only the operator's cards may."""
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef make(folder, config): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"")
    (weights / "config.json").write_text("{}")
    card = tmp_path / "blobs" / "part-1.toml"
    card.parent.mkdir()
    card.write_text(f'id = "evil"\nloader = "evil:make"\nsource = "path:{weights}"\nmax_positions = 8\n')
    paths = [str(card), "../blobs/part-1", "../blobs/part-1.toml", f"{card}\n", "evil", "/etc/passwd", "hub:evil/evil"]
    with house.run():
        jobs = [house.enqueue("fetch_model", path) for path in paths]
        jobs += [house.enqueue("fetch_model", value) for value in (["a"], {"a": 1}, None, 7)]  # type: ignore[arg-type]
        eventually(lambda: all(house.state(job) == "failed" for job in jobs))
        lives(house)
    assert not marker.exists()
    result = Job.fetch(jobs[0], connection=server, serializer=JSONSerializer).latest_result()
    assert result is not None
    assert "no model card" in (result.exc_string or "")


async def test_a_worker_outlives_jobs_that_were_scribbled_over(
    redis_url: str, server: redis.Redis, tmp_path: Path, gpt2: Any, build: Any, marker: Path
) -> None:
    """Fields of queued jobs, each with what no gateway would have written there."""
    client = connect(redis_url)
    lane = Lane(client, DirectoryBlobs(tmp_path / "blobs"))
    graph = build.graph(MODEL, {"a": [5, 6, 7]}, build.get("h", "blocks.1:resid_post"))

    def job(person: str) -> NewJob:
        return NewJob(new_job_id(), person, MODEL, graph.to_json().encode(), alone=True)

    scribbles = [
        *(("document", pickled(marker)), ("document", b"\xff\xfe"), ("tokens", pickled(marker)), ("tokens", b"null")),
        *(("attachment", pickled(marker)), ("checkpoint", b"../../etc/passwd"), ("uses", b"../../etc/passwd")),
        *(("parents", b"[]"), ("data", b"{"), ("spent", b"x")),
    ]
    hostile = [job("eve") for _ in scribbles]
    await lane.submit(hostile)
    for one, (field, value) in zip(hostile, scribbles, strict=True):
        server.hset(f"telepatch:job:{one.id}", field, value)
    good = job("ada")
    await lane.submit([good])
    settings = Settings(
        model=MODEL, redis_url=redis_url, blobs=tmp_path / "blobs", cache=tmp_path / "c", worker_lease_seconds=0.5
    )
    serving = Serving(gpt2, lane, "w1", settings)
    running = asyncio.create_task(serving.run())
    try:
        deadline = time.monotonic() + 40
        states: dict[str, str] = {}
        while good.id not in states or states[good.id] not in ENDED:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
            states = await lane.states("ada", [good.id])
        assert states[good.id] == "completed"
        assert not running.done()
    finally:
        serving.stop()
        await asyncio.wait_for(running, 30)
        await client.aclose()
    assert not marker.exists()


def test_cards_in_the_registry_that_no_worker_wrote_are_refused(
    http: httpx.Client, server: redis.Redis, marker: Path
) -> None:
    plain = json.loads(server.hget("telepatch:cards", "tiny"))
    cards: dict[str, Any] = {
        "a loader": plain | {"id": "evil", "loader": "os:system"},
        "code for a tokenizer": plain | {"id": "evil", "tokenizer": "../../etc/passwd"},
        "no card": ["x"],
        "a path": plain | {"id": "../../x", "source": f"path:{marker}"},
        "a pickle": pickled(marker).decode(),
        "a template": plain | {"id": "evil", "chat": {"template": "{{ x.__class__.__mro__ }}", "tokens": {}}},
        "modules of another kind": plain | {"id": "evil", "modules": [{"path": "", "kind": "os.system"}]},
    }
    for name, card in cards.items():
        server.hset("telepatch:cards", "evil", card if isinstance(card, str) else json.dumps(card))
        answer = http.get("/v1/models/evil")
        assert answer.status_code in (200, 404, 503), name
        document = {"protocol": [1, 0], "model": {"id": "evil"}, "saves": {"h": "$h"}}
        document |= {"runs": [{"id": "r", "invokes": [{"id": "a", "messages": [{"role": "user", "content": "hi"}]}]}]}
        document |= {"nodes": [{"kind": "get", "id": "h", "site": ":output", "invoke": "a"}]}
        assert http.post("/v1/jobs", json=document).status_code in (404, 422, 503), name
        assert http.get("/v1/models/tiny").status_code == 200
        assert http.get("/v1/me").status_code == 200
        time.sleep(0.01)
        server.hdel("telepatch:cards", "evil")
    assert not marker.exists()


def test_a_tokenizer_that_somebody_changed_is_not_used(http: httpx.Client, server: redis.Redis) -> None:
    [key] = server.keys("telepatch:tokenizer:*")
    server.set(key, server.get(key).replace(b'"a"', b'"b"', 1))
    answer = http.post("/v1/tokenize", json={"model": "tiny", "text": "a"})
    assert answer.status_code in (200, 503)  # a gateway that has read the right one goes on with it
    assert answer.status_code == 503 or answer.json()["rows"][0]["pieces"] == ["a"]


async def test_names_of_blobs_in_the_queue_lead_out_of_no_folder(
    redis_url: str, server: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("x")
    client = connect(redis_url)
    store = DirectoryBlobs(tmp_path / "blobs")
    lane = Lane(client, store)
    await store.put("old", b"x")
    for name in ("../precious", str(tmp_path / "precious"), "", "a\x00b", "\xff"):
        server.zadd("telepatch:garbage", {name: 1})
    server.zadd("telepatch:garbage", {"old": 2})
    await lane.expire_results()
    assert (tmp_path / "precious").read_text() == "x"
    assert [name async for name in store.list("")] == [], "what is really due goes all the same"
    assert server.zcard("telepatch:garbage") == 0
    await client.aclose()


def test_logs_of_hostile_tasks_stay_on_their_own_lines(
    house: Housekeeping, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    forged = "x\n2026-01-01 [info] all is well \x1b[2J"
    job = stranger(server).enqueue_call("expire_results")
    server.hset(job.key, "data", JSONSerializer.dumps([forged, None, [], {}]))
    with house.run():
        eventually(lambda: server.hget(job.key, "status") == b"failed")
    for record in caplog.records:
        assert "\x1b" not in record.getMessage()
        assert not [line for line in record.getMessage().splitlines() if line.startswith("2026-01-01")]
