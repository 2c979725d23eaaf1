"""``telepatch host``: models come and go while the service runs, and a worker that breaks comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from telepatch_broker.launcher import embedded_valkey

PATIENCE_S = 150.0


@dataclass
class Deployment:
    """A queue, a gateway, and the hosts that a test starts."""

    http: httpx.Client
    environment: dict[str, str]
    folder: Path

    @contextmanager
    def host(self, name: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        words = ["host", "--name", name, "--logs", str(self.folder / name)]
        with (self.folder / f"{name}.log").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "telepatch", *words],
                env=self.environment | more,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        try:
            self.until(lambda: name in [one["name"] for one in self.state()["hosts"]])
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def telepatch(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "telepatch", *words, "--url", str(self.http.base_url)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/v1/admin/models").json()
        return found

    def copies(self, model: str) -> list[dict[str, Any]]:
        hosts = self.state()["hosts"]
        return [{"host": one["name"], **copy} for one in hosts for copy in one["copies"] if copy["model"] == model]

    def until(self, reached: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not reached():
            logs = {path.name: path.read_text()[-1500:] for path in self.folder.rglob("*.log")}
            assert time.monotonic() < until, (self.state(), logs)
            time.sleep(0.1)

    def run(self, model: str, wait: float = 60) -> dict[str, Any]:
        given = {"ids": [1, 2, 3]} if model == "gpt2-random" else {"ids": [1, 2, 3, 4]}
        site = "lm_head:output" if model == "gpt2-random" else "decoder:output"
        graph = {
            "protocol": [1, 0],
            "model": {"id": model},
            "runs": [{"id": "r", "invokes": [{"id": "a", **given}]}],
            "nodes": [{"kind": "get", "id": "x", "site": site, "invoke": "a"}],
            "saves": {"x": "$x"},
        }
        [job] = self.http.post(f"/v1/jobs?wait={wait}", json=graph).json()["jobs"]
        found: dict[str, Any] = job
        return found


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TELEPATCH_") or "CACHE" in name}
    with embedded_valkey(tmp_path / "valkey") as url:
        own = {"TELEPATCH_REDIS_URL": url, "TELEPATCH_BLOBS": str(tmp_path / "blobs"), "OMP_NUM_THREADS": "1"}
        environment = kept | own | {"TELEPATCH_WORKER_LEASE_SECONDS": "2"}
        words = [sys.executable, "-P", "-m", "telepatch", "keys", "add", "root", "--scope", "admin"]
        key = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        environment["TELEPATCH_API_KEY"] = key
        command = [sys.executable, "-P", "-m", "telepatch", "gateway", "--port", "0"]
        gateway = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert gateway.stdout is not None
            url, headers = gateway.stdout.readline().split()[-1], {"Authorization": f"Bearer {key}"}
            with httpx.Client(base_url=url, headers=headers, timeout=120) as http:
                yield Deployment(http, environment, tmp_path)
        finally:
            gateway.terminate()
            gateway.communicate()


def test_models_come_and_go_while_others_serve_and_a_broken_worker_comes_back(deployment: Deployment) -> None:
    with deployment.host("one") as host:
        assert deployment.telepatch("models", "load", "gpt2-random").returncode == 0
        assert deployment.run("gpt2-random")["state"] == "completed"
        [first] = deployment.copies("gpt2-random")
        assert (first["state"], first["host"], first["number"]) == ("ready", "one", 0)

        told = deployment.telepatch("models", "load", "no-such-model")
        assert told.returncode == 1
        assert "no model card 'no-such-model'" in told.stderr
        assert "gpt2-random" in told.stderr  # what there is
        deployment.telepatch("models", "unload", "no-such-model")

        os.kill(first["pid"], signal.SIGKILL)
        deployment.until(lambda: deployment.copies("gpt2-random")[0]["state"] == "failed")
        assert "SIGKILL" in deployment.copies("gpt2-random")[0]["detail"]
        deployment.until(lambda: deployment.copies("gpt2-random")[0]["state"] == "ready")
        [again] = deployment.copies("gpt2-random")
        assert again["pid"] != first["pid"]
        assert deployment.run("gpt2-random")["state"] == "completed"

        told = deployment.telepatch("models", "unload", "gpt2-random")
        assert told.returncode == 0
        assert "1 workers end once their jobs have" in told.stdout
        deployment.until(lambda: not deployment.copies("gpt2-random"))
        assert not psutil.pid_exists(again["pid"])
        waiting = deployment.run("gpt2-random", wait=0)
        assert waiting["state"] == "queued"
        # the gateway looks at what is served every two seconds
        deployment.until(lambda: "no worker" in str(deployment.run("gpt2-random", wait=0).get("warnings")))
        assert deployment.telepatch("models", "load", "gpt2-random").returncode == 0
        deployment.until(lambda: deployment.http.get(f"/v1/jobs/{waiting['id']}").json()["state"] == "completed")
        [last] = deployment.copies("gpt2-random")
        host.terminate()
        assert host.wait(60) == 0
        assert not psutil.pid_exists(last["pid"])
    records = [json.loads(line) for line in (deployment.folder / "one.log").read_text().splitlines()]
    events = [one["event"] for one in records]
    assert {"host_ready", "model_loaded", "worker_broke", "model_unloaded", "host_ended"} <= set(events)


@pytest.mark.slow
def test_copies_of_a_host_that_dies_go_to_another_one(deployment: Deployment) -> None:
    with deployment.host("one") as one, deployment.host("two"):
        deployment.http.post("/v1/admin/models", json={"id": "gpt2-random", "host": "one"}).raise_for_status()
        deployment.until(lambda: [copy["state"] for copy in deployment.copies("gpt2-random")] == ["ready"])
        assert deployment.copies("gpt2-random")[0]["host"] == "one"
        assert deployment.telepatch("models", "load", "gpt2-random", "--replicas", "2").returncode == 0
        found = deployment.copies("gpt2-random")
        assert sorted(copy["number"] for copy in found) == [0, 1]
        pids = [copy["pid"] for copy in found if copy["host"] == "one"]
        one.kill()
        deployment.until(
            lambda: (
                [(copy["host"], copy["state"]) for copy in deployment.copies("gpt2-random")] == [("two", "ready")] * 2
            )
        )
        assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
        assert deployment.run("gpt2-random")["state"] == "completed"


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_numbers_and_disturbs_nobody(deployment: Deployment) -> None:
    cards = deployment.folder / "models"
    cards.mkdir()
    models = Path(__file__).parents[2] / "models"
    (cards / "gpt2-random.toml").write_text((models / "gpt2-random.toml").read_text())
    huge = (
        (models / "gpt2-random.toml")
        .read_text()
        .replace("gpt2-random", "huge")
        .replace("n_embd = 48", "n_embd = 4800000")
    )
    (cards / "huge.toml").write_text(huge)
    with deployment.host("one", TELEPATCH_MODELS=str(cards)):
        assert deployment.telepatch("models", "load", "gpt2-random").returncode == 0
        told = deployment.telepatch("models", "load", "huge")
        assert told.returncode == 1
        assert "GiB are free" in told.stderr
        assert deployment.copies("gpt2-random")[0]["state"] == "ready"
        assert deployment.run("gpt2-random")["state"] == "completed"


def test_a_host_names_itself_after_the_machine(deployment: Deployment) -> None:
    with deployment.host(socket.gethostname()):
        assert [one["name"] for one in deployment.state()["hosts"]] == [socket.gethostname()]
