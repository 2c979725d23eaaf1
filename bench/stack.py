"""The whole service as a user starts it, and the thin client that asks it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

import telepatch
from telepatch_server.desk import Where, desk

FOLDERS = (Path("bench/cards"), Path("models"))
POSITIONS = 16


def card_path(model: str) -> Path:
    """The card of a model: one of the benches' own, or one that is served."""
    found = [folder / f"{model}.toml" for folder in FOLDERS if (folder / f"{model}.toml").is_file()]
    if not found:
        raise SystemExit(f"no card {model}.toml in {' or '.join(map(str, FOLDERS))}, seen from the top of the checkout")
    return found[0]


def prompt(vocabulary: int, number: int = 0) -> list[int]:
    """Sixteen tokens, other ones for each number."""
    return [(7919 * place + 31 * number) % (vocabulary - 1) for place in range(POSITIONS)]


class Counted(httpx.AsyncHTTPTransport):
    """Counts the bytes of bodies, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.up = self.down = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.up += int(request.headers.get("content-length", 0))
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Counting(response.stream, self)
        return response


class _Counting(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, counter: Counted) -> None:
        self.inner, self.counter = inner, counter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.inner:
            self.counter.down += len(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass(frozen=True)
class Service:
    """A service that runs: where it is, one key for each of its people, and its processes.

    Args:
        url: of the gateway.
        keys: one for each person; empty for a service that asks for none.
        parts: gateway, queue and worker.
    """

    url: str
    keys: tuple[str, ...]
    parts: Mapping[str, psutil.Process]

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU that each part has used."""
        times = {name: part.cpu_times() for name, part in self.parts.items()}
        return {name: found.user + found.system for name, found in times.items()}

    def rss(self) -> dict[str, int]:
        """Bytes of memory that each part holds."""
        return {name: int(part.memory_info().rss) for name, part in self.parts.items()}


@contextmanager
def service(
    models: Sequence[str], threads: int, people: int = 0, settings: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """A service with its own queue, gateway and one worker for each model.

    Args:
        models: ids of cards.
        threads: of PyTorch in a worker.
        people: who have a key each; 0 for a service without keys.
        settings: variables of the environment.
    """
    with tempfile.TemporaryDirectory(prefix="tp") as home:
        ready, keys = Path(home) / "ready.json", _keys(Path(home), people) if people else ()
        words = ["up", "--with-parent", "--port", "0", "--home", home, "--announce", str(ready)]
        words += [word for model in models for word in ("--model", str(card_path(model)))]
        variables = {"TELEPATCH_WORKER_THREADS": str(threads), **(settings or {})}
        command = ["env", *(f"{name}={value}" for name, value in variables.items())]
        command += [sys.executable, "-m", "telepatch", *words]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            url = _address(process, ready)
            yield Service(url, keys, _parts(psutil.Process(process.pid)))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _keys(home: Path, people: int) -> tuple[str, ...]:
    """A key for each of so many people, without limits that would be measured in place of the service."""
    with desk(Where(home=home), {}) as found:
        names = [f"person-{number}" for number in range(people)]
        for name in names:
            found.ask("PATCH", f"/people/{name}", {"limits": {"requests_per_minute": "none", "jobs_queued": "none"}})
        return tuple(str(found.ask("POST", "/keys", {"person": name})["key"]) for name in names)


def _address(process: subprocess.Popen[bytes], ready: Path) -> str:
    while process.poll() is None:
        if ready.exists():
            return str(json.loads(ready.read_text())["url"])
        time.sleep(0.1)
    raise SystemExit("the service ended before it was ready")


def _parts(whole: psutil.Process) -> dict[str, psutil.Process]:
    """The processes by what they do; the queue is the one that is no command of ours."""
    found: dict[str, psutil.Process] = {}
    for one in whole.children(recursive=True):
        words = one.cmdline()
        found[next((name for name in ("gateway", "worker") if name in words), "queue")] = one
    return found


def one_trace(model: Any, ids: list[int]) -> list[Any]:
    """Read a layer, zero an MLP position, save the last logits."""
    with model.trace() as t, t.invoke(ids=ids):
        hidden = model.blocks[2].resid_post.save()
        model.blocks[3].mlp.output[:, -1] = 0
        logits = model.unembed.output[:, -1].save()
    return [hidden, logits]


def small_trace(model: Any, ids: list[int]) -> Any:
    """Zero an MLP position, save one number of the last logits."""
    with model.trace() as t, t.invoke(ids=ids):
        model.blocks[3].mlp.output[:, -1] = 0
        return model.unembed.output[:, -1].amax().save()


class Remote:
    """One model as the thin client sees it."""

    def __init__(self, url: str, model: str, ids: list[int]) -> None:
        self.counter = Counted()
        self.lab = telepatch.connect(url, transport=self.counter, progress=False)
        self.model = self.lab.model(model)
        self.ids = ids

    def trace(self) -> Callable[[], None]:
        """One trace, and a look at both its values."""
        return lambda: telepatch.gather(one_trace(self.model, self.ids))

    def small_trace(self) -> Callable[[], None]:
        """One small trace, and a look at its number."""
        return lambda: small_trace(self.model, self.ids).item()

    def bytes_of(self, run: Callable[[], None]) -> tuple[int, int]:
        """Bytes up and down of one round."""
        before = self.counter.up, self.counter.down
        run()
        time.sleep(0.2)
        return self.counter.up - before[0], self.counter.down - before[1]
