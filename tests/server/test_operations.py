"""Calls of those who run the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from telepatch_broker import keys as names
from telepatch_broker.connection import connect
from telepatch_broker.hosts import Copies, HostInfo, Hosts


@pytest.fixture
def root(serve: Callable[..., httpx.Client], settings: Any, signed: Callable[..., httpx.Client]) -> httpx.Client:
    """Somebody with a key of the scope ``admin``."""
    return signed(serve(settings).base_url, "root", scope="admin")


@pytest.fixture
def host(redis_url: str) -> Iterator[None]:
    """A host that says that it is there."""

    async def tell() -> None:
        client = connect(redis_url)
        copies = (Copies(model="tiny", number=0, state="failed", detail="its weights need 9 GiB, 1 GiB are free"),)
        await Hosts(client).tell(HostInfo(name="gpu-1", pid=1, started=time.time(), copies=copies))
        await client.aclose()

    asyncio.run(tell())
    return None


def test_workers_are_listed_and_one_is_asked_to_drain(root: httpx.Client, worker: Any, redis_url: str) -> None:
    while not (found := root.get("/v1/admin/workers").json()["workers"]):
        time.sleep(0.05)
    assert [(one["id"], one["model"], one["state"]) for one in found] == [("w1", "tiny", "ready")]
    answer = root.post("/v1/admin/workers/w1/drain")
    assert (answer.status_code, answer.json()["state"]) == (202, "draining")
    assert asyncio.run(_exists(redis_url, names.drain("w1")))
    missing = root.post("/v1/admin/workers/w2/drain")
    assert missing.status_code == 404
    assert "there is w1" in missing.json()["detail"]


async def _exists(url: str, key: str) -> bool:
    async with connect(url) as client:
        return bool(await client.exists(key))


def test_a_model_is_wanted_and_wanted_no_more(root: httpx.Client, host: None, published: object) -> None:
    assert root.post("/v1/admin/models", json={"id": "tiny", "replicas": 2}).status_code == 202
    found = root.get("/v1/admin/models").json()
    [model] = found["models"]
    assert (model["id"], model["wanted"]["replicas"], model["wanted"]["host"]) == ("tiny", 2, None)
    assert "9 GiB" in model["copies"][0]["detail"]
    assert found["hosts"][0]["name"] == "gpu-1"
    assert root.delete("/v1/admin/models/tiny").json() == {"id": "tiny", "draining": 0, "queued": 0}
    again = root.delete("/v1/admin/models/tiny")
    assert again.status_code == 404
    assert "telepatch drain" in again.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"id": "tiny", "host": "gpu-2"}, 404, "there is gpu-1"),
        ({"id": "/etc/card.toml"}, 422, "no id of a model card"),
        ({"id": "card.toml"}, 422, "no id of a model card"),
        ({"id": "tiny", "replicas": 0}, 422, "replicas"),
        ({"id": "tiny", "copies": 2}, 422, "copies"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(
    root: httpx.Client, host: None, body: dict[str, Any], status: int, says: str
) -> None:
    answer = root.post("/v1/admin/models", json=body)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text


def test_without_a_host_nothing_can_be_loaded(root: httpx.Client, redis_url: str) -> None:
    answer = root.post("/v1/admin/models", json={"id": "tiny"})
    assert answer.status_code == 409
    assert "telepatch host" in answer.json()["detail"]


def test_a_person_who_may_only_submit_changes_nothing(
    serve: Callable[..., httpx.Client], settings: Any, signed: Callable[..., httpx.Client], published: object
) -> None:
    http = signed(serve(settings).base_url, "ada")
    assert http.get("/v1/me").status_code == 200
    for method, path in (
        ("GET", "workers"),
        ("POST", "workers/w1/drain"),
        ("GET", "models"),
        ("DELETE", "models/tiny"),
    ):
        assert http.request(method, f"/v1/admin/{path}").status_code == 403
    assert http.post("/v1/admin/models", json={"id": "tiny"}).status_code == 403
