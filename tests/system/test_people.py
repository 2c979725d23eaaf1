"""People at a whole service with two gateways: keys from the command line, limits, and accounts of real workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import telepatch
from telepatch_broker.launcher import running_valkey

Served = Callable[[Path, Sequence[str]], AbstractContextManager[str]]
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("TELEPATCH_")}


def tell(home: Path, *words: str) -> str:
    """What a command about people prints."""
    command = [sys.executable, "-m", "telepatch", *words, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=PLAIN, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("people")


@pytest.fixture(scope="module")
def ada(home: Path) -> str:
    """A key that was made before the service was ever started."""
    return tell(home, "keys", "add", "ada")


@pytest.fixture(scope="module")
def urls(home: Path, ada: str, served: Served) -> Iterator[tuple[str, str]]:
    """The gateway of the service, and another one beside it."""
    with served(home, ["gpt2-random"]) as url:
        queue = running_valkey(home / "valkey")
        assert queue is not None
        options = ["--redis-url", queue, "--blobs", str(home / "blobs"), "--port", "0", "--host", "0.0.0.0"]
        command = [sys.executable, "-m", "telepatch", "gateway", *options]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=PLAIN)
        try:
            assert other.stdout is not None
            match = re.search(r":(\d+)$", other.stdout.readline().strip())
            assert match is not None
            yield url, f"http://127.0.0.1:{match[1]}"
        finally:
            other.send_signal(signal.SIGTERM)
            other.communicate(timeout=60)


def status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/me", headers={"Authorization": f"Bearer {key}"}, timeout=60).status_code


def traces(lab: Any, number: int) -> list[Any]:
    """Values of a naive loop."""
    model, values = lab.model("gpt2-random"), []
    for at in range(number):
        with model.trace(f"number {at}"):
            values.append(model.blocks[1].resid_post[:, -1].save())
    return values


def test_a_service_that_had_a_key_before_it_started_asks_for_one_and_the_key_is_good(
    urls: tuple[str, str], ada: str
) -> None:
    for url in urls:
        assert httpx.get(f"{url}/v1/me", timeout=60).status_code == 401
        assert status(url, ada) == 200


def test_a_key_that_is_rotated_or_removed_is_worthless_at_once_at_both_gateways(
    urls: tuple[str, str], home: Path
) -> None:
    first = tell(home, "keys", "add", "bob")
    second = tell(home, "keys", "rotate", "bob", "--grace", "1h")
    third = tell(
        home, "keys", "rotate", "bob", "--id", json.loads(tell(home, "keys", "list", "bob", "--json"))[1]["id"]
    )
    assert [[status(url, key) for key in (first, second, third)] for url in urls] == [[200, 401, 200]] * 2
    tell(home, "keys", "remove", "bob")
    assert [[status(url, key) for key in (first, second, third)] for url in urls] == [[401, 401, 401]] * 2


def test_accounts_of_traces_and_of_a_fit_come_to_no_more_than_the_worker_did(
    urls: tuple[str, str], home: Path, ada: str
) -> None:
    begun = time.monotonic()
    with telepatch.connect(urls[0], ada, progress=False) as lab:
        shapes = [array.shape for array in telepatch.gather(traces(lab, 40))]
        model = lab.model("gpt2-random")
        data = lab.dataset(ids=np.arange(12).reshape(4, 3), label=np.array([0, 1, 0, 1]))
        with model.fit(data, batch_size=2, epochs=3, optimiser=telepatch.Adam(lr=0.01)) as f:
            w = f.param("w", telepatch.zeros(shapes[0][-1], 2))
            with f.invoke(ids=f.row.ids):
                z = (model.blocks[1].resid_post[0, -1] @ w)[None]
            f.loss(telepatch.cross_entropy(z, f.row.label[None]))
        assert f.w.numpy().shape == (shapes[0][-1], 2)
    passed = time.monotonic() - begun
    [day] = json.loads(tell(home, "usage", "ada", "--json"))[-1:]
    assert day["jobs"] == 41
    assert 0 < day["seconds"] <= passed
    assert day["bytes"] >= 40 * 4 * shapes[0][-1]
    me = httpx.get(f"{urls[1]}/v1/me", headers={"Authorization": f"Bearer {ada}"}, timeout=60).json()
    assert (me["has"]["jobs_queued"], me["has"]["promised"], me["has"]["results"]) == (0, 0, day["bytes"])
    assert me["usage"][-1]["seconds"] == day["seconds"]


def test_a_loop_at_the_limit_of_requests_and_of_jobs_goes_on_by_itself(urls: tuple[str, str], home: Path) -> None:
    key = tell(home, "keys", "add", "carl")
    tell(home, "limits", "carl", "--requests-per-minute", "90", "--jobs-queued", "8")
    while status(urls[1], key) == 200:
        pass
    with telepatch.connect(urls[1], key, progress=False) as lab:
        with pytest.warns(telepatch.SlowedDown) as caught:
            found = telepatch.gather(traces(lab, 30))
        assert len(found) == 30
    assert len(caught) == 1
    tell(home, "keys", "remove", "carl")
