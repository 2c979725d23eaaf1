"""Every key that scripts and Python write has its name, in both places."""

from __future__ import annotations

from importlib.resources import files

import redis.asyncio

from telepatch_broker import events, keys
from telepatch_broker.blobs import DirectoryBlobs, chunks_of
from telepatch_broker.connection import now_ms
from telepatch_broker.data import Uploads
from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_broker.limits import Limits
from telepatch_broker.people import People, digest_of
from telepatch_broker.scripting import NAMES, SHARED
from telepatch_broker.usage import DAYS_KEPT
from telepatch_protocol.jobs import new_job_id


def test_every_script_is_known_by_name() -> None:
    folder = files("telepatch_broker") / "scripts"
    assert {entry.name for entry in folder.iterdir() if entry.name.endswith(".lua")} == {
        f"{name}.lua" for name in (*NAMES, *SHARED)
    }


def test_python_and_lua_keep_as_many_events() -> None:
    common = (files("telepatch_broker") / "scripts" / "common.lua").read_text()
    assert f"EVENTS_KEPT = {events.KEPT}\n" in common


async def test_scripts_write_only_keys_that_have_a_name(lane: Lane, client: redis.asyncio.Redis) -> None:
    jobs = [NewJob(new_job_id(), "ada", "m", b"{}", attachment=bytes(300_000)) for _ in range(5)]
    long = [NewJob(new_job_id(), "ada", "m", b"{}", lane="long") for _ in range(2)]
    child = NewJob(new_job_id(), "ada", "m", b"{}", parents={jobs[1].id: Source()})
    await lane.submit([*jobs, child, *long])
    await lane.take("m", "w", max_jobs=2)
    await lane.complete(jobs[0].id, "w", saves={}, result=b"")
    found = {key.decode() async for key in client.scan_iter()}
    assert found == {
        *(keys.job(job.id) for job in (*jobs, child, *long)),
        keys.children(jobs[1].id),
        keys.queue("m", "ada"),
        keys.queue("m", "ada", "long"),
        *(keys.of_model("m", what) for what in ("leases", "counts", "totals", "wake")),
        *(keys.of_lane("m", lane, what) for what in ("people", "clock") for lane in ("interactive", "long")),
        keys.jobs_of("ada"),
        keys.events_of("ada"),
        keys.EXPIRY,
        keys.USES,
        keys.MODELS,
        keys.UNENDED,
        keys.STORED,
        keys.PEOPLE,
        keys.clock("w"),
        keys.usage("ada", await now_ms(client) // 86_400_000),
    }


async def test_scripts_of_keys_write_only_keys_that_have_a_name(client: redis.asyncio.Redis) -> None:
    people = People(client, Limits(requests_per_minute=60))
    made = await people.add("ada", expires_seconds=60)
    await people.ask(made.key)
    await people.adopt([("bob", "00", "0" * 64)])
    await people.limit("ada", {"jobs_queued": "5"})
    [old] = await people.keys("bob")
    found = {key.decode() async for key in client.scan_iter()}
    assert found == {
        *(keys.api_key(one.id) for one in (made, old)),
        keys.secret(digest_of(made.key)),
        *(keys.keys_of(name) for name in ("ada", "bob")),
        keys.limits_of("ada"),
        keys.pace_of("ada"),
        keys.KEYED,
        keys.IMPORTED,
        keys.PEOPLE,
    }


def test_python_and_lua_keep_accounts_for_as_many_days() -> None:
    common = (files("telepatch_broker") / "scripts" / "common.lua").read_text()
    assert f"USAGE_KEPT = {DAYS_KEPT} * DAY\n" in common


async def test_scripts_of_uploads_write_only_keys_that_have_a_name(
    client: redis.asyncio.Redis, blobs: DirectoryBlobs
) -> None:
    digest = "a" * 64
    await Uploads(client, blobs).receive("ada", digest, 10, 0, chunks_of(b"abc"))
    found = {key.decode() async for key in client.scan_iter()}
    wanted = {keys.upload("ada", digest), keys.parts_of("ada", digest), keys.uploads_of("ada")}
    assert found == {*wanted, keys.UPLOADED, keys.UNFINISHED}
