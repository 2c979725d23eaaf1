"""``telepatch up``: embedded Valkey, gateway and workers as one thing that starts, is ready, and ends together."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from telepatch_broker.connection import connect
from telepatch_broker.launcher import embedded_valkey
from telepatch_broker.registry import ModelOverview, Registry
from telepatch_protocol.errors import Unavailable
from telepatch_server.children import Child, Children, kept, readable

PERIOD_S: Final = 0.2
PROBE_TIMEOUT_S: Final = 2.0
LOG_LINES: Final = 15
Say = Callable[[str], None]


class ChildEnded(Unavailable):
    """A process that should have kept running ended.

    Args:
        detail: which, how, and what it said last.
        code: its exit code; a negative one is the signal that ended it.
    """

    def __init__(self, detail: str, code: int) -> None:
        super().__init__(detail)
        self.exit_code = code


@dataclass(frozen=True)
class Plan:
    """What to start, and where.

    Args:
        models: ids of model cards, or paths of card files; one worker each.
        host: address that the gateway listens on.
        port: port that the gateway listens on; 0 picks a free one.
        home: folder for the queue's journal, results and logs; one service at a time uses it.
        redis_url: a Redis or Valkey that runs already; None starts the embedded one.
        queue: the same with all that it takes to be let in, which no command line shows.
        announce: file that is written, as JSON with ``url``, once everything is ready.
        with_parent: end when the process that started this one ends.
        ready_s: seconds that loading may take.
    """

    models: tuple[str, ...]
    host: str
    port: int
    home: Path
    redis_url: str | None = None
    queue: str | None = None
    announce: Path | None = None
    with_parent: bool = False
    ready_s: float = 3600.0


def run(plan: Plan, say: Say, progress: Say) -> None:
    """Start everything, say where it is, and keep it until asked to end.

    Args:
        plan: what to start.
        say: takes a line for the person at the terminal.
        progress: takes what loading does now; called again with each change.

    Raises:
        ChildEnded: a part ended by itself; the others have been ended too.
        Unavailable: something else uses the home folder, or loading took too long.
    """
    plan.home.mkdir(parents=True, exist_ok=True)
    with _only_one(plan.home), _end_requested(plan.with_parent) as ending:
        queue = nullcontext(plan.queue or plan.redis_url) if plan.redis_url else embedded_valkey(plan.home / "valkey")
        with queue as redis_url, kept(plan.home / "logs") as children:
            url = _start(plan, redis_url, children)
            if _until_ready(plan, redis_url, url, children, ending, progress):
                _greet(plan, url, say)
                _keep(children, ending)
            say("Ending: workers, gateway, queue.")


def _start(plan: Plan, redis_url: str, children: Children) -> str:
    """Start the gateway and the workers; return the gateway's address as a client writes it."""
    port = plan.port or _free_port(plan.host)
    shared = ["--redis-url", plan.redis_url or redis_url, "--blobs", str(plan.home / "blobs")]
    children.start("gateway", ["gateway", "--host", plan.host, "--port", str(port), *shared])
    for model in plan.models:
        children.start(f"worker {model}", ["worker", "--model", model, *shared])
    reachable = "127.0.0.1" if plan.host in ("0.0.0.0", "::") else plan.host
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def _until_ready(
    plan: Plan, redis_url: str, url: str, children: Children, ending: Callable[[], bool], progress: Say
) -> bool:
    """Wait for the gateway and one worker per model; False if asked to end before."""
    begun, shown = time.time(), ""
    while not ending():
        _none_ended(children)
        models = asyncio.run(overview(redis_url, plan.models))
        serving = sum(worker.started >= begun - 5 for model in models for worker in model.workers)
        if serving >= len(plan.models) and _answers(f"{url}/readyz"):
            return True
        if time.time() - begun > plan.ready_s:
            raise Unavailable(f"not ready after {plan.ready_s:.0f} s; the logs are in {plan.home / 'logs'}")
        if (now := _doing(models, children)) != shown:
            progress(shown := now)
        time.sleep(PERIOD_S)
    return False


def _keep(children: Children, ending: Callable[[], bool]) -> None:
    """Watch until asked to end; a part that ends by itself ends everything."""
    while not ending():
        _none_ended(children)
        time.sleep(PERIOD_S)


def _none_ended(children: Children) -> None:
    if child := children.ended():
        raise ChildEnded(_obituary(child), child.process.returncode)


def _obituary(child: Child) -> str:
    said = "\n".join(f"    {line}" for line in child.tail(LOG_LINES)) or "    (nothing)"
    code = child.process.returncode
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{child.name} {how}, so everything was ended. Its log, {child.log}, closes with:\n{said}"


async def overview(redis_url: str, wanted: tuple[str, ...]) -> list[ModelOverview]:
    """The models that are served, and those that are wanted and still being loaded for the first time."""
    redis = connect(redis_url)
    registry = Registry(redis)
    try:
        known = await registry.overview()
        names = {Path(model).stem if model.endswith(".toml") else model for model in wanted}
        missing = sorted(names - {model.id for model in known})
        loading = {name: tuple(await registry.loading(name)) for name in missing}
        return known + [ModelOverview(id=name, workers=(), queued=0, loading=parts) for name, parts in loading.items()]
    finally:
        await redis.aclose()


def _doing(models: list[ModelOverview], children: Children) -> str:
    """One line about what loading does now: the workers' own progress, or else what they said last."""
    stages = [f"{model.id}: {part.stage} {part.done}/{part.total}" for model in models for part in model.loading]
    said = [f"{child.name}: {readable(line)}" for child in children for line in child.tail(1)]
    return "; ".join(stages or said) or "starting"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _greet(plan: Plan, url: str, say: Say) -> None:
    say(f"Ready: {url}  ({', '.join(plan.models)})")
    say(f'  Python   lab = telepatch.connect("{url}"); model = lab.model("{plan.models[0]}")')
    say(f"  shell    telepatch status --url {url}")
    say(f"  logs     {plan.home / 'logs'}")
    say("  Ctrl-C ends all of it; jobs and results stay in the home folder.")
    if plan.announce:
        part = plan.announce.with_name(plan.announce.name + ".part")
        part.write_text(json.dumps({"url": url, "pid": os.getpid(), "models": plan.models}))
        part.replace(plan.announce)


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home folder; the lock goes with the process, so a crash leaves none behind."""
    with (home / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                f"another telepatch up uses {home}; end it, or choose another folder with --home"
            ) from None
        yield


@contextmanager
def _end_requested(with_parent: bool) -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C, SIGTERM and a closed terminal, and the parent's end if asked, into one question."""
    asked, parent = threading.Event(), os.getppid()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: asked.is_set() or (with_parent and os.getppid() != parent)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
