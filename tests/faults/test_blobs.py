"""A blob store that takes nothing more: jobs fail with the reason, nothing half-written is seen, later all goes on."""

from __future__ import annotations

import base64
import resource
from collections.abc import Iterator

import httpx
import numpy as np
import psutil
import pytest
from tests.faults.parts import MODEL, Part, Stack, stack
from tests.faults.people import Document, Person, trace

from telepatch_protocol import tensors
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor

pytestmark = pytest.mark.faults
ROOM = 600_000
"""Bytes of a file for which there is room: some results fit, and others do not."""


@pytest.fixture(scope="module")
def narrow() -> Iterator[Stack]:
    """A service whose parts cannot write large files; what is over the limit is refused in the middle of it."""
    with stack() as made:
        made.gateway(file_bytes=ROOM)
        made.worker(file_bytes=ROOM)
        made.ready()
        yield made


@pytest.fixture
def ada(narrow: Stack) -> Iterator[Person]:
    person = Person(narrow)
    yield person
    person.close()


def all_logits(prompts: int) -> Document:
    """Logits of so many prompts at all of their 250 positions: 257,000 bytes each."""
    invokes = [{"id": f"a{at}", "ids": [1 + at] * 250} for at in range(prompts)]
    nodes = [{"kind": "get", "id": f"l{at}", "site": "lm_head:output", "invoke": f"a{at}"} for at in range(prompts)]
    return {
        "protocol": [1, 0],
        "model": {"id": MODEL},
        "runs": [{"id": "r", "invokes": invokes}],
        "nodes": nodes,
        "saves": {node["id"]: f"${node['id']}" for node in nodes},
    }


def blobs(service: Stack) -> set[str]:
    """Everything in the folder, drafts too."""
    return {path.name for path in (service.home / "blobs").iterdir()}


def make_room(part: Part) -> None:
    psutil.Process(part.pid).rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def take_room(part: Part) -> None:
    psutil.Process(part.pid).rlimit(resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))


def test_a_result_for_which_there_is_no_room_fails_with_the_reason_and_leaves_nothing(
    narrow: Stack, ada: Person
) -> None:
    [fits] = ada.submit(all_logits(2))
    assert ada.ended([fits]) == {fits: "completed"}
    before = blobs(narrow)
    beside, [large] = ada.submit(*[trace([1 + at, 2]) for at in range(5)]), ada.submit(all_logits(4))
    assert ada.ended([large]) == {large: "failed"}
    error = ada.status(large)["error"]
    assert (
        "the result could not be stored: the blob store of this service takes nothing: File too large"
        in error["detail"]
    )
    assert "run-book has 'The blob store is full'" in error["detail"]
    assert set(ada.ended(beside).values()) == {"completed"}
    assert blobs(narrow) == before
    make_room(narrow.workers[0])
    [again] = ada.submit(all_logits(4))
    assert ada.ended([again]) == {again: "completed"}
    assert ada.values(again)["l3"].shape == (1, 250, 257)
    take_room(narrow.workers[0])


def attached(count: int) -> Document:
    """A submission with a tensor of so many numbers, of which the sum is saved."""
    document = trace([1, 2])
    document["constants"] = {"t": {"tensor": "t"}}
    document["nodes"].append({"kind": "call", "id": "s", "op": "sum", "args": ["$t"], "kwargs": {}})
    document["saves"]["s"] = "$s"
    data = tensors.encode({"t": Tensor.of(np.ones(count, np.float32))})
    return {
        "documents": [document],
        "jobs": [{"id": new_job_id(), "document": 0}],
        "attachment": base64.b64encode(data).decode(),
    }


def test_tensors_for_which_there_is_no_room_are_refused_with_the_reason(narrow: Stack, ada: Person) -> None:
    before = blobs(narrow)
    body = attached(400_000)
    refused = httpx.post(f"{narrow.url}/v1/jobs", json=body, timeout=60)
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert "the blob store of this service takes nothing: File too large" in refused.json()["detail"]
    assert refused.headers["retry-after"]
    assert blobs(narrow) == before
    id = body["jobs"][0]["id"]
    assert ada.ask("GET", f"/v1/jobs/{id}").status_code == 404
    make_room(narrow.gateways[0])
    assert ada.ask("POST", "/v1/jobs", json=body).status_code == 202
    assert ada.ended([id]) == {id: "completed"}
    assert float(ada.values(id)["s"]) == 400_000.0
