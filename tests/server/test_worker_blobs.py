"""Blobs through the gateway, as workers on other hosts use them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from telepatch_broker.blobs import read_all
from telepatch_broker.connection import connect
from telepatch_broker.gateway_blobs import GatewayBlobs
from telepatch_broker.shared import check_shared
from telepatch_protocol.errors import NotFound, Unauthorized

TOKEN = "a-token-of-some-length"


@pytest.fixture
def url(serve: Callable[..., httpx.Client], settings: Any, tmp_path: Path) -> str:
    return str(serve(settings.model_copy(update={"worker_token": TOKEN, "blobs": tmp_path})).base_url)


def using(url: str, work: Callable[[GatewayBlobs], Coroutine[Any, Any, None]], token: str = TOKEN) -> None:
    async def run() -> None:
        blobs = GatewayBlobs(url, token)
        try:
            await work(blobs)
        finally:
            await blobs.aclose()

    asyncio.run(run())


def test_a_blob_goes_through_and_comes_back_whole_and_in_parts(url: str) -> None:
    data = bytes(range(256)) * 10_000

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    async def work(blobs: GatewayBlobs) -> None:
        await blobs.put("one", chunks())
        assert await read_all(blobs, "one") == data
        assert await blobs.size("one") == len(data)
        assert b"".join([chunk async for chunk in blobs.get("one", 5, 105)]) == data[5:105]
        assert b"".join([chunk async for chunk in blobs.get("one", len(data))]) == b""
        await blobs.put("two", b"")
        assert await read_all(blobs, "two") == b""
        assert [name async for name in blobs.list("o")] == ["one"]
        await blobs.delete("one")
        await blobs.delete("one")
        with pytest.raises(NotFound):
            await blobs.size("one")
        with pytest.raises(NotFound):
            await read_all(blobs, "one")

    using(url, work)


def test_a_worker_without_the_folder_shares_the_blobs_of_the_gateway(url: str, redis_url: str) -> None:
    async def work(blobs: GatewayBlobs) -> None:
        client = connect(redis_url)
        await check_shared(blobs, client)
        await client.aclose()

    using(url, work)


def test_every_event_loop_of_a_worker_reaches_the_gateway(url: str) -> None:
    blobs = GatewayBlobs(url, TOKEN)
    with asyncio.Runner() as serving:
        serving.run(blobs.put("one", b"data"))
        for _ in range(2):  # as housekeeping does, in a loop per task
            assert asyncio.run(read_all(blobs, "one")) == b"data"
        assert serving.run(read_all(blobs, "one")) == b"data"
        serving.run(blobs.aclose())


def test_a_process_that_serves_a_model_reaches_the_gateway(url: str) -> None:
    """Importing nnsight gives every object a new attribute, which anyio does not survive unless it is taken back."""
    program = f"""
import asyncio
import telepatch_worker.service
from telepatch_broker.gateway_blobs import GatewayBlobs
asyncio.run(GatewayBlobs({url!r}, {TOKEN!r}).put("one", b"data"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_another_token_opens_nothing(url: str) -> None:
    async def work(blobs: GatewayBlobs) -> None:
        with pytest.raises(Unauthorized):
            await blobs.put("one", b"x")
        with pytest.raises(Unauthorized):
            await read_all(blobs, "one")

    using(url, work, "another-token-of-some-length")


def test_without_a_token_of_the_gateway_no_worker_may(http: httpx.Client) -> None:
    answer = http.get("/v1/worker/blobs/one", headers={"Authorization": "Bearer x"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "TELEPATCH_WORKER_TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["..%2Fkeys.json", ".hidden", "a%20b", "x" * 201])
def test_a_name_that_is_no_blobs_is_refused(url: str, name: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        answer = httpx.request(method, f"{url}/v1/worker/blobs/{name}", headers=headers)
        assert answer.status_code in (404, 422)


def test_a_blob_may_be_larger_than_a_request(serve: Callable[..., httpx.Client], settings: Any, tmp_path: Path) -> None:
    limits = {"blobs": tmp_path, "worker_token": TOKEN, "gateway_body_bytes": 1024, "gateway_blob_bytes": 5000}
    http = serve(settings.model_copy(update=limits))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert http.put("/v1/worker/blobs/one", content=b"x" * 5000, headers=headers).status_code == 204
    assert http.put("/v1/worker/blobs/two", content=b"x" * 5001, headers=headers).status_code == 413
    assert "two" not in http.get("/v1/worker/blobs", headers=headers).json()["names"]
