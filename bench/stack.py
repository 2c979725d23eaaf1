"""The whole service as a user starts it, and the thin client that asks it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

import telepatch


class Counted(httpx.AsyncHTTPTransport):
    """Counts the bytes of bodies, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.up = self.down = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.up += int(request.headers.get("content-length", 0))
        response = await super().handle_async_request(request)
        response.stream = _Counting(response.stream, self)
        return response


class _Counting(httpx.AsyncByteStream):
    def __init__(self, inner: object, counter: Counted) -> None:
        self.inner, self.counter = inner, counter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.inner:
            self.counter.down += len(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self.inner.aclose()


@contextmanager
def service(models: Sequence[str], threads: int) -> Iterator[str]:
    """The address of a service with its own queue, gateway and one worker for each model."""
    with tempfile.TemporaryDirectory(prefix="tp") as home:
        ready = Path(home) / "ready.json"
        wanted = [word for model in models for word in ("--model", model)]
        command = [
            sys.executable,
            "-m",
            "telepatch",
            "up",
            "--port",
            "0",
            "--home",
            home,
            "--announce",
            str(ready),
            *wanted,
        ]
        process = subprocess.Popen(["env", f"TELEPATCH_WORKER_THREADS={threads}", *command], stdout=subprocess.DEVNULL)
        try:
            yield _address(process, ready)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _address(process: subprocess.Popen[bytes], ready: Path) -> str:
    while process.poll() is None:
        if ready.exists():
            return str(json.loads(ready.read_text())["url"])
        time.sleep(0.1)
    raise SystemExit("the service ended before it was ready")


class Remote:
    """One model as the thin client sees it."""

    def __init__(self, url: str, model: str, ids: list[int]) -> None:
        self.counter = Counted()
        self.lab = telepatch.connect(url, transport=self.counter, progress=False)
        self.model = self.lab.model(model)
        self.ids = ids

    def trace(self) -> Callable[[], None]:
        """Read a layer, zero an MLP position, save the last logits, look at both."""

        def run() -> None:
            with self.model.trace() as t, t.invoke(ids=self.ids):
                hidden = self.model.blocks[2].resid_post.save()
                self.model.blocks[3].mlp.output[:, -1] = 0
                logits = self.model.unembed.output[:, -1].save()
            telepatch.gather(hidden, logits)

        return run

    def small_trace(self) -> Callable[[], None]:
        """Zero an MLP position, save one number of the last logits, look at it."""

        def run() -> None:
            with self.model.trace() as t, t.invoke(ids=self.ids):
                self.model.blocks[3].mlp.output[:, -1] = 0
                largest = self.model.unembed.output[:, -1].amax().save()
            largest.item()

        return run

    def bytes_of(self, run: Callable[[], None]) -> tuple[int, int]:
        """Bytes up and down of one round."""
        before = self.counter.up, self.counter.down
        run()
        time.sleep(0.2)
        return self.counter.up - before[0], self.counter.down - before[1]
