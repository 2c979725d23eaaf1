"""Who serves what: the cards of models, the workers that hold them, and how far those are with loading."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Literal, cast

import redis.asyncio
from redis.exceptions import RedisError

from telepatch_broker import keys
from telepatch_broker.connection import is_full
from telepatch_protocol.card import Frozen, ModelCard
from telepatch_protocol.errors import BadArgument, NotFound
from telepatch_protocol.jobs import State
from telepatch_protocol.understood import understood

_LOADING_SECONDS = 60
_DRAIN_SECONDS = 3600

WorkerState = Literal["ready", "draining"]


class WorkerInfo(Frozen):
    """What a worker says of itself with every heartbeat; times are Unix times in seconds.

    Attributes:
        running: jobs that it works on.
        tp_size: processes that hold the model together, each on a device of its own.
        state: `draining` once it was asked to end: it finishes what it has, and takes nothing new.
        seen: when it was last heard of; set by `Registry.heartbeat`.
    """

    id: str
    model: str
    host: str
    pid: int
    device: str
    started: float
    seen: float = 0.0
    running: int = 0
    tp_size: int = 1
    state: WorkerState = "ready"


class LoadProgress(Frozen):
    """How far a worker is with loading: `done` of `total` in the unit of the `stage`, 0 of 0 where it cannot know."""

    worker: str
    stage: str
    done: int = 0
    total: int = 0


class ModelOverview(Frozen):
    """What goes on around a model; `queued` counts jobs that are ready to be taken."""

    id: str
    workers: tuple[WorkerInfo, ...] = ()
    queued: int = 0
    loading: tuple[LoadProgress, ...] = ()


class Registry:
    """Models and workers of a deployment.

    A card stays when its workers are gone, so that a model can be looked at, and jobs be sent, before they are back.

    Args:
        client: from `telepatch_broker.connection.connect`.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client

    async def publish(self, card: ModelCard, tokenizer: bytes | None) -> None:
        """Make a loaded model known, with the tokenizer file that the gateway uses for it.

        Raises:
            BadArgument: the card names another tokenizer than this one.
        """
        keys.check_name("model", card.id)
        found = hashlib.sha256(tokenizer).hexdigest() if tokenizer is not None else None
        if found != card.tokenizer:
            raise BadArgument(f"the card of {card.id} names tokenizer {card.tokenizer}, and the file has {found}")
        if tokenizer is not None:
            await self._redis.set(keys.tokenizer(hashlib.sha256(tokenizer).hexdigest()), tokenizer)
        await _awaited(self._redis.hset(keys.CARDS, card.id, card.model_dump_json()))

    async def withdraw(self, model: str) -> None:
        """Forget a model; its queue stays."""
        await _awaited(self._redis.hdel(keys.CARDS, model))

    async def card(self, model: str) -> ModelCard:
        """The card of a model.

        Raises:
            NotFound: no worker ever published it; the message names those that are there.
        """
        return understood(ModelCard, await self.card_json(model))

    async def card_json(self, model: str) -> bytes:
        """The card of a model as it was published, for those who see by it whether anything has changed.

        Raises:
            NotFound: as `card`.
        """
        text = cast("bytes | None", await _awaited(self._redis.hget(keys.CARDS, model)))
        if text is None:
            names = sorted(name.decode() for name in await _awaited(self._redis.hkeys(keys.CARDS)))
            raise NotFound(f"there is no model {model!r} here; there is {', '.join(names) or 'none yet'}")
        return text

    async def unloaded(self, model: str) -> bool:
        """Whether hosts were told to serve it no more: jobs for it wait until they are told otherwise."""
        return bool(await _awaited(self._redis.sismember(keys.UNLOADED, model)))

    async def tokenizer(self, sha256: str) -> bytes:
        """A tokenizer file by its hash.

        Raises:
            NotFound: no card came with it.
        """
        data = cast("bytes | None", await self._redis.get(keys.tokenizer(sha256)))
        if data is None:
            raise NotFound(f"there is no tokenizer file with the hash {sha256}")
        return data

    async def heartbeat(
        self, worker: WorkerInfo, *, seconds: float = 10.0, numbers: Mapping[str, Any] | None = None
    ) -> bool:
        """Say that a worker is alive, and will be for that long, and what it counted so far (`Tally.snapshot`).

        Returns:
            Whether it was asked to end (`drain`).
        """
        keys.check_name("worker", worker.id)
        text = worker.model_copy(update={"seen": time.time()}).model_dump_json(exclude_defaults=True)
        pipeline = self._redis.pipeline()
        pipeline.set(keys.worker(worker.id), text, px=round(seconds * 1000))
        if numbers is not None:
            pipeline.set(keys.numbers(worker.id), json.dumps(numbers), px=round(seconds * 1000))
        pipeline.sadd(keys.of_model(worker.model, "workers"), worker.id)
        pipeline.exists(keys.drain(worker.id))
        try:
            return bool((await pipeline.execute())[-1])
        except RedisError as error:
            if not is_full(error):
                raise
            # What it said before stays true for the most part; it must not look dead.
            await self._redis.pexpire(keys.worker(worker.id), round(seconds * 1000))
            return bool(await self._redis.exists(keys.drain(worker.id)))

    async def leave(self, worker: str) -> None:
        """Say that a worker stops."""
        await self._redis.delete(keys.worker(worker), keys.numbers(worker), keys.drain(worker))

    async def drain(self, worker: str) -> WorkerInfo:
        """Ask a worker to finish what it has, take nothing new, and end; it hears it with its next heartbeat.

        Raises:
            NotFound: no worker of that id is alive; the message names those that are.
        """
        known = {one.id: one for model in await self.overview() for one in model.workers}
        if worker not in known:
            raise NotFound(f"no worker {worker!r} is alive; there is {', '.join(sorted(known)) or 'none'}")
        await self._redis.set(keys.drain(worker), "1", ex=_DRAIN_SECONDS)
        return known[worker]

    async def workers(self, model: str) -> list[WorkerInfo]:
        """The workers of a model that are alive."""
        key = keys.of_model(model, "workers")
        ids = sorted(id.decode() for id in await _awaited(self._redis.smembers(key)))
        if not ids:
            return []
        texts = await _awaited(self._redis.mget([keys.worker(id) for id in ids]))
        found = {id: text for id, text in zip(ids, texts, strict=True) if text is not None}
        if gone := [id for id in ids if id not in found]:
            await _awaited(self._redis.srem(key, *gone))
        return [info for text in found.values() if (info := understood(WorkerInfo, text)).model == model]

    async def progress(self, model: str, worker: str, progress: LoadProgress | None) -> None:
        """Say how far a worker is with loading a model; None when it is done."""
        key = keys.of_model(model, "loading")
        if progress is None:
            await _awaited(self._redis.hdel(key, worker))
            return
        pipeline = self._redis.pipeline()
        pipeline.hset(key, worker, progress.model_dump_json())
        pipeline.expire(key, _LOADING_SECONDS)
        await pipeline.execute()

    async def loading(self, model: str) -> list[LoadProgress]:
        """Workers that are loading a model, unless they have said nothing for a minute."""
        found = await _awaited(self._redis.hgetall(keys.of_model(model, "loading")))
        return [understood(LoadProgress, text) for _, text in sorted(found.items())]

    async def counts(self, model: str) -> dict[State, int]:
        """Jobs by state: of now for waiting, queued and running, of all times for those that ended."""
        found = await _awaited(self._redis.hgetall(keys.of_model(model, "counts")))
        return {cast("State", state.decode()): int(number) for state, number in sorted(found.items())}

    async def overview(self) -> list[ModelOverview]:
        """All models, with their workers and queues; no card is read for it."""
        names = sorted(name.decode() for name in await _awaited(self._redis.hkeys(keys.CARDS)))
        return [await self._overview(name) for name in names]

    async def _overview(self, model: str) -> ModelOverview:
        counts = await self.counts(model)
        return ModelOverview(
            id=model,
            workers=tuple(await self.workers(model)),
            queued=counts.get("queued", 0),
            loading=tuple(await self.loading(model)),
        )


async def _awaited(answer: Awaitable[Any] | Any) -> Any:
    """An answer of the client, whose annotations leave open whether it must be awaited."""
    return await cast("Awaitable[Any]", answer)
