"""``telepatch top`` against a real service."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

import httpx
import pytest

from telepatch.cli import exits
from telepatch.cli.app import run

GRAPH = {
    "protocol": [1, 0],
    "model": {"id": "gpt2-random"},
    "runs": [{"id": "run", "invokes": [{"id": "prompt", "text": "hello"}]}],
    "nodes": [{"kind": "get", "id": "last", "site": "lm_head:output", "invoke": "prompt", "index": [":", -1]}],
    "saves": {"logits": "$last"},
}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that nothing is cut in."""
    for name, value in {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)


def test_one_frame_shows_models_workers_jobs_and_batches(service_url: str, capsys: pytest.CaptureFixture[str]):
    ending = threading.Event()

    def work() -> None:
        while not ending.is_set():
            httpx.post(f"{service_url}/v1/jobs?wait=10", json=GRAPH, timeout=60)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        time.sleep(3)  # a worker tells its numbers every two seconds
        assert run(["top", "--url", service_url, "--once", "--every", "3"]) == exits.OK
    finally:
        ending.set()
        thread.join(60)
    said = capsys.readouterr().out
    assert service_url in said
    assert re.search(r"Redis \d+\.\d MiB, journal ok; disk \d+\.\d \wiB free", said)
    [row] = [line for line in said.splitlines() if "gpt2-random" in line]
    cells = [cell.strip() for cell in re.split("[│|]", row)[1:-1]]
    assert re.fullmatch(r"1 (busy|idle)", cells[1])
    assert float(cells[6]) > 0
    assert float(cells[8]) >= 1
    assert float(cells[10]) >= 5
    assert all(model in said for model in ("llama-random", "bert-random", "vit-digits", "mlp-digits"))


def test_it_goes_on_until_it_is_ended(service_url: str):
    command = [sys.executable, "-P", "-m", "telepatch", "top", "--url", service_url, "--every", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(8)
    assert process.poll() is None
    process.send_signal(2)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == exits.INTERRUPTED
    assert "gpt2-random" in out


def test_a_service_that_is_not_there_ends_it_with_its_address(capsys: pytest.CaptureFixture[str]):
    assert run(["top", "--url", "http://127.0.0.1:9", "--once"]) == exits.UNREACHABLE
    assert "http://127.0.0.1:9" in capsys.readouterr().err
