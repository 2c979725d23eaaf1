"""Parts of a service as processes of their own, as an operator starts them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import telepatch
from telepatch_server.desk import Where, desk

TOKEN = "a-token-that-workers-show"
PATIENCE_S = 180.0


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(done: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@dataclass
class Gateway:
    """A gateway that runs."""

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def asked(self, call: str) -> float:
        """How often it has answered a call well, by its own metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(
            rf'^telepatch_requests_total\{{call="{re.escape(call)}",status="2\d\d"\}} (\S+)$', text, re.M
        )
        return sum(map(float, found))


@dataclass
class Fleet:
    """Gateways and workers of one queue; what still runs is ended with the block of `fleet`."""

    folder: Path
    redis_url: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def key(self, name: str) -> str:
        """A new key for a person."""
        with desk(Where(redis_url=self.redis_url), {}) as found:
            return str(found.ask("POST", "/keys", {"person": name})["key"])

    def gateway(self) -> Gateway:
        """One more gateway, which answers."""
        process, log = self._start("gateway", "--port", "0", TELEPATCH_WORKER_TOKEN=TOKEN)

        def listens() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()
            return re.search(r"listens on (http://\S+)\n", log.read_text())

        until(lambda: listens() is not None, "the gateway's word that it listens")
        found = listens()
        assert found is not None
        return Gateway(process, found[1])

    def worker(self, model: str, **more: str) -> subprocess.Popen[str]:
        """One more worker, which may still be loading."""
        lease = {"TELEPATCH_WORKER_LEASE_SECONDS": "2", "TELEPATCH_WORKER_THREADS": "1"}
        return self._start("worker", "--model", model, **lease, **more)[0]

    def has_blob(self, size: int) -> bool:
        """Whether the gateways' folder holds something of that many bytes or more."""
        return any(one.stat().st_size >= size for one in (self.folder / "blobs").rglob("*"))

    def said(self, part: str) -> str:
        """The end of what a kind of part has logged."""
        return "\n".join(file.read_text()[-2000:] for file in self.folder.glob(f"{part}-*.log"))

    def _start(self, part: str, *words: str, **more: str) -> tuple[subprocess.Popen[str], Path]:
        shared = {"TELEPATCH_REDIS_URL": self.redis_url, "TELEPATCH_BLOBS": str(self.folder / "blobs")}
        log = self.folder / f"{part}-{len(self.processes)}.log"
        command = [sys.executable, "-P", "-m", "telepatch", part, *words]
        with log.open("w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, text=True, env=environment(**(shared | more)))
        self.processes.append(process)
        return process, log


def read(lab: telepatch.Lab, model: str, words: int = 1) -> tuple[int, ...]:
    """The shape of the logits of a prompt of so many words; every layer is saved beside them."""
    served = lab.model(model)
    with served.trace("word " * words):
        layers = [served.blocks[at].resid_post.save() for at in range(4)]
        logits = served.unembed.output.save()
    telepatch.gather(layers)
    return tuple(logits.numpy().shape)


def environment(**more: str) -> dict[str, str]:
    """This one's, without settings of the machine that the tests run on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TELEPATCH_") or "CACHE" in name}
    return kept | {"OMP_NUM_THREADS": "1"} | more


@contextmanager
def fleet(folder: Path, redis_url: str) -> Iterator[Fleet]:
    """An empty fleet."""
    made = Fleet(folder, redis_url)
    try:
        yield made
    finally:
        for process in made.processes:
            end(process)


def end(process: subprocess.Popen[str]) -> int:
    """Ask a process to end, or make it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
    if process.poll() is None:
        process.kill()
    return process.wait()
