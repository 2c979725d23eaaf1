"""Data from the client to the numbers that come back: sent once, skipped, resumed, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch

import telepatch
from telepatch import uploading
from telepatch.lab import Lab
from telepatch_protocol.errors import BadArgument, ConnectionFailed, NotFound

PROMPT = "When Mary and John went to the store"
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    """One connection for all of them."""
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


class Line:
    """A way to the gateway that can be cut, and that counts what passes."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._target = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_after: int | None = None
        self.for_good = False
        self.cuts = self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()
            threading.Thread(target=self._back, args=(far, near), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while data := near.recv(2**16):
                self.passed += len(data)
                far.sendall(data)
                if self.cut_after is not None and self.passed > self.cut_after:
                    self.cut_after, self.cuts = None, self.cuts + 1
                    if self.for_good:
                        self.close()
                    break
        except OSError:
            pass
        for end in (near, far):
            end.close()

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        try:
            while data := far.recv(2**16):
                near.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def line(url: str) -> Iterator[Line]:
    found = Line(url)
    try:
        yield found
    finally:
        found.close()


def test_a_tensor_column_gives_what_the_same_array_gives(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    array = RANDOM.normal(size=(100, 48)).astype(np.float32)
    directions = lab.upload(array)
    data = lab.dataset(x=torch.tensor(array), label=list(range(100)), text=["é"] * 100, ids=[[1], [2, 3]] * 50)
    with model.trace(PROMPT):
        h = model.blocks[2].resid_post[:, -1].save()
        scores = (h @ directions.T).save()
        best = directions[scores.argmax(-1)].save()
        same = (h @ data.x.T).save()
        labels = (data.label * 2).save()
        model.blocks[3].resid_post[:, -1] += data["x"][7]
        moved = model.lm_head.output[:, -1].save()
    with model.trace(PROMPT):
        model.blocks[3].resid_post[:, -1] += array[7]
        wanted = model.lm_head.output[:, -1].save()
    assert np.allclose(scores, h.numpy() @ array.T, atol=1e-4)
    assert np.array_equal(same, scores)
    assert np.array_equal(best[0], array[scores.numpy()[0].argmax()])
    assert np.array_equal(labels, np.arange(100) * 2)
    assert np.allclose(moved, wanted, atol=1e-5)
    assert len(data) == len(directions) == 100
    assert np.array_equal(directions.numpy(), array)
    assert (data.text.rows()[3], data["ids"].rows()[1].tolist()) == ("é", [2, 3])
    assert {one.digest for one in lab.uploads()} >= {data.digest, directions.digest}


def test_a_column_of_ids_is_an_input_of_a_model(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    ids = RANDOM.integers(0, 256, (3, 6))
    sent = lab.upload(ids)
    with model.trace(ids=sent):
        found = model.lm_head.output.save()
    with model.trace(ids=ids):
        wanted = model.lm_head.output.save()
    assert np.allclose(found, wanted, atol=1e-5)


def test_what_the_service_has_is_not_sent_again(service_url: str) -> None:
    array = RANDOM.normal(size=(1000, 1000)).astype(np.float32)
    with line(service_url) as way, telepatch.connect(way.url, progress=False) as lab:
        first = lab.upload(array)
        assert way.passed > array.nbytes
        before = way.passed
        second = lab.upload(array)
        assert way.passed - before < 10_000
        assert first.digest == second.digest
        first.delete()
        lab.upload(array).delete()
        assert way.passed - before > array.nbytes


def test_an_upload_goes_on_where_its_connection_was_cut(service_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "PART", 2**20)
    array = RANDOM.normal(size=(1000, 1200)).astype(np.float32)
    with line(service_url) as way, telepatch.connect(way.url, progress=False) as lab:
        lab.models()
        way.cut_after = way.passed + 3 * 2**20 + 2**19
        sent = lab.upload(array)
        assert way.cuts == 1
        assert way.passed < array.nbytes + 2**20
        assert np.array_equal(sent.numpy(), array)
        sent.delete()


def test_a_cut_that_ends_the_program_leaves_the_rest_to_the_next(
    service_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PART", 2**20)
    array = RANDOM.normal(size=(1000, 1200)).astype(np.float32)
    with line(service_url) as way, telepatch.connect(way.url, progress=False) as lab, monkeypatch.context() as hasty:
        hasty.setattr(uploading, "PATIENT_S", 0.0)
        way.cut_after, way.for_good = 2 * 2**20, True
        with pytest.raises(ConnectionFailed):
            lab.upload(array)
    with line(service_url) as way, telepatch.connect(way.url, progress=False) as lab:
        sent = lab.upload(array)
        assert way.passed < array.nbytes - 2**19
        assert np.array_equal(sent.numpy(), array)
        sent.delete()


async def test_asynchronous_programs_send_data_too(service_url: str) -> None:
    async with telepatch.connect(service_url, progress=False) as lab:
        data, alone = await asyncio.gather(lab.dataset_soon(x=[1, 2, 3], y=["a", "b", "c"]), lab.upload_soon([4, 5]))
        model = lab.model("gpt2-random")
        async with model.trace("a"):
            found = (data.x + 1).save()
            other = (alone + 1).save()
        assert (await found).numpy().tolist() == [2, 3, 4]
        assert (await other).numpy().tolist() == [5, 6]
        await data.delete_soon()
        await alone.delete_soon()
        with pytest.raises(NotFound):
            await data.delete_soon()


def test_jobs_that_were_submitted_get_data_that_is_deleted_at_once(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    data = lab.upload(RANDOM.normal(size=(4, 48)).astype(np.float32))
    wanted = data.numpy()
    kept = []
    for _ in range(10):
        with model.trace(PROMPT):
            kept.append((data * 1).save())
    data.delete()
    for value in kept:
        assert np.array_equal(value, wanted)
    with model.trace(PROMPT):
        late = (data * 1).save()
    with pytest.raises(NotFound, match=data.digest) as caught:
        late.numpy()
    assert caught.value.file == __file__


def test_columns_without_a_shape_are_refused_where_they_are_used(lab: Lab) -> None:
    data = lab.dataset(text=["a", "b"], ids=[[1], [2, 3]])
    with pytest.raises(BadArgument, match="map or fit") as caught, lab.model("gpt2-random").trace(PROMPT):
        _ = data.ids + 1
    assert caught.value.file == __file__


def test_the_readers_of_http_md_upload_with_curl_alone(service_url: str, tmp_path: Path) -> None:
    file = uploading.File.of({"x": np.arange(6.0).reshape(2, 3)})
    httpx.put(f"{service_url}/v1/data/{file.digest}", content=file.data).raise_for_status()
    graph: dict[str, Any] = {
        "protocol": [1, 0],
        "model": {"id": "gpt2-random"},
        "constants": {"d": {"data": file.digest}},
        "nodes": [{"kind": "call", "id": "s", "op": "sum", "args": ["$d", 0]}],
        "saves": {"s": "$s"},
    }
    answer = httpx.post(f"{service_url}/v1/jobs?wait=30", json=graph, timeout=40).json()
    assert answer["jobs"][0]["values"]["s"]["values"] == [3.0, 5.0, 7.0]
