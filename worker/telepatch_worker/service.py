"""The worker as a process: load a model, publish it, serve it, and end in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import torch
from transformers.utils.logging import disable_default_handler, enable_propagation

from telepatch_broker import logs
from telepatch_broker.blobs import Blobs
from telepatch_broker.checks import at_start
from telepatch_broker.connection import connect
from telepatch_broker.gateway_blobs import GatewayBlobs
from telepatch_broker.housekeeping import Housekeeping, broker_tasks
from telepatch_broker.lane import Lane
from telepatch_broker.registry import LoadProgress, Registry, WorkerInfo
from telepatch_broker.tasks import Tasks
from telepatch_broker.tracing import open_traces
from telepatch_protocol.errors import BadArgument
from telepatch_worker.cards import CardFile, LoadError, read_card, read_cards
from telepatch_worker.checks import blobs_of
from telepatch_worker.engine import BatchLimits, Engine
from telepatch_worker.first_forward import first_task
from telepatch_worker.follow import follow
from telepatch_worker.gauges import gauges
from telepatch_worker.lead import Lead
from telepatch_worker.load import Loaded, load
from telepatch_worker.memory import room_for_caches
from telepatch_worker.metrics_port import metrics_port
from telepatch_worker.progress import Progress
from telepatch_worker.ranks import Ranks, join
from telepatch_worker.serving import Serving
from telepatch_worker.settings import Settings, Torchrun, traces_exporters
from telepatch_worker.sharded import local_device
from telepatch_worker.sources import prepare
from telepatch_worker.spans import Spans
from telepatch_worker.watching import Watching

_log = structlog.get_logger(__name__)
_BEAT_SECONDS = 2.0
_ALIVE = 0.75
"""For what part of a lease a worker counts as alive after it was heard of: it ends before its leases, which are renewed
every quarter, so that whoever takes its jobs back can see that it is dead."""
_HAND_BACK_SECONDS = 2.0
_ENDING = (signal.SIGTERM, signal.SIGINT)


def main(settings: Settings) -> None:
    """Serve a model until SIGTERM or Ctrl-C; returns once everything is handed in or given back.

    Raises:
        TelepatchError: the model cannot be had, or the queue or the blob store is not what it should be.
    """
    _configure_logging(settings)
    if settings.worker_threads is not None:
        torch.set_num_threads(settings.worker_threads)
    file = card_of(settings)
    launch = check_launch(file, settings, Torchrun.from_environment())
    if launch is None:
        asyncio.run(serve(settings))
        return
    ranks = join(launch, local_device(file, launch.local_rank, launch.local_world_size))
    if ranks.leads:
        asyncio.run(serve(settings, ranks))
        ranks.end()
    else:
        follow(file, ranks, cache=settings.cache, token_file=settings.token_file)


def check_launch(file: CardFile, settings: Settings, launch: Torchrun | None) -> Torchrun | None:
    """How this process was started, if it is one of several that hold a model together.

    Raises:
        BadArgument: it was not started as the card needs; the message has the command that would have worked.
    """
    ranks = 1 if launch is None else launch.world_size
    if file.tp_size == ranks:
        return launch if ranks > 1 else None
    alone = f"telepatch worker --model {settings.model}"
    together = f"torchrun --nproc-per-node {file.tp_size} -m telepatch worker --model {settings.model}"
    raise BadArgument(
        f"model '{file.id}' has tp_size = {file.tp_size}, and was started with {ranks} rank{'s' if ranks > 1 else ''}; "
        f"this works: {together if file.tp_size > 1 else alone}"
    )


async def serve(settings: Settings, ranks: Ranks | None = None) -> None:
    """The whole life of a worker; of rank 0, where several hold the model together."""
    file = card_of(settings)
    worker = f"{socket.gethostname()[:60]}-{os.getpid()}-{os.urandom(3).hex()}"
    logs.sign(worker=worker, model=file.id)
    traces = open_traces("telepatch-worker", traces_exporters())
    spans = None if traces is None else Spans(traces, file.id, worker)
    stop = _on_signals()
    async with _connected(settings) as (registry, lane, blobs):
        started = time.time()
        loaded = await _loaded(file, settings, registry, worker, stop, ranks)
        if loaded is None:
            return
        watching = Watching(spans=spans)
        serving = Serving(_engine(loaded, settings, ranks), lane, worker, settings, Lead(ranks), watching)
        await _tried(serving, loaded, registry, worker)
        await registry.publish(loaded.card, loaded.tokenizer_json)
        watching.gauges = partial(gauges, serving, loaded)
        port = settings.worker_metrics_host, settings.worker_metrics_port
        numbers = metrics_port(*port, watching.snapshot, file.id, worker)
        with housekeeping(settings, blobs).run(), numbers, _at_once_when_asked_again(stop, serving):
            await _live(serving, registry, _info(loaded, worker, started), stop)
    if spans is not None:
        await asyncio.to_thread(spans.close)
    _log.info("worker_ended")


def _engine(loaded: Loaded, settings: Settings, ranks: Ranks | None) -> Engine:
    """The engine; with others that hold the model, too, theirs are the same."""
    limits = BatchLimits(tokens=settings.worker_batch_tokens, rows=settings.worker_batch_rows)
    cache_bytes = settings.worker_cache_bytes or room_for_caches(loaded.device)
    if ranks is None:
        return Engine(loaded, limits, cache_bytes=cache_bytes)
    ranks.same("loaded", loaded.revision, None)
    ranks.tell("begin", {"tokens": limits.tokens, "rows": limits.rows, "cache_bytes": cache_bytes})
    return Engine(loaded, limits, cache_bytes=cache_bytes, accord=ranks)


def card_of(settings: Settings) -> CardFile:
    """The card file of the model to serve, on the device that the settings ask for.

    Raises:
        BadArgument: no model is named, or none of that name is there.
    """
    if settings.model is None:
        raise BadArgument("no model to serve: give --model, or set TELEPATCH_MODEL, to the id or file of a model card")
    if settings.model.endswith(".toml"):
        file = read_card(Path(settings.model))
    else:
        known = read_cards(settings.models)
        if settings.model not in known:
            raise BadArgument(f"no model card '{settings.model}' in {settings.models}; there are: {', '.join(known)}")
        file = known[settings.model]
    return file if settings.worker_device is None else file.model_copy(update={"device": settings.worker_device})


def housekeeping(settings: Settings, blobs: Blobs) -> Housekeeping:
    """What this process does through RQ, besides the jobs of people: results that expire, weights to be fetched."""
    lane_options = {"result_seconds": settings.result_seconds, "record_seconds": settings.record_seconds}

    def fetch_model(model: str) -> str:
        """Fetch and convert the weights of a card, so that a worker that serves it starts at once.

        Raises:
            BadArgument: not the model of this worker, nor one by its id. Who can write to the queue may name neither a
                file nor, with it, a loader.
        """
        if model != settings.model and model not in (known := read_cards(settings.models)):
            raise BadArgument(f"no model card {model!r} in {settings.models}; there are: {', '.join(known)}")
        file = card_of(settings.model_copy(update={"model": model}))
        return str(prepare(file, settings.cache, token_file=settings.token_file).folder or "")

    tasks = Tasks({**broker_tasks(settings.queue, blobs, **lane_options), "fetch_model": fetch_model})
    house = Housekeeping(settings.queue, tasks, queue="worker-housekeeping")
    house.every(60, "expire_results")
    house.every(60, "expire_uploads")
    house.every(3, "reclaim")
    return house


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[tuple[Registry, Lane, Blobs]]:
    client = connect(settings.queue)
    blobs = blobs_of(settings)
    try:
        for risk in await at_start(client, blobs, settings.queue):
            _log.warning("not_as_it_should_be", what=risk.what, found=risk.found, works=risk.works)
        lane = Lane(client, blobs, result_seconds=settings.result_seconds, record_seconds=settings.record_seconds)
        yield Registry(client), lane, blobs
    finally:
        if isinstance(blobs, GatewayBlobs):
            await blobs.aclose()
        await client.aclose()


async def _loaded(
    file: CardFile,
    settings: Settings,
    registry: Registry,
    worker: str,
    stop: asyncio.Event,
    ranks: Ranks | None = None,
) -> Loaded | None:
    """The model, while the registry shows how far it is; None if asked to stop before it was there."""
    stages: list[LoadProgress] = [LoadProgress(worker=worker, stage="load")]

    def progress(stage: str, part: float | None) -> None:
        stages[:] = [LoadProgress(worker=worker, stage=stage, done=round(100 * (part or 0)), total=100)]

    def work(told: Progress) -> Loaded:
        return load(file, cache=settings.cache, progress=told, token_file=settings.token_file, ranks=ranks)

    loading = _in_background(lambda: work(progress))
    stopping = asyncio.create_task(stop.wait())
    try:
        while not loading.done() and not stop.is_set():
            await registry.progress(file.id, worker, stages[0])
            waited: list[asyncio.Future[Any]] = [loading, stopping]
            await asyncio.wait(waited, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await registry.progress(file.id, worker, None)
    return None if stop.is_set() else await loading


def _in_background(work: Callable[[], Loaded]) -> asyncio.Future[Loaded]:
    """Run in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Loaded] = loop.create_future()

    def settle(result: Loaded | None, error: BaseException | None) -> None:
        if future.done():
            return
        if result is not None:
            future.set_result(result)
        elif error is not None:
            future.set_exception(error)

    def run() -> None:
        result: Loaded | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future


async def _tried(serving: Serving, loaded: Loaded, registry: Registry, worker: str) -> None:
    """Run a job of one's own: only who has shown that it can says that it is ready.

    Raises:
        LoadError: it cannot.
    """
    await registry.progress(loaded.card.id, worker, LoadProgress(worker=worker, stage="try"))
    try:
        error = await serving.tried(first_task(loaded))
    finally:
        await registry.progress(loaded.card.id, worker, None)
    if error is not None:
        raise LoadError(
            f"{loaded.card.id}: the model is loaded, and a first forward through the engine failed: {error}"
        )


async def _live(serving: Serving, registry: Registry, info: WorkerInfo, stop: asyncio.Event) -> None:
    """Serve, and say so, until asked to stop."""

    async def beat() -> None:
        lease = serving.settings.worker_lease_seconds
        while True:
            told = {"running": serving.running, "state": "draining" if stop.is_set() else "ready"}
            try:
                now = info.model_copy(update=told)
                if await registry.heartbeat(now, seconds=_ALIVE * lease, numbers=serving.watching.snapshot()):
                    stop.set()
            except Exception as error:
                _log.warning("heartbeat_failed", kind=type(error).__name__)
            await _pause(stop, min(_BEAT_SECONDS, lease / 4))

    async def listen() -> None:
        await stop.wait()
        _log.info("worker_draining", worker=info.id, running=serving.running)
        serving.stop()

    beside = [asyncio.create_task(beat()), asyncio.create_task(listen())]
    _log.info("worker_ready", device=info.device)
    try:
        await serving.run()
    finally:
        for one in beside:
            one.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await registry.leave(info.id)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """So many seconds, or until asked to stop."""
    if stop.is_set():
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


@contextmanager
def _at_once_when_asked_again(stop: asyncio.Event, serving: Serving) -> Iterator[None]:
    """A second SIGTERM or Ctrl-C ends the process now; what it has in hand goes back first, as it is."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    async def leave() -> None:
        with suppress(Exception):
            await asyncio.wait_for(serving.hand_back(), _HAND_BACK_SECONDS)
        _log.warning("worker_ended_at_once", worker=serving.worker)
        os._exit(0)

    leaving: list[asyncio.Task[None]] = []

    def asked() -> None:
        if stop.is_set() and not leaving:
            leaving.append(loop.create_task(leave()))
        stop.set()

    for number in _ENDING:
        loop.add_signal_handler(number, asked)
    yield


def _info(loaded: Loaded, worker: str, started: float) -> WorkerInfo:
    return WorkerInfo(
        id=worker,
        model=loaded.card.id,
        host=socket.gethostname(),
        pid=os.getpid(),
        device=str(loaded.device),
        started=started,
        tp_size=loaded.file.tp_size,
    )


def _on_signals() -> asyncio.Event:
    """Set once SIGTERM or Ctrl-C arrives."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            loop.add_signal_handler(number, stop.set)
    return stop


def _configure_logging(settings: Settings) -> None:
    """Log as the settings say, libraries that would write by themselves too; RQ tells of trouble only."""
    logs.configure(settings.log_level, settings.log_format)
    logging.captureWarnings(True)
    disable_default_handler()
    enable_propagation()
    for name in ("rq", "rq.worker"):
        logging.getLogger(name).setLevel(logging.WARNING)
