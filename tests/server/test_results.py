"""Fetching results, whole, in parts, as JSON, and many at once."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor, decode, encode

Make = Callable[..., dict[str, Any]]


@pytest.fixture(params=[10, 200_000], ids=["inline", "blob"])
def done(request: pytest.FixtureRequest, http: httpx.Client, worker: Any, graph: Make) -> tuple[str, bytes]:
    """The id of a completed job, and the bytes of its result."""
    values = np.arange(request.param, dtype=np.float32)
    worker.behave = lambda job: {"h": Tensor.of(values)}
    [job] = http.post("/v1/jobs?wait=10", json=graph()).json()["jobs"]
    assert job["state"] == "completed"
    return job["id"], encode({"h": Tensor.of(values)})


def test_a_result_comes_whole(http: httpx.Client, done: tuple[str, bytes]) -> None:
    id, data = done
    answer = http.get(f"/v1/jobs/{id}/result")
    assert (answer.status_code, answer.content == data) == (200, True)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert (answer.headers["accept-ranges"], answer.headers["content-length"]) == ("bytes", str(len(data)))
    head = http.head(f"/v1/jobs/{id}/result")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))


@pytest.mark.parametrize(("header", "part"), [("bytes=3-9", slice(3, 10)), ("bytes=20-", slice(20, None))])
def test_a_part_of_a_result_comes_alone(http: httpx.Client, done: tuple[str, bytes], header: str, part: slice) -> None:
    id, data = done
    answer = http.get(f"/v1/jobs/{id}/result", headers={"Range": header})
    assert (answer.status_code, answer.content == data[part]) == (206, True)
    start, stop, _ = part.indices(len(data))
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"


def test_an_interrupted_download_is_resumed_and_one_of_something_else_begins_again(
    http: httpx.Client, done: tuple[str, bytes]
) -> None:
    id, data = done
    path = f"/v1/jobs/{id}/result"
    etag = http.head(path).headers["etag"]
    resumed = http.get(path, headers={"Range": "bytes=50-", "If-Range": etag})
    assert (resumed.status_code, resumed.content == data[50:]) == (206, True)
    assert http.get(path, headers={"Range": "bytes=50-", "If-Range": '"other"'}).status_code == 200
    assert http.get(path, headers={"If-None-Match": etag}).status_code == 304


def test_a_part_behind_the_end_is_refused(http: httpx.Client, done: tuple[str, bytes]) -> None:
    id, data = done
    answer = http.get(f"/v1/jobs/{id}/result", headers={"Range": f"bytes={len(data)}-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(data)}")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        ("application/json", True), ("application/json;q=0.9, */*", True), ("*/*", False),
        ("application/octet-stream, application/json", False), ("text/html", False),
    ],
)  # fmt: skip
def test_the_form_of_a_result_is_what_the_caller_accepts(
    http: httpx.Client, worker: Any, graph: Make, accept: str, json_wanted: bool
) -> None:
    [job] = http.post("/v1/jobs?wait=10", json=graph()).json()["jobs"]
    answer = http.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": accept})
    assert (answer.headers["content-type"] == "application/json") is json_wanted
    assert answer.headers["vary"] == "Accept"


def test_values_as_json_hold_what_json_cannot(http: httpx.Client, worker: Any, graph: Make) -> None:
    worker.behave = lambda job: {
        "h": Tensor.of(np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32)),
        "b": Tensor.of(np.array([True, False])),
        "s": Tensor(np.array(0.5, np.float32), "bfloat16"),
    }
    [job] = http.post("/v1/jobs?wait=10", json=graph()).json()["jobs"]
    answer = http.get(f"/v1/jobs/{job['id']}/result?format=json").json()
    assert answer == {
        "id": job["id"],
        "values": {
            "h": {"dtype": "float32", "shape": [2, 2], "values": [[1.5, "nan"], ["inf", "-inf"]]},
            "b": {"dtype": "bool", "shape": [2], "values": [True, False]},
            "s": {"dtype": "bfloat16", "shape": [], "values": 0.5},
        },
    }


@pytest.mark.parametrize("count", [100_001, 1_000_000])
def test_too_many_numbers_for_json_are_refused_with_what_would_work(
    http: httpx.Client, worker: Any, graph: Make, count: int
) -> None:
    worker.behave = lambda job: {"h": Tensor.of(np.zeros(count, np.float32))}
    [job] = http.post("/v1/jobs?wait=10", json=graph()).json()["jobs"]
    answer = http.get(f"/v1/jobs/{job['id']}/result?format=json")
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert "safetensors" in answer.json()["detail"]


def test_a_result_that_is_not_there_says_why(http: httpx.Client, graph: Make) -> None:
    [job] = http.post("/v1/jobs", json=graph()).json()["jobs"]
    for id, status, code in ((job["id"], 409, "conflict"), (new_job_id(), 404, "not_found")):
        answer = http.get(f"/v1/jobs/{id}/result")
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_the_result_of_a_failed_job_is_its_error(http: httpx.Client, worker: Any, graph: Make) -> None:
    worker.behave = lambda job: ExecutionError("it broke", node="h", file="study.py", line=7)
    [job] = http.post("/v1/jobs?wait=10", json=graph()).json()["jobs"]
    answer = http.get(f"/v1/jobs/{job['id']}/result")
    assert (answer.status_code, answer.json()["code"], answer.json()["line"]) == (409, "execution_error", 7)


def frames(data: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """Headers and contents of an answer of many results."""
    found = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        header = json.loads(data[4 : 4 + length])
        end = 4 + length + header["size"]
        found.append((header, data[4 + length : end]))
        data = data[end:]
    return found


def test_many_results_come_in_one_answer_in_order(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    sizes = iter([3, 200_000, 5])
    worker.behave = lambda job: {"h": Tensor.of(np.ones(next(sizes), np.float32))}
    done = http.post("/v1/jobs?wait=10", json=submit(*[graph()] * 3)).json()["jobs"]
    order = [done[2]["id"], new_job_id(), done[1]["id"], done[0]["id"], done[2]["id"]]
    found = frames(http.post("/v1/results", json={"jobs": order}).content)
    assert [header["id"] for header, _ in found] == order
    assert found[1][0]["error"]["code"] == "not_found"
    counts = [decode(data)["h"].array.size for header, data in found if "error" not in header]
    assert sorted(counts[:3]) == [3, 5, 200_000]
    assert counts[3] == counts[0]
    assert found[0][0]["saves"] == {"h": {"shape": [counts[0]], "dtype": "float32"}}


def test_jobs_that_have_not_ended_are_a_conflict_among_many(http: httpx.Client, graph: Make, submit: Make) -> None:
    [job] = http.post("/v1/jobs", json=submit(graph())).json()["jobs"]
    [(header, data)] = frames(http.post("/v1/results", json={"jobs": [job["id"]]}).content)
    assert (header["error"]["code"], header["size"], data) == ("conflict", 0, b"")


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 422), ({"jobs": []}, 422), ({"jobs": ["no-uuid"]}, 422), ({"jobs": [new_job_id()] * 1001}, 413)],
)
def test_a_request_for_no_results_is_refused(http: httpx.Client, body: Any, status: int) -> None:
    assert http.post("/v1/results", json=body).status_code == status
