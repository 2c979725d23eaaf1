"""Models and their cards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx

from telepatch_broker.connection import connect
from telepatch_broker.registry import LoadProgress, Registry
from telepatch_protocol import PROTOCOL
from telepatch_protocol.card import ModelCard
from telepatch_protocol.graph import EXECUTED, KINDS
from telepatch_protocol.ops import find_op

Make = Callable[..., dict[str, Any]]


def test_models_are_listed_with_queues_and_workers(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    worker.paused = True
    time.sleep(0.3)
    http.post("/v1/jobs", json=submit(graph(), graph()))
    found = http.get("/v1/models").json()
    assert (found["protocol"], found["kinds"], set(found["executed"])) == (list(PROTOCOL), list(KINDS), EXECUTED)
    [tiny] = found["models"]
    assert (tiny["id"], tiny["queued"], tiny["workers"], tiny["limits"]["max_positions"]) == ("tiny", 2, 1, 64)


def test_a_card_is_what_the_worker_published(http: httpx.Client, published: ModelCard) -> None:
    found = http.get("/v1/models/tiny").json()
    assert ModelCard.model_validate(found["card"]) == published
    assert found["protocol"] == list(PROTOCOL)
    topk = next(op for op in found["operations"] if op["name"] == "topk")
    assert (topk["signature"], topk["outputs"]) == (find_op("topk").signature, list(find_op("topk").outputs))


def test_a_card_that_has_not_changed_is_not_sent_again(
    http: httpx.Client, published: ModelCard, publish: Callable[..., None]
) -> None:
    first = http.get("/v1/models/tiny")
    assert published.revision in first.headers["etag"]
    assert first.headers["content-encoding"] == "gzip"
    again = http.get("/v1/models/tiny", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = http.get("/v1/models/tiny", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == first.json()


def test_a_new_revision_is_seen_within_seconds(
    serve: Callable[..., httpx.Client], settings: Any, published: ModelCard, publish: Callable[..., None]
) -> None:
    http = serve(settings.model_copy(update={"gateway_cards_seconds": 0.2}))
    etag = http.get("/v1/models/tiny").headers["etag"]
    publish(published.model_copy(update={"revision": "new", "id": "tiny", "tokenizer": None}), None)
    time.sleep(0.25)
    answer = http.get("/v1/models/tiny", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.json()["card"]["revision"]) == (200, "new")


def test_a_model_that_is_being_loaded_says_how_far_it_is(http: httpx.Client, redis_url: str) -> None:
    async def load() -> None:
        client = connect(redis_url)
        await Registry(client).progress("big", "w9", LoadProgress(worker="w9", stage="convert", done=3, total=10))
        await client.aclose()

    asyncio.run(load())
    answer = http.get("/v1/models/big")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "convert 3 of 10" in answer.json()["detail"]


def test_an_unknown_model_is_answered_with_those_there_are(http: httpx.Client) -> None:
    answer = http.get("/v1/models/tinny")
    assert answer.status_code == 404
    assert "tiny" in answer.json()["detail"]


def test_me_says_what_one_request_may_hold(http: httpx.Client, settings: Any) -> None:
    found = http.get("/v1/me").json()
    assert found["limits"]["jobs"] == settings.gateway_jobs
    assert found["limits"]["body_bytes"] == settings.gateway_body_bytes
    assert found["limits"]["upload_bytes"] == settings.gateway_upload_bytes
    assert found["data"] == {"bytes": 0, "limit": settings.gateway_bytes_stored}
    assert found["result_seconds"] == settings.result_seconds
