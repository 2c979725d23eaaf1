"""Documents with sub-graphs at the door: what lies inside them is tokenised, found and checked like all else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor, encode

Make = Callable[..., dict[str, Any]]


def over(words: Any, form: str = "text", index: int = -1, **more: Any) -> dict[str, Any]:
    """A map that reads one position of each prompt."""
    read = {"kind": "get", "id": "z", "site": "blocks.0:resid_post", "invoke": "x", "index": [":", index]}
    body = {"runs": [{"id": "rr", "invokes": [{"id": "x", form: "$p"}]}], "nodes": [read], "out": {"z": "$z"}}
    return {"kind": "map", "id": "m", "over": {"p": words}, "body": body, **more}


def whole(*nodes: dict[str, Any], saves: str = "$m.z", **constants: Any) -> dict[str, Any]:
    lines = {node["id"]: f"study.py:{at + 3}" for at, node in enumerate(nodes)} | {"z": "study.py:9"}
    return {
        "protocol": [1, 0],
        "model": {"id": "tiny"},
        "nodes": list(nodes),
        "saves": {"v": saves},
        "constants": constants,
        "lines": lines,
    }


def answer(
    http: httpx.Client, *documents: dict[str, Any], data: bytes | None = None, ids: list[str] | None = None
) -> Any:
    jobs = [{"id": id, "document": at} for at, id in enumerate(ids or [new_job_id() for _ in documents])]
    body = {"documents": list(documents), "jobs": jobs}
    if data is None:
        found = http.post("/v1/jobs", json=body)
    else:
        found = http.post("/v1/jobs", files={"submission": (None, json.dumps(body)), "attachment": ("a", data)})
    return found.json()["jobs"]


def refused(http: httpx.Client, document: dict[str, Any]) -> dict[str, Any]:
    [job] = answer(http, document)
    error: dict[str, Any] = job["error"]
    return error


def test_texts_of_every_element_are_tokenised_and_their_lengths_are_known(http: httpx.Client):
    [job] = answer(http, whole(over(["ab", "cde", "f"], reduce={"z": "stack"})))
    assert "error" not in job or job["error"] is None
    assert job["price"]["tokens"] == 6


def test_texts_of_maps_side_by_side_are_tokenised_though_they_are_called_alike(http: httpx.Client):
    second = json.loads(json.dumps(over(["x" * 65])).replace('"z"', '"y"').replace("$z", "$y").replace('"x"', '"w"'))
    error = refused(http, whole(over(["ab"]), second | {"id": "n"}))
    assert (error["code"], "65 tokens" in error["detail"]) == ("shape_error", True)


def test_an_index_past_the_end_of_the_shortest_element_is_refused_with_it_at_the_authors_line(http: httpx.Client):
    error = refused(http, whole(over(["abcd", "ab", "abc"], index=2)))
    assert (error["code"], error["node"], error["line"]) == ("index_out_of_range", "z", 9)
    assert error["within"] == [
        {"kind": "map", "node": "m", "element": 1, "bound": {"p": "'ab'"}, "place": "study.py:3"}
    ]
    assert "error" not in answer(http, whole(over(["abcd", "ab", "abc"], index=1)))[0]


def test_ids_of_every_element_are_held_against_the_vocabulary(http: httpx.Client):
    error = refused(http, whole(over([[1, 2], [3, 999]], "ids")))
    assert (error["code"], "999" in error["detail"]) == ("index_out_of_range", True)


def test_attached_tensors_inside_sub_graphs_are_found(http: httpx.Client):
    node = {"kind": "call", "id": "c", "op": "add", "args": [{"tensor": "t"}, "$k"]}
    body = {"nodes": [node], "out": {"z": "$c"}}
    each = {"kind": "map", "id": "m", "over": {"k": [1, 2]}, "body": body}
    error = refused(http, whole(each))
    assert (error["code"], "'t'" in error["detail"]) == ("unknown_name", True)
    data = encode({"t": Tensor.of(np.ones((3,), np.float32))})
    [job] = answer(http, whole(each), data=data)
    assert job["saves"]["v"]["shape"] == [2, 3]


def test_results_of_other_jobs_inside_sub_graphs_are_found_and_waited_for(http: httpx.Client):
    first, second = new_job_id(), new_job_id()
    node = {"kind": "call", "id": "c", "op": "mul", "args": [{"result": first, "name": "v"}, "$k"]}
    each = {"kind": "map", "id": "m", "over": {"k": [1, 2]}, "body": {"nodes": [node], "out": {"z": "$c"}}}
    jobs = answer(http, whole(over(["ab", "cd"])), whole(each), ids=[first, second])
    assert jobs[1]["saves"]["v"]["shape"] == [2, *jobs[0]["saves"]["v"]["shape"]]
    lost = {**node, "args": [{"result": first, "name": "nothing"}, "$k"]}
    error = refused(http, whole({**each, "body": {"nodes": [lost], "out": {"z": "$c"}}}))
    assert error["code"] == "unknown_name"


@pytest.mark.parametrize("depth", [2, 3])
def test_loops_in_loops_that_never_end_are_refused_before_they_are_queued(http: httpx.Client, depth: int):
    body: dict[str, Any] = {"nodes": [{"kind": "call", "id": "n", "op": "neg", "args": [1.0]}], "out": {"n": "$n"}}
    for level in range(depth):
        carry = {f"y{level}": 0.0}
        out = {f"y{level}": 0.0}
        node = {"kind": "repeat", "id": f"r{level}", "n": 100_000, "carry": carry, "body": {**body, "out": out}}
        body = {"nodes": [node]}
    error = refused(http, whole(*body["nodes"], saves=f"$r{depth - 1}.y{depth - 1}"))
    assert (error["code"], "as often as maps and repeats do" in error["detail"]) == ("too_large", True)
