"""Models and workers that are there, and those that are gone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable
from typing import cast

import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_broker import registry as rooms
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_broker.registry import LoadProgress, Registry, WorkerInfo
from telepatch_protocol.card import Limits, ModelCard, ModuleCard
from telepatch_protocol.errors import BadArgument, NotFound
from telepatch_protocol.jobs import new_job_id

FILE = b'{"version": "1.0"}'
CARD = ModelCard(
    id="org/gpt2",
    revision="r1",
    title="GPT-2",
    limits=Limits(max_positions=64),
    modules=(ModuleCard(path="", kind="GPT2"),),
    tokenizer=hashlib.sha256(FILE).hexdigest(),
)


@pytest.fixture
def registry(client: redis.asyncio.Redis) -> Registry:
    return Registry(client)


def worker(id: str = "w1", model: str = CARD.id) -> WorkerInfo:
    return WorkerInfo(id=id, model=model, host="h", pid=1, device="cpu", started=1.0, running=2)


async def test_a_published_card_comes_back_with_its_tokenizer(registry: Registry) -> None:
    await registry.publish(CARD, FILE)
    assert await registry.card(CARD.id) == CARD
    assert await registry.tokenizer(CARD.tokenizer or "") == FILE


async def test_an_unknown_model_is_answered_with_the_known_ones(registry: Registry) -> None:
    with pytest.raises(NotFound, match="none yet"):
        await registry.card("gpt3")
    await registry.publish(CARD, FILE)
    with pytest.raises(NotFound, match="org/gpt2"):
        await registry.card("gpt3")
    with pytest.raises(NotFound):
        await registry.tokenizer("0" * 64)
    await registry.withdraw(CARD.id)
    assert await registry.overview() == []


@pytest.mark.parametrize("file", [None, b"other"])
async def test_a_card_with_another_tokenizer_is_refused(registry: Registry, file: bytes | None) -> None:
    with pytest.raises(BadArgument, match="tokenizer"):
        await registry.publish(CARD, file)
    await registry.publish(CARD.model_copy(update={"tokenizer": None}), None)


async def test_a_worker_that_falls_silent_is_gone(registry: Registry) -> None:
    await registry.heartbeat(worker("quick"), seconds=30)
    await registry.heartbeat(worker("silent"), seconds=0.5)
    await registry.heartbeat(worker("other", model="llama"))
    assert {info.id for info in await registry.workers(CARD.id)} == {"quick", "silent"}
    await asyncio.sleep(0.6)
    [info] = await registry.workers(CARD.id)
    assert (info.id, info.running, abs(info.seen - time.time()) < 60) == ("quick", 2, True)
    await registry.leave("quick")
    assert await registry.workers(CARD.id) == []


async def test_loading_is_visible_until_it_is_done(
    registry: Registry, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = LoadProgress(worker="w1", stage="weights", done=3, total=10)
    await registry.progress(CARD.id, "w1", progress)
    assert await registry.loading(CARD.id) == [progress]
    await registry.progress(CARD.id, "w1", None)
    assert await registry.loading(CARD.id) == []
    monkeypatch.setattr(rooms, "_LOADING_SECONDS", 1)
    await registry.progress(CARD.id, "w1", progress)
    await asyncio.sleep(1.1)
    assert await registry.loading(CARD.id) == []


async def test_the_overview_reads_no_card(registry: Registry, client: redis.asyncio.Redis) -> None:
    await cast("Awaitable[int]", client.hset(keys.CARDS, "gpt2", "what stands here is not looked at"))
    assert [model.id for model in await registry.overview()] == ["gpt2"]


async def test_the_overview_counts_jobs_and_workers(registry: Registry, lane: Lane) -> None:
    await registry.publish(CARD, FILE)
    await registry.heartbeat(worker())
    await lane.submit([NewJob(new_job_id(), "ada", CARD.id, b"{}") for _ in range(4)])
    one, two = await lane.take(CARD.id, "w1", max_jobs=2)
    await lane.complete(one.id, "w1", saves={}, result=b"")
    [model] = await registry.overview()
    assert (model.id, model.queued) == (CARD.id, 2)
    assert [info.id for info in model.workers] == ["w1"]
    assert await registry.counts(CARD.id) == {"completed": 1, "queued": 2, "running": 1}
    await lane.cancel("ada", two.id)
    assert await registry.counts(CARD.id) == {"cancelled": 1, "completed": 1, "queued": 2, "running": 0}


async def test_what_newer_workers_say_is_read_without_what_is_not_known(
    registry: Registry, client: redis.asyncio.Redis
) -> None:
    await registry.publish(CARD, FILE)
    card = json.loads(await registry.card_json(CARD.id)) | {"lineage": "new"}
    await client.hset(keys.CARDS, CARD.id, json.dumps(card))
    assert await registry.card(CARD.id) == CARD
    await registry.heartbeat(worker())
    told = json.loads(await client.get(keys.worker("w1")) or b"") | {"protocol": [1, 9]}
    await client.set(keys.worker("w1"), json.dumps(told))
    assert [info.id for info in await registry.workers(CARD.id)] == ["w1"]
    await registry.progress("m", "w1", LoadProgress(worker="w1", stage="fetch"))
    await client.hset(keys.of_model("m", "loading"), "w1", '{"worker": "w1", "stage": "fetch", "eta": 3}')
    assert [one.stage for one in await registry.loading("m")] == ["fetch"]


async def test_a_worker_is_asked_to_drain_and_hears_it_with_its_next_heartbeat(registry: Registry) -> None:
    await registry.publish(CARD, FILE)
    assert not await registry.heartbeat(worker())
    assert (await registry.drain("w1")).id == "w1"
    assert await registry.heartbeat(worker())
    await registry.leave("w1")
    with pytest.raises(NotFound, match="no worker 'w1' is alive; there is none"):
        await registry.drain("w1")
    assert not await registry.heartbeat(worker())
