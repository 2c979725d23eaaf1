"""A gateway on a real socket, a published model, and a worker that completes jobs through the real queue."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
import redis.asyncio
import structlog
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.jobs import TakenJob
from telepatch_broker.lane import Lane
from telepatch_broker.people import People
from telepatch_broker.registry import Registry, WorkerInfo
from telepatch_protocol.card import Aliases, Leaf, Limits, ModelCard, ModuleCard, PortCard
from telepatch_protocol.errors import TelepatchError
from telepatch_protocol.jobs import SavedMeta, new_job_id
from telepatch_protocol.tensors import Tensor, encode
from telepatch_server.app import create_app
from telepatch_server.serve import Server, configured, listening, url_of
from telepatch_server.settings import Settings

WIDTH, VOCABULARY, POSITIONS = 8, 257, 64

Behaviour = Callable[[TakenJob], dict[str, Tensor] | TelepatchError]


def byte_tokenizer() -> bytes:
    """A tokenizer file with one token per byte and an end token, as small models use."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    vocabulary = {chr(byte) if byte in plain else chr(next(spare)): byte for byte in range(256)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return inner.to_str().encode()


def model_card(tokenizer: bytes | None, **changes: Any) -> ModelCard:
    """A model of four blocks."""

    def port(order: int, *axes: Any, path: str = "") -> PortCard:
        dtype = "int64" if axes == ("row", "pos") else "float32"
        return PortCard(order=(order,), leaves=(Leaf(path=path, axes=axes, dtype=dtype),))

    wide = ("row", "pos", WIDTH)
    logits = port(99, "row", "pos", VOCABULARY, path="logits")
    modules = [ModuleCard(path="", kind="Model", input=port(0, "row", "pos"), output=logits)]
    modules.append(ModuleCard(path="layers", kind="List"))
    for at in range(4):
        block = ModuleCard(
            path=f"layers.{at}", kind="Block", input=port(10 * at + 1, *wide), output=port(10 * at + 9, *wide)
        )
        modules.append(block)
    head = port(91, "row", "pos", VOCABULARY)
    modules.append(ModuleCard(path="head", kind="Linear", input=port(90, *wide), output=head))
    aliases = Aliases(
        modules={"blocks": "layers", "blocks.*": "layers.*", "unembed": "head"},
        ports={"blocks.*": {"resid_post": "output", "resid_pre": "input"}},
    )
    return ModelCard(
        id="tiny",
        revision="0123456789abcdef",
        parameters=1000,
        vocabulary=VOCABULARY,
        tokenizer=None if tokenizer is None else hashlib.sha256(tokenizer).hexdigest(),
        limits=Limits(max_positions=POSITIONS, max_rows=16),
        aliases=aliases,
        modules=tuple(modules),
    ).model_copy(update=changes)


def document(text: Any = "hello", **changes: Any) -> dict[str, Any]:
    """A graph that reads one block at the last position."""
    return {
        "protocol": [1, 0],
        "model": {"id": "tiny"},
        "constants": {"prompt": text, "layer": 2},
        "runs": [{"id": "r", "invokes": [{"id": "a", "text": "$prompt"}]}],
        "nodes": [
            {"kind": "get", "id": "h", "site": "blocks.{layer}:resid_post", "invoke": "a", "index": [":", -1]},
        ],
        "saves": {"h": "$h"},
        "lines": {"h": "study.py:7"},
    } | changes


def submission(*documents: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """One job per document."""
    jobs = [{"id": new_job_id(), "document": at} for at in range(len(documents))]
    return {"documents": list(documents), "jobs": jobs} | changes


def zeros(job: TakenJob) -> dict[str, Tensor]:
    """What the worker gives if it is told nothing else."""
    names = json.loads(job.document)["saves"]
    return {name: Tensor.of(np.zeros((1, WIDTH), np.float32)) for name in names}


@dataclass
class Worker:
    """A worker of the queue that runs no model."""

    redis_url: str
    blobs: Path
    behave: Behaviour = zeros
    taken: list[TakenJob] = field(default_factory=list)
    paused: bool = False
    ending: bool = False

    def run(self) -> None:
        """Take and complete jobs until told to end."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        client = connect(self.redis_url)
        lane, registry = Lane(client, DirectoryBlobs(self.blobs)), Registry(client)
        info = WorkerInfo(id="w1", model="tiny", host="here", pid=1, device="cpu", started=time.time())
        await registry.heartbeat(info, seconds=300)
        while not self.ending:
            if self.paused:
                await asyncio.sleep(0.01)
                continue
            for job in await lane.take("tiny", "w1", lease_seconds=60, wait_seconds=0.1):
                self.taken.append(job)
                await self._end(lane, job)
        await registry.leave("w1")
        await client.aclose()

    async def _end(self, lane: Lane, job: TakenJob) -> None:
        found = self.behave(job)
        if isinstance(found, TelepatchError):
            await lane.fail(job.id, "w1", found.record())
            return
        saves = {name: SavedMeta(shape=tensor.array.shape, dtype=tensor.dtype) for name, tensor in found.items()}
        await lane.complete(job.id, "w1", saves=saves, result=encode(found))


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """A gateway in a thread; gives its address."""
    app = create_app(settings)
    with listening(settings.host, settings.port) as listener:
        server = Server(configured(app, settings), app, listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.005)
            assert server.started
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def common(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that all gateways and workers of these tests share."""
    blobs = tmp_path_factory.mktemp("gateway") / "blobs"
    return Settings(redis_url=valkey_server, port=0, blobs=blobs, gateway_heartbeat_seconds=0.2)


@pytest.fixture(scope="session")
def common_url(common: Settings) -> Iterator[str]:
    """The address of a gateway that all tests may use; its Redis is emptied under it before each."""
    with redis.Redis.from_url(common.redis_url) as client:
        client.flushall()
    with served(common) as url:
        yield url


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Gateways of the tests' own process write nothing that is no error."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@pytest.fixture
def settings(redis_url: str, common: Settings) -> Settings:
    """Settings for a gateway of this test alone."""
    return common


@pytest.fixture
def serve() -> Iterator[Callable[[Settings], httpx.Client]]:
    """Starts gateways, and ends them with the test."""
    with ExitStack() as stack:

        def start(settings: Settings) -> httpx.Client:
            url = stack.enter_context(served(settings))
            return stack.enter_context(httpx.Client(base_url=url, timeout=20))

        yield start


Key = Callable[..., str]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """The queue itself."""
    found = connect(redis_url)
    yield found
    await found.aclose()


@pytest.fixture
def key(redis_url: str) -> Key:
    """Makes API keys: ``key("ada")``, ``key("bob", scope="read", expires_seconds=60)``."""

    def make(person: str, **more: Any) -> str:
        async def add() -> str:
            client = connect(redis_url)
            try:
                return (await People(client).add(person, **more)).key
            finally:
                await client.aclose()

        return asyncio.run(add())

    return make


@pytest.fixture
def signed(key: Key) -> Iterator[Callable[..., httpx.Client]]:
    """Somebody with a key of their own at a gateway: ``signed(client.base_url, "ada", scope="read")``."""
    with ExitStack() as stack:

        def sign(url: Any, person: str, **more: Any) -> httpx.Client:
            headers = {"Authorization": f"Bearer {key(person, **more)}"}
            return stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=20))

        yield sign


@pytest.fixture
def http(common_url: str, published: ModelCard) -> Iterator[httpx.Client]:
    """Speaks to a gateway that knows the model ``tiny``."""
    with httpx.Client(base_url=common_url, timeout=20) as client:
        yield client


@pytest.fixture
def publish(redis_url: str) -> Callable[[ModelCard, bytes | None], None]:
    """Makes models known, as workers do."""

    def now(card: ModelCard, tokenizer: bytes | None) -> None:
        async def send() -> None:
            client = connect(redis_url)
            await Registry(client).publish(card, tokenizer)
            await client.aclose()

        asyncio.run(send())

    return now


@pytest.fixture
def published(publish: Callable[[ModelCard, bytes | None], None]) -> ModelCard:
    """The model ``tiny``."""
    tokenizer = byte_tokenizer()
    card = model_card(tokenizer)
    publish(card, tokenizer)
    return card


@pytest.fixture
def worker(settings: Settings, published: ModelCard) -> Iterator[Worker]:
    """A worker that serves ``tiny``."""
    found = Worker(settings.redis_url, settings.blobs)
    thread = threading.Thread(target=found.run)
    thread.start()
    yield found
    found.ending = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def graph() -> Callable[..., dict[str, Any]]:
    """Makes documents; see `document`."""
    return document


@pytest.fixture
def submit() -> Callable[..., dict[str, Any]]:
    """Makes submissions; see `submission`."""
    return submission
